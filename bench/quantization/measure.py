"""The measurements of bench/quantization_report.py: accuracy, decoding and prefill."""

from __future__ import annotations

import lzma
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.quantization import calibration
from quantization import roundings as q
from shared import harness
from shared.checkout import ROOT, random_model

DATA = Path(os.environ.get("GPT2C_DATA", ROOT.parent / "shared" / "data"))
FORMATS = ("f32", "bf16", "q8", "q4")
DECODE = (16, 32, 64)
PREFILL = (16, 64, 256, 512)
GPT2_SMALL = "gpt2"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- Accuracy ----


def accuracy(title: str, source: Path, text: str, training: str, max_windows: int) -> dict[str, Any]:
    """All figures that do not depend on the machine. training: the calibration text, "" for none."""
    with (
        gpt2c.load(source) as exact,
        load_checkpoint(source) as checkpoint,
        tempfile.TemporaryDirectory() as base,
    ):
        tokenizer, n_ctx = exact.tokenizer, exact.config.n_ctx
        windows = q.windows_of(tokenizer.encode(text), n_ctx, max_windows)
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


def all_accuracy(max_windows: int) -> list[dict[str, Any]]:
    train = DATA / "classics" / "train.txt.xz"
    with lzma.open(train, "rt", encoding="utf-8") as file:
        training = file.read(1 << 20)
    valid = (DATA / "classics" / "valid.txt").read_text(encoding="utf-8")
    records = [accuracy("embedded model, classics/valid.txt", EMBEDDED_MODEL, valid, training, max_windows)]
    published = os.environ.get("GPT2C_GPT2_DIR")
    if published:
        test = (DATA / "wikitext-2" / "test.txt").read_text(encoding="utf-8")
        records.append(accuracy("GPT-2, WikiText-2", Path(published), test, training, max_windows))
    return records


# ---- Times ----


def timing(rounds: int) -> list[dict[str, Any]]:
    """Time decoding and prefill with all formats alternately, on the embedded model and GPT-2's shape."""
    records = []
    with tempfile.TemporaryDirectory() as base:
        say("writing a model of GPT-2's shape")
        random_model.write_random_model(Path(base) / "m", GPT2_SMALL)
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
    """Milliseconds per token: median, minimum and maximum."""

    def call(model: gpt2c.Model) -> float:
        with model.session() as session:
            token = session.feed_greedy([1, 2, 3, 4])
            began = perf_counter()
            for _ in range(n_new):
                token = session.feed_greedy([token])
            return (perf_counter() - began) * 1e3 / n_new

    return spreads(models, call, rounds, f"decode {n_new}")


def time_prefill(models: Mapping[str, gpt2c.Model], n: int, rounds: int) -> dict[str, Any]:
    """Tokens per second for a prompt of n tokens."""
    ids = [(7 * i + 1) % 8000 for i in range(n)]

    def call(model: gpt2c.Model) -> float:
        with model.session() as session:
            began = perf_counter()
            session.feed_greedy(ids)
            return n / (perf_counter() - began)

    return spreads(models, call, rounds, f"prefill {n}")


def spreads(models: Mapping[str, gpt2c.Model], call: Any, rounds: int, what: str) -> dict[str, Any]:
    calls = {name: lambda model=model: call(model) for name, model in models.items()}
    harness.interleaved(calls, 1)  # warms up pages, threads and sessions
    say(what)
    taken = harness.interleaved(calls, rounds)
    return {name: vars(harness.Spread.of(samples.results)) for name, samples in taken.items()}
