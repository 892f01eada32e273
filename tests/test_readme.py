"""README.md and docs/: pages are what their command writes, and what they show exists and works."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpt2c.cli.arguments import add_quiet_argument
from gpt2c.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import write_docs  # noqa: E402

README = (ROOT / "README.md").read_text()
FOLDERS = ("docs", "bench", "gpt2c", "include", "native", "tests", "tools")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md")))
    if not page.name.endswith(".in.md")
)
GUIDES = [page for page in PAGES if not page.startswith("bench/") and page != "CHANGELOG.md"]
"""Pages that describe what is there now; the others also record what was."""


# ---- Pages are what the command writes ----


@pytest.mark.parametrize("page", write_docs.PAGES.values())
def test_a_committed_page_is_what_the_command_writes(page: str) -> None:
    assert (ROOT / page).read_text() == write_docs.pages()[page], "run: python tools/write_docs.py"


def test_another_record_gives_another_readme() -> None:
    records = json.loads(json.dumps(write_docs.read_records()))
    records["engines"]["times"][0].update(a_ms=123456.0, a_over_b=2.0)
    text = write_docs.render((ROOT / "docs/README.in.md").read_text(), records)
    assert "123456 ms" in text
    n = len(records["engines"]["times"])
    assert f"{n - 1} of {n} recorded comparisons" in text


def test_no_figure_is_typed() -> None:
    text = re.sub(r"\{\{[^}]*\}\}", "", (ROOT / "docs/README.in.md").read_text())
    assert re.findall(r"\b\d[\d.,]*\s*(?:ms\b|us\b|MB\b|GB\b|x\b|%|times\b)", text) == []


@pytest.mark.parametrize("placeholder", ["{{nothing}}", "{{step_ms embedded}}", "{{flags run nothing}}"])
def test_a_wrong_placeholder_is_an_error(placeholder: str) -> None:
    with pytest.raises(ValueError, match=r"nothing|step_ms"):
        write_docs.render(placeholder, write_docs.read_records())


# ---- What the README shows is what happens ----


def test_the_first_command_prints_the_text_that_the_readme_shows() -> None:
    assert _code(README)[0].endswith("/python -m gpt2c.run")
    [shown] = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    run = [sys.executable, "-m", "gpt2c.run"]
    assert subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout == shown


def test_the_text_is_the_same_with_the_options_that_the_readme_tries() -> None:
    [shown] = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    commands = [line for line in _code(README) if "--opts" in line]
    assert len(commands) == 2
    for command in commands:
        run = [sys.executable, "-m", "gpt2c", *shlex.split(command)[1:]]
        assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == shown


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert "(8192,)" in lines[-1] and "'kv': " in lines[-1]


# ---- Links, paths and commands exist ----


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose((ROOT / page).read_text())):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", _prose(file.read_text()), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", GUIDES)
def test_every_path_in_backticks_exists(page: str) -> None:
    for span in re.findall(r"`([^`\s]+)`", _prose((ROOT / page).read_text())):
        if span.partition("/")[0] in FOLDERS and "/" in span and not set(span) & set("<>*"):
            assert (ROOT / span).exists(), span


@pytest.mark.parametrize("page", GUIDES)
def test_every_command_exists(page: str) -> None:
    for command in _commands((ROOT / page).read_text()):
        _check(command)


def test_every_line_of_code_in_the_readme_is_a_command() -> None:
    n_commands = sum(line.count("&&") + 1 for line in _code(README))
    assert len(list(_commands(README))) == n_commands > 5


@pytest.mark.parametrize(
    "command",
    [
        "gpt2c nothing",
        "gpt2c run --nothing",
        "gpt2c score",
        "python tools/nothing.py",
        "python tools/fuzz.py --nothing",
        "python -m pytest tests/nothing.py",
        "python -m gpt2c.nothing",
        "pip install '.[nothing]'",
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    with pytest.raises(AssertionError):
        _check(shlex.split(command))


def _prose(page: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$|^ {4}.*?$", "", page, flags=re.DOTALL | re.MULTILINE)


def _code(page: str) -> list[str]:
    """The lines of indented code, continued ones joined."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", page)
    return [line.strip() for b in blocks for line in b.replace("\\\n", " ").splitlines() if line.strip()]


def _commands(page: str) -> Iterator[list[str]]:
    """The words of each command of a page that is Python, pip or gpt2c."""
    for line in _code(page):
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=\S+", words[0]):  # environment
                words.pop(0)
            words[:1] = [word.removeprefix(".venv/bin/") for word in words[:1]]
            if words and words[0] in ("python", "python3", "pip", "gpt2c", "."):
                yield words


def _check(words: list[str]) -> None:
    """AssertionError: the command, a file or a flag of it does not exist."""
    match words:
        case (
            ["python3", "-m", "venv", ".venv"]
            | [".", ".venv/bin/activate"]
            | ["python", "setup.py", "build_ext", "--inplace"]
        ):
            pass
        case ["pip", "install", *arguments]:
            extras = {e for a in arguments for e in re.sub(r"^\.|[\[\]]", "", a).split(",")} - {"", "-e"}
            declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
            assert extras <= set(re.findall(r"^(\w+) = \[", declared.partition("\n[")[0], re.MULTILINE))
        case ["python", "-m", "gpt2c.run", *arguments]:
            _parse("run", arguments)
        case ["gpt2c", "--version" | "--help"]:
            pass
        case ["gpt2c", command, *arguments]:
            _parse(command, arguments)
        case ["python", "-m", "pytest", *arguments]:
            paths = [a for a in arguments if "/" in a]
            assert all((ROOT / path).exists() for path in paths)
        case ["python", "-m", module, *_]:
            assert find_spec(module)
        case ["python", script, *arguments]:
            assert (ROOT / script).exists()
            source = (ROOT / script).read_text()
            assert all(f'"{a}"' in source for a in arguments if a.startswith("--"))
        case _:
            raise AssertionError(words)


def _parse(command: str, arguments: list[str]) -> None:
    assert command in COMMANDS
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    add_quiet_argument(parser)
    try:
        parser.parse_args(arguments)
    except SystemExit as end:
        assert not end.code, arguments
