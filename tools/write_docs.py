"""Write README.md and some pages of docs/ from their templates, docs/*.in.md.

    python tools/write_docs.py

Figures come from bench/results/*.json, lists from the registries of options, settings, backends and
subcommands, so nothing in these pages is typed twice. In a template, {{name argument ...}} stands for what
the function of that name in FILLERS returns. The script is in tools/ because it measures nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpt2c.backends import LIBRARIES, PRESETS  # noqa: E402
from gpt2c.cli.main import COMMANDS  # noqa: E402
from gpt2c.generation.settings import SETTINGS  # noqa: E402
from gpt2c.options import OPTIONS  # noqa: E402

RESULTS = ROOT / "bench" / "results"
PAGES = {
    "README": "README.md",
    "options": "docs/options.md",
    "command_line": "docs/command_line.md",
    "generation": "docs/generation.md",
}
"""Template docs/<name>.in.md -> page."""

ENGINES = {
    "ctranslate2": "CTranslate2",
    "llamacpp": "llama.cpp",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch-compile": "torch.compile",
}
TASKS = {
    "decode": "one more token",
    "prefill": "a prompt of 512 tokens",
    "batch32": "32 texts at once, per token",
}
WEIGHTS = {
    "f32": "float32",
    "bf16": "16 bits",
    "q8": "8 bits",
    "q4": "4 bits",
    "q4-kv16": "4 bits, K and V in 16",
}

Record = dict[str, Any]


def read_records() -> dict[str, Record]:
    """The records that pages quote, by name."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("engines", "ladder")}


def render(template: str, records: dict[str, Record]) -> str:
    """The page. ValueError: a placeholder names no filler, or has the wrong number of arguments."""

    def fill(found: re.Match[str]) -> str:
        name, *arguments = found[1].split()
        try:
            return FILLERS[name](records, *arguments)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{found[0]}: {error!r}") from None

    return re.sub(r"\{\{([^}]*)\}\}", fill, template)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are flush left."""
    marks = ["---" if n < left else "---:" for n in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


# ---- Figures: bench/results/engines.json and ladder.json ----


def wins(records: dict[str, Record]) -> str:
    """How many comparisons with other engines gpt2c wins, of how many."""
    ratios = [row["a_over_b"] for row in records["engines"]["times"]]
    won = sum(ratio < 1 for ratio in ratios)
    return f"all {won}" if won == len(ratios) else f"{won} of {len(ratios)}"


def speeds(records: dict[str, Record]) -> str:
    """Times on two threads: one token for every format, and the other tasks with float32."""
    rows = [
        (
            TASKS[row["what"]],
            WEIGHTS[row["ours"]],
            f"{_ms(row['a_ms'])} ms",
            f"{_ms(row['b_ms'])} ms, {ENGINES[row['theirs'].partition(':')[0]]}",
            f"{1 / row['a_over_b']:.2f}",
        )
        for row in records["engines"]["times"]
        if row["threads"] == 2
        and (row["what"] == "decode" or (row["what"] in TASKS and row["ours"] == "f32"))
    ]
    return table(("task", "weights", "gpt2c", "the fastest other engine", "times as fast"), rows, left=2)


def machine(records: dict[str, Record], name: str) -> str:
    """The machine that a record was made on, and when."""
    origin = records[name].get("origin", records[name])
    about = origin["machine"]
    return f"{about['cpu']}, {about['usable_cores']} cores, {origin['date'].partition(' ')[0]}"


def step_ms(records: dict[str, Record], model: str, name: str) -> str:
    """Milliseconds per token of a step of the ladder; "fastest" is the fastest."""
    step = _step(records, model, name)
    return f"{_ms(step['ms']['median'])} ms"


def step_ratio(records: dict[str, Record], model: str, name: str) -> str:
    """How many times as fast a step of the ladder is as its first one."""
    return f"{_step(records, model, name)['ratio']:,.0f}"


def _step(records: dict[str, Record], model: str, name: str) -> Record:
    figures = records["ladder"]["models"][model]
    wanted = figures["fastest"] if name == "fastest" else name
    found: Record = next(step for step in figures["rungs"] if step["name"] == wanted)
    return found


def _ms(ms: float) -> str:
    """Three significant digits."""
    return f"{ms:.0f}" if ms >= 100 else f"{ms:#.3g}"


# ---- Lists: the registries of the package ----


def options(records: dict[str, Record]) -> str:
    """A row for each option."""
    rows = [
        (
            f"`{option.name}{f'[={option.value}]' if option.value else ''}`",
            option.on,
            option.off,
            _code(option.needs),
            _code(option.replaces),
            "yes" if option.in_all else "",
        )
        for option in OPTIONS
    ]
    return table(("option", "on", "off", "adds", "replaces", "in `all`"), rows, left=6)


def settings(records: dict[str, Record]) -> str:
    """The settings of a generation, with default and meaning."""
    rows = [(f"`{name}`", f"`{row.default!r}`", row.meaning) for name, row in SETTINGS.items()]
    return table(("setting", "default", "meaning"), rows, left=3)


def presets(records: dict[str, Record]) -> str:
    """A row for each preset of the C core's options."""
    rows = [(f"`{name}`", ",".join(opts) or "none") for name, opts in PRESETS.items()]
    return table(("backend", "the same as `--opts`"), rows, left=2)


def libraries(records: dict[str, Record]) -> str:
    """A row for each backend on top of a library."""
    rows = [
        (
            f"`{name}`",
            ", ".join(library.packages) or "NumPy alone",
            f"`{library.extra}`" * bool(library.extra),
        )
        for name, library in LIBRARIES.items()
    ]
    return table(("backend", "computes with", "extra"), rows, left=3)


def commands(records: dict[str, Record]) -> str:
    """A row for each subcommand."""
    return table(("command", ""), [(f"`gpt2c {name}`", c.HELP) for name, c in COMMANDS.items()], left=2)


def flags(records: dict[str, Record], command: str, *groups: str) -> str:
    """A row for each argument of a subcommand: of the groups named, else all that `run` does not have."""
    known = set() if groups else {row for _, row in _arguments("run")}
    rows = [row for group, row in _arguments(command) if (group in groups if groups else row not in known)]
    if not rows:
        raise KeyError(f"{command} has no such arguments")
    return table(("flag", "meaning"), rows, left=2)


def _arguments(command: str) -> Iterable[tuple[str | None, tuple[str, str]]]:
    """(title of its group, (name and value, meaning)) of each argument of a subcommand."""
    parser = argparse.ArgumentParser(add_help=False)
    COMMANDS[command].add_arguments(parser)
    for group in parser._action_groups:
        for action in group._group_actions:
            yield group.title, (_names(action), (action.help or "").replace("|", "\\|"))


def _names(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = f" {action.metavar}" if action.option_strings and action.metavar else ""
    return f"`{name}{value}`"


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


FILLERS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        wins,
        speeds,
        machine,
        step_ms,
        step_ratio,
        options,
        presets,
        settings,
        libraries,
        commands,
        flags,
    )
}


def pages() -> dict[str, str]:
    """Each page's path under the root, and its text."""
    records = read_records()
    return {
        page: render((ROOT / "docs" / f"{name}.in.md").read_text(encoding="utf-8"), records)
        for name, page in PAGES.items()
    }


def main() -> int:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    for page, text in pages().items():
        (ROOT / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
