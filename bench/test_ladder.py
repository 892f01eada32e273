"""From naive C to the fastest engine, one option per step, compared with the machine's limits.

python -m pytest bench/test_ladder.py            # about 6 minutes; writes tables, pictures, docs/tour.md
python -m pytest bench/test_ladder.py --quick    # a minute, only the embedded model; prints the table
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import gpt2c
from ladder import plots, steps, tour
from ladder.report import Ids, Ladder, OnModel, as_markdown, as_record
from ladder.steps import Step
from shared import harness, machine_limits, native_library
from shared.checkout import ROOT, random_model
from shared.greedy import Case, require
from shared.harness import Origin, ReplayClock

STEPS = steps.ladder(gpt2c.build_info()["isas_supported"])
ROUNDS = 5
SHAPE = "gpt2"

clock = ReplayClock()
Say = Callable[[str], None]


@pytest.fixture(scope="module")
def full_size(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A model of GPT-2's 124M shape with random weights; None in a quick run."""
    if request.config.getoption("quick"):
        return None
    folder = tmp_path_factory.mktemp("gpt2-random")
    random_model.write_random_model(folder, SHAPE, seed=1, force=True)
    return folder


@pytest.fixture(scope="module")
def measured(
    full_size: Path | None,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    say: Say,
    publish: Callable[[str, str, Any], Path | None],
) -> Iterator[Ladder]:
    """Measure and write the results, and docs/tour.md if the results go to bench/results."""
    config = request.config
    origin = Origin.here(config.invocation_params.args, ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2C_CACHE", str(tmp_path_factory.mktemp("cache")))
        measure = partial(measure_on, rounds=config.getoption("rounds") or ROUNDS, say=say)
        quick = config.getoption("quick")
        case = Case(31 if quick else 199)
        done = [measure("embedded", "Embedded model", None, case, Case(15), seconds=15.0)]
        if full_size is not None:
            title = "GPT-2's 124M shape, random weights"
            done.append(measure("124M", title, full_size, Case(8, 8), Case(3, 4), seconds=6.0))
    sets = [(on.working_set(r.name), on.plans[r.name].threads) for on in done for r in STEPS]
    say("the machine's limits")
    limits = machine_limits.measure(native_library.build_limits(), sets)
    finished = Ladder(origin, STEPS, limits, tuple(done))
    pictures = plots.pictures()
    folder = publish("ladder", as_markdown(finished, pictures), as_record(finished))
    if folder is not None and pictures:
        plots.draw(as_record(finished), folder)
    if folder == tour.RECORD.parent:
        tour.write()
    yield finished


def measure_on(
    name: str,
    title: str,
    folder: Path | None,
    case: Case,
    verified: Case,
    *,
    seconds: float,
    rounds: int,
    say: Say,
) -> OnModel:
    """Verify, trace and time all steps on a model: each in `rounds` rounds, or fewer within `seconds`."""
    say(f"verifying {len(STEPS)} steps on {title}, {verified}")
    proofs = steps.verify(STEPS, folder, verified)
    plans, tokens, sizes = {}, {}, {}
    for step in STEPS:
        with step.load(folder) as model:
            plans[step.name], sizes[step.name] = model.plan, model.weight_bytes
            tokens[step.name] = steps.look_inside(model, case)
            config = model.config
    calls = {step.name: partial(ready, step, folder, case) for step in STEPS}
    samples = harness.interleaved_in(calls, rounds, say, seconds)
    for step in STEPS:
        same = proofs[step.name].same_bits_as or step.name
        for ids in samples[step.name].results:
            require(ids == samples[same].results[0], f"{step.name} wrote a different text than {same}")
    return OnModel(
        name, f"{title}, {case}", folder, config, case, verified, plans, proofs, tokens, sizes, samples
    )


@contextmanager
def ready(step: Step, folder: Path | None, case: Case) -> Iterator[Callable[[], Ids]]:
    """A model that has run once, so that its threads exist and its weights are in memory."""
    with step.load(folder) as model:
        steps.generate(model, Case(1, case.n_prompt))
        yield partial(steps.generate, model, case)


@pytest.mark.benchmark(group="ladder", timer=clock)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step(step: Step, measured: Ladder, benchmark: Any) -> None:
    clock.replay(benchmark, measured.on_models[0].samples[step.name].seconds)
