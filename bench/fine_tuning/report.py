"""docs/training.md, from docs/training.in.md and a record."""

from __future__ import annotations

from string import Template
from typing import Any

from fine_tuning.measure import N_SAMPLE, PREPARE, PROMPT, TRAIN
from shared import harness
from shared.checkout import DOCS


def page(record: dict[str, Any]) -> str:
    """The template with the figures of a record."""
    rows = [
        (f"{when} fine-tuning", f"{d['perplexity']:.2f}", f"{d['bits_per_byte']:.4f}")
        for when, d in (("before", record["before"]), ("after", record["after"]))
    ]
    made, machine = record["origin"].lines()
    fields = {
        "prepare": PREPARE,
        "train": TRAIN,
        "prompt": PROMPT,
        "n_sample": str(N_SAMPLE),
        "n_train": f"{record['n_train']:,}",
        "n_held_out": f"{record['n_held_out']:,}",
        "passes": f"{record['n_trained'] / record['n_train']:.1f}",
        "minutes": f"{record['seconds'] / 60:.1f}",
        "figures": harness.markdown_table(("held-out text", "perplexity", "bits/byte"), rows),
        "sample_before": record["before"]["sample"],
        "sample_after": record["after"]["sample"],
        "origin": f"{made} {machine}",
    }
    return Template((DOCS / "training.in.md").read_text(encoding="utf-8")).substitute(fields)
