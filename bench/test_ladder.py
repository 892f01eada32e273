"""From naive C to the fastest engine, one option a rung: verified, then timed, beside the machine's limits.

python -m pytest bench/test_ladder.py            # about 6 minutes; writes tables, pictures, docs/tour.md
python -m pytest bench/test_ladder.py --quick    # a minute, the embedded model alone; prints the table
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
from ladder.report import Climbed, Ids, Ladder, as_markdown, as_record
from ladder.steps import Rung
from shared import harness, machine_limits, native_library
from shared.checkout import ROOT, random_model
from shared.greedy import Case, require
from shared.harness import Origin, ReplayClock

RUNGS = steps.ladder(gpt2c.build_info()["isas_supported"])
ROUNDS = 5
SHAPE = "gpt2"

clock = ReplayClock()
Say = Callable[[str], None]


@pytest.fixture(scope="module")
def full_size(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A model of GPT-2's own shape with random weights; None in a quick run."""
    if request.config.getoption("quick"):
        return None
    folder = tmp_path_factory.mktemp("gpt2-random")
    random_model.write_random_model(folder, SHAPE, seed=1, force=True)
    return folder


@pytest.fixture(scope="module")
def climbed(
    full_size: Path | None,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    say: Say,
    publish: Callable[[str, str, Any], Path | None],
) -> Iterator[Ladder]:
    """Measured, written down, and told in docs/tour.md if it is the results in the checkout that are new."""
    config = request.config
    origin = Origin.here(config.invocation_params.args, ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2C_CACHE", str(tmp_path_factory.mktemp("cache")))
        climb = partial(climb_on, rounds=config.getoption("rounds") or ROUNDS, say=say)
        quick = config.getoption("quick")
        case = Case(31 if quick else 199)
        done = [climb("embedded", "Embedded model", None, case, Case(15), seconds=15.0)]
        if full_size is not None:
            title = "GPT-2's 124M shape, random weights"
            done.append(climb("124M", title, full_size, Case(8, 8), Case(3, 4), seconds=6.0))
    sets = [(on.working_set(r.name), on.plans[r.name].threads) for on in done for r in RUNGS]
    say("the machine's limits")
    limits = machine_limits.measure(native_library.build_limits(), sets)
    finished = Ladder(origin, RUNGS, limits, tuple(done))
    pictures = plots.pictures()
    folder = publish("ladder", as_markdown(finished, pictures), as_record(finished))
    if folder is not None and pictures:
        plots.draw(as_record(finished), folder)
    if folder == tour.RECORD.parent:
        tour.write()
    yield finished


def climb_on(
    name: str,
    title: str,
    folder: Path | None,
    case: Case,
    verified: Case,
    *,
    seconds: float,
    rounds: int,
    say: Say,
) -> Climbed:
    """Verified, looked into, and timed: each rung in so many rounds, or for so many seconds."""
    say(f"verifying {len(RUNGS)} rungs on {title}, {verified}")
    proofs = steps.verify(RUNGS, folder, verified)
    plans, tokens, sizes = {}, {}, {}
    for rung in RUNGS:
        with rung.load(folder) as model:
            plans[rung.name], sizes[rung.name] = model.plan, model.weight_bytes
            tokens[rung.name] = steps.look_inside(model, case)
            config = model.config
    calls = {rung.name: partial(ready, rung, folder, case) for rung in RUNGS}
    samples = harness.interleaved_in(calls, rounds, say, seconds)
    for rung in RUNGS:
        same = proofs[rung.name].same_bits_as or rung.name
        for ids in samples[rung.name].results:
            require(ids == samples[same].results[0], f"{rung.name} wrote another text than {same}")
    return Climbed(
        name, f"{title}, {case}", folder, config, case, verified, plans, proofs, tokens, sizes, samples
    )


@contextmanager
def ready(rung: Rung, folder: Path | None, case: Case) -> Iterator[Callable[[], Ids]]:
    """A model that has run: its threads are there, and its weights in memory."""
    with rung.load(folder) as model:
        steps.generate(model, Case(1, case.n_prompt))
        yield partial(steps.generate, model, case)


@pytest.mark.benchmark(group="ladder", timer=clock)
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_a_rung(rung: Rung, climbed: Ladder, benchmark: Any) -> None:
    clock.replay(benchmark, climbed.climbed[0].samples[rung.name].seconds)
