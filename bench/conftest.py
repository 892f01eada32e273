"""The benchmarks' options, and their tables at the end of the run."""

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
    group.addoption("--quick", action="store_true", help="a smaller case in under a minute; writes nothing")
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
    """Prints a line at once, although pytest captures output: a benchmark can take minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def print_now(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, flush=True)

    print_now("")
    return print_now


@pytest.fixture(scope="session")
def publish(request: pytest.FixtureRequest) -> Callable[[str, str, Any], Path | None]:
    """Called with name, Markdown and record: has the Markdown printed when all tests are done, and writes
    NAME.md and NAME.json, those of a quick run only where a folder is named. Returns the folder, if any."""
    config = request.config

    def publish(name: str, markdown: str, record: Any) -> Path | None:
        config.stash[REPORTS].append(Report(name, markdown))
        folder = config.getoption("results") or (None if config.getoption("quick") else RESULTS)
        if folder is not None:
            harness.write_results(folder, name, record, markdown)
        return folder

    return publish
