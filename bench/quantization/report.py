"""docs/quantization.md, from a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantization.measure import FORMATS
from shared import harness


def page(record: Mapping[str, Any]) -> str:
    """The page of a record, with the parts that it has."""
    parts = ["# Weights in 8 and 4 bits", INTRODUCTION]
    for part in ("accuracy", "timing"):
        if part in record:
            parts.append(f"*{part.capitalize()}: {' '.join(record[part]['origin'])}*")
    for model in record.get("accuracy", {}).get("models", ()):
        parts += accuracy_section(model)
    for model in record.get("timing", {}).get("models", ()):
        parts += timing_section(model)
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
`q8` stores 8 bits per weight, and a bfloat16 scale for each 64 weights of a column: 8.25 bits per weight in
total. `q4` stores 4 bits per weight, and for each 32 weights a scale and an offset of 8 bits each: 4.5 bits
per weight in total, apart from two float32 values per column. All matrices are quantized, including the
embedding, which is also the output head. Activations are rounded to int8 in groups of 32, and products are
summed in integers; [native/quantized.h](../native/quantized.h) has the details. With
`gpt2c quantize --calibrate FILE`, the rounding of later weights compensates the errors of earlier ones
([gpt2c/quantization/calibration.py](../gpt2c/quantization/calibration.py)).

This page is written by `python bench/quantization_report.py`; nothing in it is edited by hand. Times need an
idle machine: the load average next to them says how idle it was."""


def accuracy_section(model: Mapping[str, Any]) -> list[str]:
    text, exact = model["text"], model["text"]["f32"]
    rows = [
        [
            name,
            f"{r['perplexity']:.3f}",
            f"{r['bits_per_byte']:.5f}",
            f"{100 * (r['bits_per_byte'] / exact['bits_per_byte'] - 1):+.3f} %",
            f"{r['divergence']:.6f}",
            f"{100 * r['top_1']:.2f} %",
        ]
        for name, r in text.items()
    ]
    header = ["rounding", "perplexity", "bits per byte", "relative to f32", "KL divergence", "same top 1"]
    same = [
        [row["prompt"], name, f"{row['same_tokens']} of {row['tokens']}"]
        for name, greedy in model["greedy"].items()
        for row in greedy
    ]
    sizes = model["bytes"]
    slug = slug_of(model)
    return [
        f"## Accuracy: {model['title']}",
        f"{exact['tokens']:,} tokens in {model['windows']} windows of {model['n_ctx']}, spread evenly. KL "
        "divergence from f32 is in nats per token; *same top 1* says how often the most probable next token "
        "is the same as with f32. `q4 nearest` divides a group's whole range evenly, without searching for "
        "or fitting a better scale; `q8 by column` has one scale per column; *head's x once* rounds the "
        "input x of the output head once, as in any other layer, while gpt2c splits it into two parts.",
        harness.markdown_table(header, rows),
        "Greedy text: how many tokens come before the first that differs from f32.",
        harness.markdown_table(["prompt", "format", "same"], same, left=2),
        "Errors of the weights, over all matrices of a kind: root mean square, maximum, and Euclidean length "
        "relative to that of the weights; then the bytes relative to float32. Calibrated rounding makes "
        "larger errors in the weights, but in places where they affect the product of the matrix less.",
        harness.markdown_table(
            ["rounding", "matrix", "shape", "count", "RMSE", "largest", "relative", "bytes"],
            [
                [
                    name,
                    row["kind"],
                    f"{row['shape'][0]} x {row['shape'][1]}",
                    str(row["count"]),
                    f"{row['rmse']:.2e}",
                    f"{row['largest']:.2e}",
                    f"{100 * row['relative']:.3f} %",
                    f"{row['ratio']:.4f}",
                ]
                for name, rows in model["weights"].items()
                for row in rows
            ],
            left=3,
        ),
        f"![Relative error of each kind of matrix](quantization/{slug}-errors.png)",
        "Size of the weights in memory, relative to 4 bytes per parameter (f32 and bf16 include the copy for "
        "`head_screen`).",
        harness.markdown_table(
            ["format", "bytes", "relative to float32"],
            [[name, f"{n:,}", f"{n / model['floats']:.3f}"] for name, n in sizes.items()],
        ),
    ]


def timing_section(model: Mapping[str, Any]) -> list[str]:
    def table(what: str, unit: str, digits: int) -> str:
        rows = [
            [
                f"{n} tokens",
                *("{median:,.{0}f} ({min:,.{0}f}..{max:,.{0}f})".format(digits, **row[f]) for f in FORMATS),
            ]
            for n, row in model[what].items()
        ]
        return harness.markdown_table([unit, *FORMATS], rows)

    slug = slug_of(model)
    return [
        f"## Memory and time: {model['title']}",
        harness.markdown_table(
            ["", *FORMATS],
            [
                ["bytes of weights", *(f"{model['bytes'][f]:,}" for f in FORMATS)],
                ["relative to float32", *(f"{model['bytes'][f] / model['floats']:.3f}" for f in FORMATS)],
            ],
        ),
        "Decoding after 4 tokens, milliseconds per token: median (min..max).",
        table("decode", "ms per token over", 2),
        "Prefill, tokens per second.",
        table("prefill", "tokens/s for", 0),
        *(
            f"![{what}](quantization/{slug}-{name}.png)"
            for name, what in (
                ("memory", "Memory of the weights"),
                ("decode", "Decoding speed"),
                ("prefill", "Prefill speed by prompt length"),
                ("trade-off", "Memory and speed"),
            )
        ),
    ]


def slug_of(model: Mapping[str, Any]) -> str:
    return "".join(
        c if c.isalnum() else "-" for c in model["title"].partition(",")[0].lower().replace("'", "")
    )
