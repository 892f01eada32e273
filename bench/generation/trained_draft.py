"""A trained draft for the embedded model: the measurements and the page of bench/draft_report.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gpt2c
from generation.report import accepted
from gpt2c.errors import Gpt2cError
from shared import harness

FORMATS = ("f32", "bf16", "q8")
GUESSES = (2, 4, 6)
SAMPLED = {"temperature": 0.8, "top_k": 40, "seed": 0}
PROMPTS = (
    "Once upon a time there was",
    '"What is the matter?" said',
    "The old house stood at the end of",
    "She had never been so happy in",
    "It was a dark and stormy night, and",
    "The captain looked at the sea, and",
)


def measure(model: gpt2c.Model, draft: gpt2c.Model, how: dict[str, Any], n_new: int, rounds: int) -> Any:
    """Rows by name: tokens per second, ratio to plain generation, passes, guesses and accepted guesses."""

    def generate(drafter: gpt2c.Model | None = None, k: int | None = None) -> list[gpt2c.Completion]:
        given = {**how, "draft": drafter, "num_assistant_tokens": k}
        return [model.generate(prompt, n_new, **given) for prompt in PROMPTS]

    calls: dict[str, Callable[[], list[gpt2c.Completion]]] = {
        "plain": generate,
        **{f"k = {k}": partial(generate, draft, k) for k in GUESSES},
    }
    calls["adaptive"] = partial(generate, draft)
    expected = [c.ids for c in generate()]
    for name, call in calls.items():
        if [c.ids for c in call()] != expected:
            raise Gpt2cError(f"{name} does not give the ids of plain generation")
    samples = harness.interleaved(calls, rounds)
    plain = samples["plain"].seconds
    rows = {}
    for name, s in samples.items():
        timings = [c.timings for c in s.results[-1]]
        rows[name] = {
            "tokens_per_s": harness.Spread.of(sum(map(len, expected)) / seconds for seconds in s.seconds),
            "ratio": harness.Spread.of(p / o for p, o in zip(plain, s.seconds, strict=True)),
            "passes": sum(t.forward_passes for t in timings),
            "drafted": sum(t.drafted for t in timings),
            "accepted": sum(t.accepted for t in timings),
        }
    return {"rows": rows, "on_cpu": harness.on_cpu_share(samples.values())}


def page(record: dict[str, Any]) -> str:
    """The Markdown page of a record."""
    rows = [
        (
            f"{case['weights']}, {case['how']}, {name}",
            f"{row['tokens_per_s'].median:.0f}",
            f"{row['ratio'].median:.2f}",
            f"{row['ratio'].min:.2f}..{row['ratio'].max:.2f}",
            accepted(row),
            str(row["passes"]),
        )
        for case in record["cases"]
        for name, row in case["rows"].items()
    ]
    header = ("", "tokens/s", "ratio to plain", "min..max", "accepted", "passes")
    remarks = [
        f"The embedded model, {record['n_parameters']:,} parameters, and a draft of "
        f"{record['n_draft_parameters']:,}; {len(PROMPTS)} prompts, {record['n_new']} new tokens each. "
        "A guess after a wrong guess in the same pass counts as not accepted. "
        "Sampled: temperature 0.8, top-k 40.",
        "First, all rows were checked to give the ids of plain generation.",
        *dict.fromkeys(case["on_cpu"] for case in record["cases"]),
        *record["origin"].lines(),
    ]
    title = "# Drafts of a trained model\n\n"
    return title + harness.markdown_table(header, rows) + f"\n\n{harness.bullets(remarks)}\n"
