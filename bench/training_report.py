"""Write docs/training.md: fine-tune the embedded model on Tiny Shakespeare, say what came of it.

    python bench/training_report.py            # some minutes on two CPU cores; writes docs/training.md
    python bench/training_report.py --quick    # six steps; prints the page

Runs the commands that the page shows on tinyshakespeare/input.txt of $GPT2C_DATA, and measures the model
before and after with `gpt2c.Model.score`. The page's text is docs/training.in.md. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Any

import harness

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import prepare_text  # noqa: E402
import train  # noqa: E402
from training.report import read_log  # noqa: E402
from training.token_file import read_tokens  # noqa: E402

import gpt2c  # noqa: E402
from gpt2c.errors import Gpt2cError  # noqa: E402

TEXT = Path(os.environ.get("GPT2C_DATA", ROOT.parent / "shared" / "data")) / "tinyshakespeare" / "input.txt"
DOCS = ROOT / "docs"

PREPARE = "--recipe tinyshakespeare"
TRAIN = "--model embedded --batch 8 --steps 200 --lr 1e-3 --warmup 10 --valid-every 25"
QUICK = "--model embedded --batch 2 --steps 6 --lr 1e-3 --warmup 2 --context 64 --valid-every 3"
PROMPT = "ROMEO:"
N_SAMPLE = 100


def measure(folder: Path, flags: str) -> dict[str, Any]:
    """Fine-tune in a folder; what the model was before and after, and what it took."""
    tokens, run = folder / "tokens", folder / "run"
    prepared = prepare_text.main([str(TEXT), "-o", str(tokens), *PREPARE.split()])
    files = [str(tokens / "train.bin"), "--valid", str(tokens / "valid.bin")]
    if prepared or train.main([*files, "-o", str(run), *flags.split()]):
        raise Gpt2cError("a step failed; what it said is above")
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
    """Perplexity and bits a byte of the held-out ids, and a sample with the defaults of `gpt2c run`."""
    with gpt2c.load(model) as loaded:
        score = loaded.score(held_out)
        sample = PROMPT + loaded.generate(PROMPT, N_SAMPLE, temperature=0.8, top_k=40, seed=0).text
    return {"perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte, "sample": sample}


def page(record: dict[str, Any]) -> str:
    """The page: its text with the figures of a record."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="six steps; prints the page, writes nothing")
    args = parser.parse_args()
    origin = harness.Origin.here(sys.argv[1:], ROOT, "python bench/training_report.py")
    with tempfile.TemporaryDirectory() as base:
        try:
            record = {"origin": origin, **measure(Path(base), QUICK if args.quick else TRAIN)}
        except Gpt2cError as error:
            print(f"training_report: {error}", file=sys.stderr)
            return 1
        if args.quick:
            print(page(record))
            return 0
        (DOCS / "training").mkdir(exist_ok=True)
        shutil.copyfile(Path(base) / "run" / "loss.png", DOCS / "training" / "tinyshakespeare.png")
    harness.write_atomic(ROOT / "bench" / "results" / "training.json", harness.as_json(record))
    harness.write_atomic(DOCS / "training.md", page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
