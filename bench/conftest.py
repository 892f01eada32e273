"""The options of the benchmarks, and their pages printed at the end of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared import harness
from shared.checkout import RESULTS
from shared.harness import Report

REPORTS = pytest.StashKey[list[Report]]()


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpt2c benchmarks")
    group.addoption("--quick", action="store_true", help="a small case in about a minute; writes nothing")
    group.addoption("--rounds", type=_at_least_one, metavar="N", help="how often each row is measured")
    group.addoption("--results", type=Path, metavar="DIR", help="write there (default: bench/results)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORTS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for report in config.stash[REPORTS]:
        terminalreporter.section(report.title)
        terminalreporter.write_line(report.text)


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that prints a line at once although pytest captures output: a benchmark can take minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def print_now(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, flush=True)

    print_now("")
    return print_now


@pytest.fixture(scope="session")
def publish(request: pytest.FixtureRequest) -> Callable[[str, str, Any], Path | None]:
    """A function of name, Markdown and record. It has the Markdown printed after all tests and writes NAME.md
    and NAME.json; a quick run writes only if --results names a folder. It returns the folder, or None."""
    config = request.config

    def publish(name: str, markdown: str, record: Any) -> Path | None:
        config.stash[REPORTS].append(Report(name, markdown))
        folder = config.getoption("results") or (None if config.getoption("quick") else RESULTS)
        if folder is not None:
            harness.write_results(folder, name, record, markdown)
        return folder

    return publish
