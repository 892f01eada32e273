"""What batches and drafts gain on GPT-2's 124M shape.

python -m pytest bench/test_generation.py            # about 8 minutes, 3 GB of memory; writes tables
python -m pytest bench/test_generation.py --quick    # two minutes; prints them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

import gpt2c
from generation import model_pair, report
from shared import harness
from shared.checkout import ROOT
from shared.harness import Origin, Samples

ROUNDS = 5
AGREEMENT = 0.8
WHOLE_HEAD = "kv,linear,gelu,residual,layernorm,unembed,aligned,simd,threads,fused"

Completions = list[gpt2c.Completion]


@dataclass(frozen=True)
class Run:
    """A row of a table: its name, and what is timed."""

    name: str
    call: Callable[[], Completions]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the model and its drafts: one right with the rate AGREEMENT, two never right."""
    base = tmp_path_factory.mktemp("pair")
    following = model_pair.successors(50257, seed=0)
    sometimes = model_pair.mostly(following, AGREEMENT, seed=1)
    never = model_pair.successors(50257, seed=2)
    return {
        "target": model_pair.write_model(base / "target", model_pair.TARGET, following, seed=3),
        "good": model_pair.write_model(base / "good", model_pair.DRAFT, sometimes, seed=4),
        "bad": model_pair.write_model(base / "bad", model_pair.DRAFT, never, seed=5),
        "bad and large": model_pair.write_model(base / "large", model_pair.TARGET, never, seed=6),
    }


def tokens_per_s(samples: Samples[Completions]) -> harness.Spread:
    n = [sum(len(c.ids) for c in completions) for completions in samples.results]
    return harness.Spread.of(n / s for n, s in zip(n, samples.seconds, strict=True))


def measure(runs: list[Run], request: pytest.FixtureRequest, say: Callable[[str], None]) -> dict[str, Any]:
    rounds = request.config.getoption("rounds") or (1 if request.config.getoption("quick") else ROUNDS)
    return harness.interleaved({run.name: run.call for run in runs}, rounds, say)


@pytest.mark.parametrize("weights", ["f32", "bf16", "q8"])
def test_batches(
    weights: str,
    folders: dict[str, Path],
    request: pytest.FixtureRequest,
    say: Callable[[str], None],
    publish: Callable[[str, str, Any], None],
) -> None:
    n_new = 8 if request.config.getoption("quick") else 24
    prompts = [[(i * 997 + j * 31) % 50257 for j in range(8)] for i in range(32)]
    with gpt2c.load(folders["target"], opts=WHOLE_HEAD, weights=weights) as model:
        alone = [model.generate(prompt, n_new).ids for prompt in prompts]
        assert [c.ids for c in model.generate_batch(prompts, n_new)] == alone
        sizes = (1, 8, 32)
        runs = [Run(str(n), partial(model.generate_batch, prompts[:n], n_new)) for n in sizes]
        samples = measure(runs, request, say)
        record = {
            "origin": Origin.here(request.config.invocation_params.args, ROOT),
            "plan": str(model.plan),
            "n_new": n_new,
            "rows": {name: tokens_per_s(s) for name, s in samples.items()},
            "on_cpu": harness.on_cpu_share(samples.values()),
        }
    publish(f"batches_{weights}", report.batches(record), record)


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> Iterator[dict[str, gpt2c.Model]]:
    loaded = {name: gpt2c.load(folder) for name, folder in folders.items()}
    yield loaded
    for model in loaded.values():
        model.close()


def test_drafts(
    models: dict[str, gpt2c.Model],
    request: pytest.FixtureRequest,
    say: Callable[[str], None],
    publish: Callable[[str, str, Any], None],
) -> None:
    n_new = 48 if request.config.getoption("quick") else 160
    target, prompt = models["target"], [11, 22, 33, 44]

    def generate(draft: str | None = None, k: int | None = None) -> Completions:
        drafter: gpt2c.Model | Literal["ngram"] | None = None
        if draft is not None:
            drafter = "ngram" if draft == "ngram" else models[draft]
        return [target.generate(prompt, n_new, draft=drafter, num_assistant_tokens=k)]

    runs = [
        *(Run(f"good draft, k = {k}", partial(generate, "good", k)) for k in (2, 4, 6)),
        Run("good draft, adaptive", partial(generate, "good")),
        Run("bad draft, adaptive", partial(generate, "bad")),
        Run("bad and large draft, adaptive", partial(generate, "bad and large")),
        Run("n-grams where nothing repeats", partial(generate, "ngram")),
    ]
    [expected] = generate()
    for run in runs:
        assert [c.ids for c in run.call()] == [expected.ids]
    # Each run has a plain run right before it, since the memory's speed changes from second to second.
    plain_before = {run.name: f"plain, before: {run.name}" for run in runs}
    samples = measure([r for run in runs for r in (Run(plain_before[run.name], generate), run)], request, say)
    plain = harness.joined(samples[name] for name in plain_before.values())
    rows = {"plain": (plain, plain)} | {
        name: (samples[other], samples[name]) for name, other in plain_before.items()
    }
    record = {
        "origin": Origin.here(request.config.invocation_params.args, ROOT),
        "plan": str(target.plan),
        "n_new": n_new,
        "agreement": AGREEMENT,
        "rows": {
            name: {
                "tokens_per_s": tokens_per_s(s),
                "ratio": ratio(alone, s),
                "passes": s.results[-1][0].timings.forward_passes,
                "drafted": s.results[-1][0].timings.drafted,
                "accepted": s.results[-1][0].timings.accepted,
            }
            for name, (alone, s) in rows.items()
        },
        "on_cpu": harness.on_cpu_share(samples.values()),
    }
    publish("drafts", report.drafts(record), record)


def ratio(plain: Samples[Completions], other: Samples[Completions]) -> harness.Spread:
    """Tokens per second relative to plain generation, round by round."""
    return harness.Spread.of(p / o for p, o in zip(plain.seconds, other.seconds, strict=True))
