"""The benchmark's ladder: its steps, their results, and the bytes and estimates that it reports."""

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
from ladder.steps import Step
from shared import harness
from shared.greedy import Case, Disagreement

ISAS = gpt2c.build_info()["isas_supported"]
STEPS = ladder.ladder(ISAS)
Folder = Callable[[str], Path]


# ---- Its steps ----


def test_each_step_adds_one_option_to_an_earlier_one() -> None:
    by_name = {step.name: step for step in STEPS}
    assert len(by_name) == len(STEPS)
    assert (STEPS[0].options, STEPS[0].isa) == ((), "ref")
    for step in STEPS[1:]:
        before = by_name[step.before]
        assert not before.aside
        [option] = [o for o in gpt2c.OPTIONS if o.name == step.adds.partition("=")[0]]
        assert option.name in step.options
        assert set(step.options) - set(before.options) <= {option.name}
        replaced = set(before.options) - set(step.options)
        assert replaced <= {*option.replaces, *gpt2c.options.WEIGHTS}
        with step.load(None) as model:
            assert model.plan.options == step.options, "nothing is added or taken away"


def test_it_ends_at_the_fastest_instruction_set_with_every_format() -> None:
    steps = [step.adds for step in STEPS]
    assert set(SWITCHES) <= set(steps)
    assert steps.count("gelu_table") == 2 and all(r.aside for r in STEPS if r.adds == "gelu_table")
    assert STEPS[-1].isa == ISAS[-1]
    if len(ISAS) > 2:
        assert set(gpt2c.options.WEIGHTS[1:]) <= set(steps)


def test_a_machine_without_simd_has_a_shorter_one() -> None:
    plain = ladder.ladder(["ref", "unroll"])
    assert [step.name for step in plain][-2:] == ["threads&gelu_table", "fused"]
    assert {step.isa for step in plain} == {"ref", "unroll"}


# ---- Every step is right ----


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_every_step_passes_the_benchmarks_own_proof(name: str, model_folder: Folder) -> None:
    proofs = ladder.verify(STEPS, model_folder(name), Case(6, 3))
    assert set(proofs) == {step.name for step in STEPS}
    naive = [step.name for step in STEPS if step.isa in ladder.PLAIN and not step.aside]
    assert all(proofs[step].same_bits_as == "none" for step in naive[1:])
    for step in STEPS:
        assert (proofs[step.name].difference > 0) == (ladder.tolerance(step) > 0)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_step_has_the_oracles_logits(step: Step, model_folder: Folder) -> None:
    folder, ids = model_folder("odd"), PROMPTS["odd"][2]
    expected = oracle(folder, ids)
    with step.load(folder) as model:
        found = model.logits(ids)
    assert np.abs(found - expected).max() < 1e-4 + ladder.tolerance(step) * np.abs(expected).max()


def test_a_step_that_computes_something_else_is_found(
    model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Step.load

    def load(step: Step, folder: Path) -> gpt2c.Model:
        return honest(step, model_folder("calm") if step.name == "gelu" else folder)

    monkeypatch.setattr(Step, "load", load)
    with pytest.raises(Disagreement, match="gelu does not have the bits of none"):
        ladder.verify(STEPS, model_folder("tiny"), Case(4, 2))


# ---- Bytes and estimates ----


@pytest.mark.parametrize("name", ["none", "kv", "layernorm", "unembed", STEPS[-1].name])
def test_the_bytes_of_a_token_are_the_mean_of_all_passes(name: str, model_folder: Folder) -> None:
    case = Case(20, 3)
    step = next(step for step in STEPS if step.name == name)
    with step.load(model_folder("tiny")) as model:
        found = ladder.look_inside(model, case)
        with model.trace(n_best=0) as trace, model.session() as session:
            feed = [0] * case.n_prompt
            for _ in range(case.n_new):
                session.feed_greedy(feed)
                feed = [0]
    total = sum(op.n_bytes for feed in trace.feeds for op in feed.operations)
    if "head_screen" in step.options:  # how many candidates there are depends on the text
        assert abs(found.n_bytes / (total / case.n_new) - 1) < 0.2
    else:
        assert round(found.n_bytes * case.n_new) == total


def test_an_estimate_follows_its_rule_and_the_machines_limit() -> None:
    def guess(limit: float, **fields: object) -> float:
        step = Step("b", (), "ref", "b", "a", **fields)  # type: ignore[arg-type]
        return ladder.estimated_ms(step, 12.0, {"a": 6.0, "b": 2.0}, {"a": 8.0, "b": 4.0}, 3, limit)

    assert guess(0.1, estimate="multiply-adds") == 4.0
    assert guess(0.1, estimate="bytes") == 6.0
    assert guess(0.1, estimate="threads") == 4.0
    assert guess(0.1, estimate="kernels", gain=6.0) == 2.0
    assert guess(0.1, estimate="none") == 12.0
    assert guess(5.0, estimate="multiply-adds") == 5.0
    assert guess(20.0, estimate="multiply-adds") == 12.0, "a limit that was already passed"


def test_rounds_end_when_the_seconds_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
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

            now_before = now  # the setup is not timed
            yield call
            assert now == now_before + seconds

        return prepared

    calls = {"slow": takes("slow", 9.0), "fast": takes("fast", 3.0), "brief": takes("brief", 1.0)}
    samples = harness.interleaved_in(calls, 4, seconds=10.0)
    assert ran == ["slow", "fast", "brief", "fast", "brief", "fast", "brief", "brief"]
    assert samples["slow"].seconds == (9.0,) and samples["fast"].seconds == (3.0, 3.0, 3.0)
