"""What each of GPT-2's incremental switches gains: rows of options, naive kernels, one thread.

python -m pytest bench/test_ablation.py            # about 10 minutes; prints and writes both tables
python -m pytest bench/test_ablation.py --quick    # under a minute; prints them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import ablation
import harness
import pytest
from ablation import ROWS, Case, Outcome, Row, name_of
from ablation_report import Ablation, as_markdown, as_record
from harness import ReplayClock, Report, Samples

import gpt2c

HERE = Path(__file__).resolve().parent
FULL, QUICK = Case(n_new=199), Case(n_new=31)
ROUNDS = 3

Measurements = dict[Row, Samples[Outcome]]
clock = ReplayClock()


@pytest.fixture(scope="module")
def models() -> Iterator[dict[Row, gpt2c.Model]]:
    with ExitStack() as stack:
        yield {options: stack.enter_context(ablation.load(options)) for options in ROWS}


@pytest.fixture(scope="module")
def measured(
    models: dict[Row, gpt2c.Model],
    request: pytest.FixtureRequest,
    say: Callable[[str], None],
    reports: list[Report],
) -> Measurements:
    """All rows measured in turn, their outputs checked, and only then the tables printed and written."""
    config = request.config
    case = QUICK if config.getoption("quick") else FULL
    done = partial(
        Ablation,
        command=" ".join(["python -m pytest", *config.invocation_params.args]),
        date=harness.now(),
        commit=harness.commit(HERE),
        machine=harness.this_machine(),
        config=models[()].config,
        case=case,
        plans={options: model.plan for options, model in models.items()},
    )
    samples = measure(models, case, config.getoption("rounds") or ROUNDS, say)
    agreement = ablation.check(models, samples, case)
    publish(done(samples=samples, agreement=agreement), config, reports)
    return samples


def measure(
    models: dict[Row, gpt2c.Model], case: Case, rounds: int, say: Callable[[str], None]
) -> Measurements:
    """Times `rounds` runs of each model, saying after each how long it took."""
    calls = {name_of(options): partial(ablation.generate, model, case) for options, model in models.items()}
    by_name = harness.interleaved(calls, rounds, progress=say)
    return {options: by_name[name_of(options)] for options in models}


def publish(done: Ablation, config: pytest.Config, reports: list[Report]) -> None:
    """Has the tables printed at the end, and writes them: of a quick run only where a folder is named."""
    reports.append(Report("ablation", as_markdown(done)))
    folder = config.getoption("results") or (None if done.case == QUICK else HERE / "results")
    if folder is not None:
        harness.write_atomic(folder / "ablation.json", harness.as_json(as_record(done)))
        harness.write_atomic(folder / "ablation.md", as_markdown(done))


@pytest.mark.benchmark(group="ablation", timer=clock)
@pytest.mark.parametrize("options", ROWS, ids=lambda options: "+".join(options) or "none")
def test_a_run_of(options: Row, measured: Measurements, benchmark: object) -> None:
    clock.replay(benchmark, measured[options].seconds)
