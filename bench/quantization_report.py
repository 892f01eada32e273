"""Write docs/quantization.md: what q8 and q4 cost in accuracy and save in memory and time.

    python bench/quantization_report.py                    # both halves, on an idle machine
    python bench/quantization_report.py --only accuracy    # one of them; needs the texts of $GPT2C_DATA
    python bench/quantization_report.py --only timing

Accuracy takes a few minutes, timing two. Each writes its half of bench/results/quantization.json, then the
page and its pictures are made from the whole file.
With the published weights in $GPT2C_GPT2_DIR it measures them, too, on WikiText-2.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import harness
import quantization as q
from quantization_plots import draw

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.quantization import calibration

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DATA = Path(os.environ.get("GPT2C_DATA", ROOT.parent / "shared" / "data"))
FORMATS = ("f32", "bf16", "q8", "q4")
DECODE = (16, 32, 64)
PREFILL = (16, 64, 256, 512)
GPT2_SMALL = "gpt2"

# ---- Accuracy ----


def accuracy(title: str, source: Path, text: str, training: str, most_windows: int) -> dict[str, Any]:
    """Everything that does not depend on the machine; training: the calibration text, "" for none."""
    with (
        gpt2c.load(source) as exact,
        load_checkpoint(source) as checkpoint,
        tempfile.TemporaryDirectory() as base,
    ):
        tokenizer, n_ctx = exact.tokenizer, exact.config.n_ctx
        windows = q.windows_of(tokenizer.encode(text), n_ctx, most_windows)
        n_bytes = sum(len(tokenizer.token_bytes(int(i))) for window in windows for i in window[1:])
        wanted = training[: 8 * calibration.N_WINDOWS * n_ctx]
        ids = tokenizer.encode(wanted)[: calibration.N_WINDOWS * n_ctx] if wanted else []
        models: dict[str, gpt2c.Model] = {"bf16": gpt2c.load(source, weights="bf16")}
        errors = {}
        for rounding, folder in q.folders(source, Path(base), ids):
            say(f"{title}: {rounding.name}")
            models[rounding.name] = gpt2c.load(folder)
            with load_checkpoint(folder) as rounded:
                errors[rounding.name] = q.as_records(q.weight_errors(checkpoint, rounded))
        logits: dict[str, q.Logits] = {name: model.logits for name, model in models.items()}
        for name in ("q8", "q4"):
            with load_checkpoint(Path(base) / name) as rounded:
                logits[f"{name}, head's x once"] = q.head_of_one_part(models[name], rounded)
        say(f"{title}: {len(windows)} windows of {n_ctx} tokens")
        record = {
            "title": title,
            "windows": len(windows),
            "n_ctx": n_ctx,
            "weights": errors,
            "text": q.compare(exact.logits, logits, windows, n_bytes),
            "greedy": {name: q.greedy(models[name], exact) for name in ("bf16", "q8", "q4")},
            "floats": 4 * exact.config.n_parameters,
            "bytes": {
                "f32": exact.weight_bytes,
                **{name: models[name].weight_bytes for name in ("bf16", "q8", "q4")},
            },
        }
        for model in models.values():
            model.close()
        return record


def all_accuracy(most_windows: int) -> list[dict[str, Any]]:
    train = DATA / "classics" / "train.txt.xz"
    with lzma.open(train, "rt", encoding="utf-8") as file:
        training = file.read(1 << 20)
    valid = (DATA / "classics" / "valid.txt").read_text(encoding="utf-8")
    records = [accuracy("embedded model, classics/valid.txt", EMBEDDED_MODEL, valid, training, most_windows)]
    published = os.environ.get("GPT2C_GPT2_DIR")
    if published:
        test = (DATA / "wikitext-2" / "test.txt").read_text(encoding="utf-8")
        records.append(accuracy("GPT-2, WikiText-2", Path(published), test, training, most_windows))
    return records


# ---- Times ----


def timing(rounds: int) -> list[dict[str, Any]]:
    """Decoding and prefill of every format, in turn, on the embedded model and GPT-2's own shape."""
    sys.path.insert(0, str(ROOT / "tools"))
    from random_model import write_random_model

    records = []
    with tempfile.TemporaryDirectory() as base:
        say("writing a model of GPT-2's shape")
        write_random_model(Path(base) / "m", GPT2_SMALL)
        for title, source in (("embedded model", EMBEDDED_MODEL), ("GPT-2's shape", Path(base) / "m")):
            models = {name: gpt2c.load(source, weights=name) for name in FORMATS}
            records.append({"title": title, "floats": 4 * models["f32"].config.n_parameters})
            records[-1]["bytes"] = {name: model.weight_bytes for name, model in models.items()}
            records[-1]["decode"] = {str(n): time_decoding(models, n, rounds) for n in DECODE}
            records[-1]["prefill"] = {str(n): time_prefill(models, n, rounds) for n in PREFILL}
            for model in models.values():
                model.close()
    return records


def time_decoding(models: Mapping[str, gpt2c.Model], n_new: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a token, median, least and most."""

    def call(model: gpt2c.Model) -> float:
        with model.session() as session:
            token = session.feed_greedy([1, 2, 3, 4])
            began = perf_counter()
            for _ in range(n_new):
                token = session.feed_greedy([token])
            return (perf_counter() - began) * 1e3 / n_new

    return spreads(models, call, rounds, f"decode {n_new}")


def time_prefill(models: Mapping[str, gpt2c.Model], n: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of a prompt of n tokens."""
    ids = [(7 * i + 1) % 8000 for i in range(n)]

    def call(model: gpt2c.Model) -> float:
        with model.session() as session:
            began = perf_counter()
            session.feed_greedy(ids)
            return n / (perf_counter() - began)

    return spreads(models, call, rounds, f"prefill {n}")


def spreads(models: Mapping[str, gpt2c.Model], call: Any, rounds: int, what: str) -> dict[str, Any]:
    calls = {name: lambda model=model: call(model) for name, model in models.items()}
    harness.interleaved(calls, 1)  # pages, threads, sessions
    say(what)
    taken = harness.interleaved(calls, rounds)
    return {name: vars(harness.Spread.of(samples.results)) for name, samples in taken.items()}


# ---- The page ----


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


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("accuracy", "timing"), help="measure this half (default: both)")
    parser.add_argument("--rounds", type=int, default=7, help="of each timing (default 7)")
    parser.add_argument(
        "--windows", type=int, default=100, help="of the text, spread evenly (default 100; 0 is all)"
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing: write the page anew")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where quantization.json is")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where quantization.md goes")
    args = parser.parse_args(argv)
    path = args.results / "quantization.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    measured = {"accuracy": lambda: all_accuracy(args.windows), "timing": lambda: timing(args.rounds)}
    words = sys.argv[1:] if argv is None else argv
    # Once: what the first half writes makes the checkout differ from its commit.
    origin = harness.Origin.here(words, ROOT, "python bench/quantization_report.py")
    for part in () if args.draw else measured if args.only is None else (args.only,):
        record[part] = {"origin": origin.lines(), "models": measured[part]()}
        harness.write_atomic(path, harness.as_json(record))
    draw(record, args.docs / "quantization", slug_of)
    harness.write_atomic(args.docs / "quantization.md", page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
