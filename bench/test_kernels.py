"""Every kernel of every instruction set, on one thread, compared with the machine's limits.

python -m pytest bench/test_kernels.py            # about 5 minutes; prints and writes the tables
python -m pytest bench/test_kernels.py --quick    # about a minute; prints them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import pytest

from operations import cases as kernel_cases
from operations import native
from operations.cases import FULL, QUICK, Scale, Work
from operations.report import Key, Measured, Timed, as_markdown, as_record
from shared import harness
from shared.checkout import ROOT
from shared.harness import Origin, ReplayClock

SAY_EVERY = 5.0
"""Minimum seconds between two lines of progress."""

clock = ReplayClock()


def scale_of(config: pytest.Config) -> Scale:
    return QUICK if config.getoption("quick") else FULL


def name_of(key: Key) -> str:
    case, isa = key
    return f"{case}, {isa}" if isa else str(case)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = [
        (case, isa) for case in kernel_cases.cases(scale_of(metafunc.config)) for isa in kernel_cases.isas()
    ]
    metafunc.parametrize("key", every, ids=name_of)


@pytest.fixture(scope="module")
def measured(
    request: pytest.FixtureRequest, say: Callable[[str], None], publish: Callable[[str, str, Any], None]
) -> Measured:
    """Verify all kernels, measure them alternately with the limits, and only then print the tables."""
    config = request.config
    scale = scale_of(config)
    origin = Origin.here(config.invocation_params.args, ROOT)
    tell = at_intervals(say)
    library = native.build()
    cases = kernel_cases.cases(scale)
    limits = kernel_cases.limits(library, cases)
    keys: list[Key] = [(case, "") for case in limits.all()]
    keys += [(case, isa) for case in cases for isa in kernel_cases.isas()]
    prepared = {}
    for n, (case, isa) in enumerate(keys, 1):
        prepared[case, isa] = prepare(case.make(library, isa), scale, config.getoption("rounds"))
        tell(f"verified {n} of {len(keys)}: {name_of((case, isa))}")
    timed = measure(prepared, tell)
    done = Measured(origin, limits, kernel_cases.isas(), timed)
    publish("kernels", as_markdown(done), as_record(done))
    return done


@dataclass(frozen=True)
class Prepared:
    """Work, how often a call repeats it, and the number of rounds."""

    work: Work
    loops: int
    rounds: int


def prepare(work: Work, scale: Scale, rounds: int | None) -> Prepared:
    """Run the work once, verify its result, and choose loops and rounds by the time it took."""
    began = perf_counter()
    work.run(1)
    once = perf_counter() - began
    work.check()
    if once < scale.min_call_seconds:  # the first run may have been slow because it was the first
        began = perf_counter()
        work.run(3)
        once = (perf_counter() - began) / 3
    loops = max(1, round(scale.min_call_seconds / once))
    affordable = max(2, int(scale.max_case_seconds / (once * loops)))
    return Prepared(work, loops, rounds or min(scale.max_rounds, affordable))


def measure(prepared: Mapping[Key, Prepared], say: Callable[[str], None]) -> dict[Key, Timed]:
    by_name = harness.interleaved(
        {name_of(key): partial(one.work.run, one.loops) for key, one in prepared.items()},
        {name_of(key): one.rounds for key, one in prepared.items()},
        progress=say,
    )
    return {key: Timed(one.loops, by_name[name_of(key)]) for key, one in prepared.items()}


def at_intervals(say: Callable[[str], None]) -> Callable[[str], None]:
    """Skip lines that come too soon after the previous one."""
    said = perf_counter()

    def maybe(line: str) -> None:
        nonlocal said
        if perf_counter() - said >= SAY_EVERY:
            say(line)
            said = perf_counter()

    return maybe


@pytest.mark.benchmark(timer=clock)
def test_kernel(key: Key, measured: Measured, benchmark: Any) -> None:
    benchmark.group = key[0].table
    clock.replay(benchmark, measured.timed[key].seconds)
