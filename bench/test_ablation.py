"""What each of GPT-2's incremental switches gains, with naive kernels on one thread.

python -m pytest bench/test_ablation.py            # about 10 minutes; prints and writes both tables
python -m pytest bench/test_ablation.py --quick    # about a minute; prints them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

import gpt2c
from ablation import rows
from ablation.report import Ablation, as_markdown, as_record
from ablation.rows import ROWS, Outcome
from shared import harness
from shared.checkout import ROOT
from shared.greedy import Case, Row, name_of
from shared.harness import Origin, ReplayClock, Samples

FULL, QUICK = Case(n_new=199), Case(n_new=31)
ROUNDS = 3

Measurements = dict[Row, Samples[Outcome]]
clock = ReplayClock()


@pytest.fixture(scope="module")
def models() -> Iterator[dict[Row, gpt2c.Model]]:
    with ExitStack() as stack:
        yield {options: stack.enter_context(rows.load(options)) for options in ROWS}


@pytest.fixture(scope="module")
def measured(
    models: dict[Row, gpt2c.Model],
    request: pytest.FixtureRequest,
    say: Callable[[str], None],
    publish: Callable[[str, str, Any], None],
) -> Measurements:
    """Measure all rows alternately and check their outputs; only then print and write the tables."""
    config = request.config
    case = QUICK if config.getoption("quick") else FULL
    done = partial(
        Ablation,
        origin=Origin.here(config.invocation_params.args, ROOT),
        config=models[()].config,
        case=case,
        plans={options: model.plan for options, model in models.items()},
    )
    samples = measure(models, case, config.getoption("rounds") or ROUNDS, say)
    agreement = rows.check(models, samples, case)
    finished = done(samples=samples, agreement=agreement)
    publish("ablation", as_markdown(finished), as_record(finished))
    return samples


def measure(
    models: dict[Row, gpt2c.Model], case: Case, rounds: int, say: Callable[[str], None]
) -> Measurements:
    """Time `rounds` runs of each model, and print the time of each run."""
    calls = {name_of(options): partial(rows.generate, model, case) for options, model in models.items()}
    by_name = harness.interleaved(calls, rounds, progress=say)
    return {options: by_name[name_of(options)] for options in models}


@pytest.mark.benchmark(group="ablation", timer=clock)
@pytest.mark.parametrize("options", ROWS, ids=lambda options: "+".join(options) or "none")
def test_a_run_of(options: Row, measured: Measurements, benchmark: object) -> None:
    clock.replay(benchmark, measured[options].seconds)
