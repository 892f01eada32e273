"""The measurements of bench/training_report.py: the embedded model before and after fine-tuning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shared.checkout import ROOT

# isort: split
import prepare_text
import train
from training.report import read_log
from training.token_file import read_tokens

import gpt2c
from gpt2c.errors import Gpt2cError

TEXT = Path(os.environ.get("GPT2C_DATA", ROOT.parent / "shared" / "data")) / "tinyshakespeare" / "input.txt"

PREPARE = "--recipe tinyshakespeare"
TRAIN = "--model embedded --batch 8 --steps 200 --lr 1e-3 --warmup 10 --valid-every 25"
QUICK = "--model embedded --batch 2 --steps 6 --lr 1e-3 --warmup 2 --context 64 --valid-every 3"
PROMPT = "ROMEO:"
N_SAMPLE = 100


def measure(folder: Path, flags: str) -> dict[str, Any]:
    """Fine-tune in a folder. The record has scores before and after, and tokens and seconds of training."""
    tokens, run = folder / "tokens", folder / "run"
    prepared = prepare_text.main([str(TEXT), "-o", str(tokens), *PREPARE.split()])
    files = [str(tokens / "train.bin"), "--valid", str(tokens / "valid.bin")]
    if prepared or train.main([*files, "-o", str(run), *flags.split()]):
        raise Gpt2cError("a tool failed; its message is above")
    held_out = read_tokens(tokens / "valid.bin").tolist()
    steps = [row for row in read_log(run / "log.jsonl") if "loss" in row]
    n_tokens = [row["n_tokens"] for row in steps]
    return {
        "n_train": len(read_tokens(tokens / "train.bin")),
        "n_held_out": len(held_out),
        "n_trained": sum(n_tokens),
        "seconds": sum(n / row["tokens_per_s"] for n, row in zip(n_tokens, steps, strict=True)),
        "before": described(None, held_out),
        "after": described(run / "model", held_out),
    }


def described(model: Path | None, held_out: list[int]) -> dict[str, Any]:
    """Perplexity and bits per byte of the held-out ids, and a sample with the defaults of `gpt2c run`."""
    with gpt2c.load(model) as loaded:
        score = loaded.score(held_out)
        sample = PROMPT + loaded.generate(PROMPT, N_SAMPLE, temperature=0.8, top_k=40, seed=0).text
    return {"perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte, "sample": sample}
