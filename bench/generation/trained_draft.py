"""A trained draft on the embedded model: what bench/draft_report.py measures, and its page."""

from __future__ import annotations

from functools import partial
from typing import Any

import gpt2c
from generation.report import held
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
    """Rows by name: tokens a second, times plain generation's, passes, guesses that held."""

    def generate(drafter: gpt2c.Model | None = None, k: int | None = None) -> list[gpt2c.Completion]:
        given = {**how, "draft": drafter, "num_assistant_tokens": k}
        return [model.generate(prompt, n_new, **given) for prompt in PROMPTS]

    calls = {"plain": generate, **{f"k = {k}": partial(generate, draft, k) for k in GUESSES}}
    calls["adaptive"] = partial(generate, draft)
    expected = [c.ids for c in generate()]
    for name, call in calls.items():
        if [c.ids for c in call()] != expected:
            raise Gpt2cError(f"{name}: not the ids of plain generation")
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
    """Markdown of a record."""
    rows = [
        (
            f"{case['weights']}, {case['how']}, {name}",
            f"{row['tokens_per_s'].median:.0f}",
            f"{row['ratio'].median:.2f}",
            f"{row['ratio'].min:.2f}..{row['ratio'].max:.2f}",
            held(row),
            str(row["passes"]),
        )
        for case in record["cases"]
        for name, row in case["rows"].items()
    ]
    header = ("", "tokens/s", "times plain", "least..most", "guesses that held", "passes")
    remarks = [
        f"The embedded model, {record['n_parameters']:,} parameters, and a draft of "
        f"{record['n_draft_parameters']:,}; {len(PROMPTS)} prompts, {record['n_new']} new tokens each. "
        "A guess behind a wrong one of its pass counts as one that did not hold. "
        "Sampled: temperature 0.8, top-k 40.",
        "First all rows were found to have the ids of plain generation.",
        *dict.fromkeys(case["on_cpu"] for case in record["cases"]),
        *record["origin"].lines(),
    ]
    title = "# Drafts of a trained model\n\n"
    return title + harness.markdown_table(header, rows) + f"\n\n{harness.bullets(remarks)}\n"
