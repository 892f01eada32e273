"""What all benchmarks share: a description of the machine, interleaved timing, tables and files.

Nothing here depends on gpt2c.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# ---- Where and when ----


@dataclass(frozen=True)
class Machine:
    """The machine that measured. cores: all of its cores; usable_cores: those that this process may use.

    load_average: over the minute before. Above about 0.5, something else was running.
    """

    cpu: str
    cores: int
    usable_cores: int
    system: str
    python: str
    load_average: float

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores ({self.usable_cores} usable), {self.system}, "
            f"Python {self.python}, load average {self.load_average:.2f} at the start"
        )


def this_machine() -> Machine:
    cores = os.cpu_count() or 1
    return Machine(
        cpu=_cpu_name(Path("/proc/cpuinfo")),
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2),
    )


def _cpu_name(cpuinfo: Path) -> str:
    """The CPU's name with family and model number, since one name like "AMD EPYC" covers many CPUs."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    if "model name" not in fields:  # as on aarch64
        return platform.processor() or platform.machine()
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{fields['model name']} ({', '.join(numbers)})" if numbers else fields["model name"]


def now() -> str:
    """The time in UTC, to the minute."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def commit(folder: Path) -> str:
    """The checked-out commit of `folder`, followed by "-dirty" if files differ; "unknown" without git."""
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = done.stdout.splitlines()
    ids = [line.split()[-1][:10] for line in lines if line.startswith("# branch.oid ")]
    dirty = any(not line.startswith("#") for line in lines)
    return ids[0] + "-dirty" * dirty if ids else "unknown"


@dataclass(frozen=True)
class Origin:
    """Where measurements come from: part of every record, and the first remarks of every page."""

    command: str
    date: str
    commit: str
    machine: Machine

    @staticmethod
    def here(arguments: Iterable[str], folder: Path, program: str = "python -m pytest") -> Origin:
        """The origin of a benchmark that starts now: `program arguments`. folder: any in the checkout."""
        command = " ".join([program, *arguments])
        return Origin(command, now(), commit(folder), this_machine())

    def lines(self) -> tuple[str, str]:
        made = f"Made by `{self.command}` at {self.commit}, {self.date}."
        return made, f"Machine: {self.machine}."


# ---- Timing ----


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of measurements, in the unit of the measurements."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        found = sorted(values)
        return Spread(statistics.median(found), found[0], found[-1])

    def overlaps(self, other: Spread) -> bool:
        """Whether the two ranges share a value, so that their order may be chance."""
        return self.min <= other.max and other.min <= self.max


@dataclass(frozen=True)
class Samples(Generic[T]):
    """The rounds of a callable: seconds of each, CPU seconds of this process in each, and what each returned.

    With one thread, cpu_seconds well below seconds means that other processes used the core.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    results: tuple[T, ...]


def joined(several: Iterable[Samples[T]]) -> Samples[T]:
    """Merge the rounds of the same work that was measured under several names."""
    parts = list(several)
    return Samples(
        tuple(x for part in parts for x in part.seconds),
        tuple(x for part in parts for x in part.cpu_seconds),
        tuple(x for part in parts for x in part.results),
    )


Setup = Callable[[], contextlib.AbstractContextManager[Callable[[], T]]]
"""A function whose context sets up what is timed, and yields it."""


def interleaved(
    calls: Mapping[str, Callable[[], T]],
    rounds: int | Mapping[str, int],
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Samples[T]]:
    """Time callables alternately, A B C A B C, so that a slow minute of the machine affects all of them.

    rounds: for all callables, or for each by its name; a callable with fewer rounds skips the last ones.
    progress: called with a line after each call.
    """

    def without_setup(
        call: Callable[[], T],
    ) -> Callable[[], contextlib.AbstractContextManager[Callable[[], T]]]:
        return lambda: contextlib.nullcontext(call)

    ready = {name: without_setup(call) for name, call in calls.items()}
    return interleaved_in(ready, rounds, progress)


def interleaved_in(
    calls: Mapping[str, Setup[T]],
    rounds: int | Mapping[str, int],
    progress: Callable[[str], None] = lambda line: None,
    seconds: float = math.inf,
) -> dict[str, Samples[T]]:
    """Like `interleaved`, for callables that need a setup, which is not timed.

    seconds: a callable skips a round that would bring its total time past this, by the mean of its rounds.
    """
    wanted = dict.fromkeys(calls, rounds) if isinstance(rounds, int) else rounds
    max_rounds = max(wanted.values(), default=0)
    taken: dict[str, list[tuple[float, float, T]]] = {name: [] for name in calls}
    for n in range(1, max_rounds + 1):
        for name, call in calls.items():
            spent = sum(took for took, _, _ in taken[name])
            if n > wanted[name] or spent * n > seconds * max(1, n - 1):
                continue
            with call() as timed:
                cpu_began, began = process_time(), perf_counter()
                result = timed()
                took, cpu_took = perf_counter() - began, process_time() - cpu_began
            taken[name].append((took, cpu_took, result))
            progress(f"round {n} of {max_rounds}: {took:7.2f} s  {name}")
    return {name: Samples(*zip(*rows, strict=True)) for name, rows in taken.items()}


def cpu_share(samples: Iterable[Samples[Any]]) -> float:
    """CPU time divided by wall time, over all rounds of all callables."""
    chosen = list(samples)
    return sum(sum(s.cpu_seconds) for s in chosen) / sum(sum(s.seconds) for s in chosen)


QUIET = 0.95
"""Below this share of a core, times are not to be quoted."""


def on_cpu_share(samples: Iterable[Samples[Any]]) -> str:
    """Say whether the machine was quiet, in a sentence or two."""
    share = cpu_share(samples)
    verdict = "" if share >= QUIET else " The machine was busy: do not quote these times."
    return f"While it was measured, the process used {share:.0%} of a core.{verdict}"


class ReplayClock:
    """Gives finished measurements to pytest-benchmark.

    The plugin times the rounds of one test after another, which would measure row by row. So a benchmark
    that interleaves measures first, marks its tests with `pytest.mark.benchmark(timer=clock)`, and each test
    calls `clock.replay(benchmark, seconds)`.
    """

    __name__ = "replay of interleaved rounds"  # as the plugin reports its timer

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def replay(self, benchmark: Any, seconds: Sequence[float]) -> None:
        """Make these the rounds of a test's `benchmark` fixture."""
        left = iter(seconds)

        def reset() -> None:  # with a growing clock, differences would be rounded
            self._now = 0.0

        def advance() -> None:
            self._now = next(left)

        benchmark.pedantic(advance, setup=reset, rounds=len(seconds))


# ---- Output ----


@dataclass(frozen=True)
class Report:
    """A page that bench/conftest.py prints after all tests."""

    title: str
    text: str


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table that also reads as plain text. The first `left` columns are flush left."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[c]) for row in cells)) for c in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if c < left else text.rjust(width)
            for c, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if c < left else "-" * (width - 1) + ":" for c, width in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def bullets(paragraphs: Iterable[str], width: int = 110) -> str:
    """A Markdown list, wrapped so that it reads well as text."""
    wrap = textwrap.TextWrapper(
        width, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrap.fill(paragraph) for paragraph in paragraphs)


def write_atomic(path: Path, text: str) -> None:
    """Write a file completely or not at all; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)  # mkstemp makes it readable by its owner only
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_results(folder: Path, name: str, record: Any, markdown: str) -> None:
    """Write NAME.json and NAME.md."""
    write_atomic(folder / f"{name}.json", as_json(record))
    write_atomic(folder / f"{name}.md", markdown)


def as_json(record: Any) -> str:
    """Indented JSON of nested dicts, lists and dataclasses."""
    return json.dumps(record, indent=1, default=asdict) + "\n"
