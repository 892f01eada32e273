"""docs/quantization.md, from the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantization.measure import FORMATS
from shared import harness


def page(record: Mapping[str, Any]) -> str:
    """docs/quantization.md"""
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
`q8` keeps 8 bits of a weight and a bfloat16 scale for each 64 weights of a column (8.25 bits a weight); `q4`
4 bits, and for each 32 weights a scale and a least value of 8 bits each (4.5 bits). All matrices are
covered, the embedding, which is also the output head, included. Activations are rounded to int8 in groups
of 32 and products summed in integers; [native/quantized.h](../native/quantized.h) states it all. `gpt2c
quantize --calibrate FILE` feeds rounding errors back
([gpt2c/quantization/calibration.py](../gpt2c/quantization/calibration.py)).

This page is written by `python bench/quantization_report.py`; nothing in it is edited by hand. Times want an
idle machine: the load average beside them says how idle it was."""


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
    header = ["rounding", "perplexity", "bits per byte", "beside f32", "KL divergence", "same top 1"]
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
        "divergence from f32 is in nats a token; *same top 1* says how often the likeliest next token is "
        "f32's. `q4 nearest` rounds over a group's whole range, without search and fit; `q8 by column` has "
        "one scale a column; *head's x once* rounds x for the output head as for any other layer, where "
        "gpt2c takes it in two parts.",
        harness.markdown_table(header, rows),
        "Greedy text: how many tokens come before the first that differs from f32's.",
        harness.markdown_table(["prompt", "format", "same"], same, left=2),
        "Errors of the weights, over all matrices of a kind: root mean square, largest, relative to the "
        "length of the weights; and the bytes beside float32. Calibrated rounding makes larger ones, where "
        "they do not show in what the matrix gives.",
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
        "Weights in memory, beside 4 bytes a parameter (f32 and bf16 with `head_screen`'s copy).",
        harness.markdown_table(
            ["format", "bytes", "beside floats"],
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
                ["beside floats", *(f"{model['bytes'][f] / model['floats']:.3f}" for f in FORMATS)],
            ],
        ),
        "Decoding behind 4 tokens, milliseconds a token: median (least..most).",
        table("decode", "ms a token over", 2),
        "Prefill, tokens a second.",
        table("prefill", "tokens/s of", 0),
        *(
            f"![{what}](quantization/{slug}-{name}.png)"
            for name, what in (
                ("memory", "Memory of the weights"),
                ("decode", "Decoding speed"),
                ("prefill", "Prefill speed by prompt length"),
                ("trade-off", "Memory beside speed"),
            )
        ),
    ]


def slug_of(model: Mapping[str, Any]) -> str:
    return "".join(
        c if c.isalnum() else "-" for c in model["title"].partition(",")[0].lower().replace("'", "")
    )
