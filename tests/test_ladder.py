"""The benchmark's ladder: each rung is the one before and an option more, and right; it counts as it says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from models import PROMPTS
from test_reference import oracle

import gpt2c
from gpt2c.options import SWITCHES

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))
from ladder import steps as ladder
from ladder.steps import Rung
from shared import harness
from shared.greedy import Case, Disagreement

ISAS = gpt2c.build_info()["isas_supported"]
RUNGS = ladder.ladder(ISAS)
Folder = Callable[[str], Path]


# ---- What it consists of ----


def test_it_climbs_from_nothing_by_one_option_a_rung() -> None:
    by_name = {rung.name: rung for rung in RUNGS}
    assert len(by_name) == len(RUNGS)
    assert (RUNGS[0].options, RUNGS[0].isa) == ((), "ref")
    for rung in RUNGS[1:]:
        before = by_name[rung.before]
        assert not before.aside
        [option] = [o for o in gpt2c.OPTIONS if o.name == rung.step.partition("=")[0]]
        assert option.name in rung.options
        assert set(rung.options) - set(before.options) <= {option.name}
        replaced = set(before.options) - set(rung.options)
        assert replaced <= {*option.replaces, *gpt2c.options.WEIGHTS}
        with rung.load(None) as model:
            assert model.plan.options == rung.options, "nothing is added or taken away"


def test_it_ends_at_the_fastest_instruction_set_with_every_format() -> None:
    steps = [rung.step for rung in RUNGS]
    assert set(SWITCHES) <= set(steps)
    assert steps.count("gelu_table") == 2 and all(r.aside for r in RUNGS if r.step == "gelu_table")
    assert RUNGS[-1].isa == ISAS[-1]
    if len(ISAS) > 2:
        assert set(gpt2c.options.WEIGHTS[1:]) <= set(steps)


def test_a_machine_without_simd_has_a_shorter_one() -> None:
    plain = ladder.ladder(["ref", "unroll"])
    assert [rung.name for rung in plain][-2:] == ["threads&gelu_table", "fused"]
    assert {rung.isa for rung in plain} == {"ref", "unroll"}


# ---- Every rung is right ----


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_every_rung_passes_the_benchmarks_own_proof(name: str, model_folder: Folder) -> None:
    proofs = ladder.verify(RUNGS, model_folder(name), Case(6, 3))
    assert set(proofs) == {rung.name for rung in RUNGS}
    naive = [rung.name for rung in RUNGS if rung.isa in ladder.PLAIN and not rung.aside]
    assert all(proofs[rung].same_bits_as == "none" for rung in naive[1:])
    for rung in RUNGS:
        assert (proofs[rung.name].difference > 0) == (ladder.tolerance(rung) > 0)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_every_rung_has_the_oracles_logits(rung: Rung, model_folder: Folder) -> None:
    folder, ids = model_folder("odd"), PROMPTS["odd"][2]
    expected = oracle(folder, ids)
    with rung.load(folder) as model:
        found = model.logits(ids)
    assert np.abs(found - expected).max() < 1e-4 + ladder.tolerance(rung) * np.abs(expected).max()


def test_a_rung_that_computes_something_else_is_found(
    model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Rung.load

    def load(rung: Rung, folder: Path) -> gpt2c.Model:
        return honest(rung, model_folder("calm") if rung.name == "gelu" else folder)

    monkeypatch.setattr(Rung, "load", load)
    with pytest.raises(Disagreement, match="gelu has not the bits of none"):
        ladder.verify(RUNGS, model_folder("tiny"), Case(4, 2))


# ---- What it counts and guesses ----


@pytest.mark.parametrize("name", ["none", "kv", "layernorm", "unembed", RUNGS[-1].name])
def test_the_bytes_of_a_token_are_the_mean_of_all_passes(name: str, model_folder: Folder) -> None:
    case = Case(20, 3)
    rung = next(rung for rung in RUNGS if rung.name == name)
    with rung.load(model_folder("tiny")) as model:
        found = ladder.look_inside(model, case)
        with model.trace(n_best=0) as trace, model.session() as session:
            feed = [0] * case.n_prompt
            for _ in range(case.n_new):
                session.feed_greedy(feed)
                feed = [0]
    total = sum(op.n_bytes for feed in trace.feeds for op in feed.operations)
    if "head_screen" in rung.options:  # how many candidates there are depends on the text
        assert abs(found.n_bytes / (total / case.n_new) - 1) < 0.2
    else:
        assert round(found.n_bytes * case.n_new) == total


def test_an_estimate_follows_its_rule_and_the_machines_limit() -> None:
    def guess(limit: float, **rung: object) -> float:
        step = Rung("b", (), "ref", "b", "a", **rung)  # type: ignore[arg-type]
        return ladder.estimated_ms(step, 12.0, {"a": 6.0, "b": 2.0}, {"a": 8.0, "b": 4.0}, 3, limit)

    assert guess(0.1, estimate="multiply-adds") == 4.0
    assert guess(0.1, estimate="bytes") == 6.0
    assert guess(0.1, estimate="threads") == 4.0
    assert guess(0.1, estimate="kernels", gain=6.0) == 2.0
    assert guess(0.1, estimate="none") == 12.0
    assert guess(5.0, estimate="multiply-adds") == 5.0
    assert guess(20.0, estimate="multiply-adds") == 12.0, "a limit that was passed already is none"


def test_rounds_end_when_the_seconds_are_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(harness, "perf_counter", lambda: now)
    ran: list[str] = []

    def takes(name: str, seconds: float) -> Callable[[], object]:
        @contextmanager
        def prepared():  # type: ignore[no-untyped-def]
            def call() -> None:
                nonlocal now
                now += seconds
                ran.append(name)

            now_before = now  # setting up takes time that is not counted
            yield call
            assert now == now_before + seconds

        return prepared

    calls = {"slow": takes("slow", 9.0), "fast": takes("fast", 3.0), "brief": takes("brief", 1.0)}
    samples = harness.interleaved_in(calls, 4, seconds=10.0)
    assert ran == ["slow", "fast", "brief", "fast", "brief", "fast", "brief", "brief"]
    assert samples["slow"].seconds == (9.0,) and samples["fast"].seconds == (3.0, 3.0, 3.0)
