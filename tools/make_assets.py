"""Make the embedded model: the whole recipe, from the texts to the folder that the package contains.

    python tools/make_assets.py DATA -o WORK [--first MODEL] [--quick]

DATA holds valid.txt and train.txt.xz (or train.txt), with documents separated by `<|endoftext|>`. The tool
writes into WORK: vocabulary/, tokens/, a folder for each run of tools/train.py, assets/ with the model, its
vocabulary and a README with the measured figures, and draft/ with a small draft model for it. On two CPU
cores this takes hours. If it is interrupted, the same command continues.

--first MODEL skips the vocabulary and the first run, and starts from that model. --quick uses tiny sizes, to
test that the recipe runs. Needs the extra: pip install 'gpt2c[train]'.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import prepare_text
import train
import train_tokenizer
from training.report import read_log

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.writers.huggingface import write_json
from gpt2c.errors import Gpt2cError
from gpt2c.text.tokenizer import VOCABULARY_FILES

TEMPLATE = Path(__file__).resolve().parent / "assets.in.md"
ASSETS = ("config.json", "model.safetensors", *VOCABULARY_FILES)
PROMPTS = ("Once upon a time", '"What is the matter?" said')


@dataclass(frozen=True)
class Recipe:
    """The sizes of a recipe, and the arguments of tools/train.py for each of its runs.

    n_hold_out: tokens at the start of the text that the runs are validated on. runs: each run starts from the
    model of the one before it. draft: the run of the draft model. n_sample: tokens of a sample text.
    """

    n_vocab: int
    n_hold_out: int
    runs: tuple[str, ...]
    draft: str
    n_sample: int


FULL = Recipe(
    n_vocab=8192,
    n_hold_out=131_072,
    runs=(
        "--shape L8-H4-E256-V8192-C512 --batch 8 --steps 3657 --lr 3e-3 --warmup 60 --decay 2194 "
        "--weight-decay 0.05 --seed 1337 --compile",
        "--batch 16 --steps 900 --lr 3e-3 --warmup 30 --decay 500 --weight-decay 0.05 --seed 1 "
        "--save-every 100 --compile --save-as f16",
        "--batch 8 --steps 5800 --lr 2e-3 --warmup 20 --decay 3900 --weight-decay 0.05 --seed 2 "
        "--save-every 250 --valid-every 500 --compile --save-as f16",
    ),
    draft="--shape L2-H4-E96-V8192-C512 --batch 16 --steps 400 --lr 6e-3 --warmup 30 --weight-decay 0.05 "
    "--seed 3 --compile --save-as f16",
    n_sample=80,
)
QUICK = Recipe(
    n_vocab=400,
    n_hold_out=256,
    runs=(
        "--shape L1-H2-E16-V400-C32 --batch 2 --steps 6 --warmup 2 --decay 3",
        "--batch 2 --steps 6 --warmup 2 --decay 3",
        "--batch 2 --steps 4 --warmup 2 --save-as f16",
    ),
    draft="--shape L1-H2-E16-V400-C32 --batch 2 --steps 6 --warmup 2 --save-as f16",
    n_sample=8,
)
FIRST = (
    "3,657 steps of 8 windows (15.0 M tokens), peak rate 0.003, 60 steps of warmup, constant for 40 % of the "
    "time, then linear to 2 %, seed 1337"
)  # the record of the model that was passed as --first when the package's model was made


def make(data: Path, work: Path, recipe: Recipe, first: str | None) -> None:
    """Do the steps that are not done yet. Gpt2cError: a step failed."""
    plain, packed = data / "train.txt", data / "train.txt.xz"
    text = plain if plain.exists() else packed
    vocabulary = work / "vocabulary" if first is None else Path(first)
    if first is None and not vocabulary.exists():
        _do(train_tokenizer.main, text, "-o", vocabulary, "--size", recipe.n_vocab)
    tokens = work / "tokens"
    if not (tokens / "train.bin").exists():  # train.bin is written last
        hold_out = "--hold-out", recipe.n_hold_out
        _do(prepare_text.main, text, "-o", tokens, "--vocabulary", vocabulary, *hold_out)
    model: str | Path | None = first
    runs = [(work / f"run-{n}", flags) for n, flags in enumerate(recipe.runs, 1)]
    for run, flags in runs[0 if first is None else 1 :]:
        start = ("--vocabulary", vocabulary) if model is None else ("--model", model)
        model = _train(run, tokens, flags, *start)
    assert model is not None
    _assemble(data / "valid.txt", work, [run for run, _ in runs], recipe.n_sample)
    _train(work / "draft", tokens, recipe.draft, "--vocabulary", model, "--teacher", model)


def _train(run: Path, tokens: Path, flags: str, *more: object) -> Path:
    """Start or resume a run of tools/train.py unless it is complete; returns the folder of its model."""
    model = run / "model"
    if not model.exists():
        resume = ["--resume"] if (run / "checkpoint.pt").exists() else []
        if not resume:
            shutil.rmtree(run, ignore_errors=True)  # the remains of a run that has no checkpoint yet
        files = tokens / "train.bin", "--valid", tokens / "valid.bin"
        _do(train.main, *files, "-o", run, *flags.split(), *more, *resume)
    return model


def _do(main: Callable[[list[str]], int], *words: object) -> None:
    arguments = [str(word) for word in words]
    print(f"make_assets: {main.__module__} {' '.join(arguments)}", file=sys.stderr, flush=True)
    if main(arguments):
        raise Gpt2cError(f"tools/{main.__module__}.py failed; run the same command again to continue")


def _assemble(valid: Path, work: Path, runs: list[Path], n_sample: int) -> None:
    """Measure the last run's model, and write it with its vocabulary and README to WORK/assets."""
    trained, text = runs[-1] / "model", prepare_text.read_text(valid)
    record = {
        "runs": [_run_record(run) if run.exists() else None for run in runs],
        "scores": {weights: _score(trained, text, weights) for weights in ("f32", "bf16", "q8", "q4")},
        "samples": [_sample(trained, prompt, n_sample) for prompt in PROMPTS],
    }
    with gpt2c.load(trained) as model:
        record["config"] = vars(model.config) | {"n_parameters": model.config.n_parameters}
    files = [trained / name for name in ASSETS if (trained / name).exists()]
    record["bytes"] = sum(path.stat().st_size for path in files)
    assets = work / "assets"
    shutil.rmtree(assets, ignore_errors=True)
    assets.mkdir()
    for path in files:
        shutil.copyfile(path, assets / path.name)
    write_json(work / "record.json", record)
    (assets / "README.md").write_text(readme(record), encoding="utf-8")
    print(f"make_assets: wrote {assets} and {work / 'record.json'}", file=sys.stderr)


def _run_record(run: Path) -> dict[str, Any]:
    """The settings of a run, and its last validation loss."""
    rows = read_log(run / "log.jsonl")
    rates = [row["rate"] for row in rows if "rate" in row]
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    with load_checkpoint(run / "model") as checkpoint:
        n_parameters = checkpoint.config.n_parameters
    return {
        **{name: float(settings[name]) for name in ("lr", "weight_decay")},
        **{name: int(settings[name]) for name in ("batch", "warmup", "seed")},
        "steps": len(rates),
        "decay": sum(now < before for before, now in pairwise(rates)) + 1,  # + 1 for the peak
        "n_tokens": sum(row["n_tokens"] for row in rows if "loss" in row),
        "n_parameters": n_parameters,
        "valid_loss": [row["valid_loss"] for row in rows if "valid_loss" in row][-1],
    }


def _score(folder: Path, text: str, weights: str) -> dict[str, Any]:
    """The figures that `gpt2c score --weights F` prints."""
    with gpt2c.load(folder, weights=weights) as model:
        score = model.score(text)
    return {
        "n_tokens": score.logprobs.size + 1,
        "nll": score.nll,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
    }


def _sample(folder: Path, prompt: str, n: int) -> str:
    """A prompt with its continuation, with the default temperature, top-k and seed of `gpt2c run`."""
    with gpt2c.load(folder) as model:
        return prompt + model.generate(prompt, n, temperature=0.8, top_k=40, seed=0).text


def readme(record: dict[str, Any]) -> str:
    """The README of the assets: the template with the figures of a record."""
    config = record["config"]
    scores = "\n".join(
        f"| {weights:7} | {s['nll']:13.4f} | {s['perplexity']:10.2f} | {s['bits_per_byte']:9.4f} |"
        for weights, s in record["scores"].items()
    )
    fields = {
        "shape": f"{config['n_layer']} layers, {config['n_head']} heads, n_embd {config['n_embd']}, "
        f"{config['n_ctx']} positions",
        "n_vocab": f"{config['n_vocab']:,}",
        "n_parameters": f"{config['n_parameters']:,}",
        "megabytes": f"{record['bytes'] / 1e6:.1f}",
        "runs": "\n".join(f"{n}. {_words(run)}." for n, run in enumerate(record["runs"], 1)),
        "n_scored": f"{record['scores']['f32']['n_tokens']:,}",
        "scores": scores,
        "samples": "\n\n".join("> " + " ".join(sample.split()) for sample in record["samples"]),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(fields)


def _words(run: dict[str, Any] | None) -> str:
    if run is None:
        return FIRST
    return (
        f"{run['steps']:,} steps of {run['batch']} windows ({run['n_tokens'] / 1e6:.1f} M tokens), "
        f"peak rate {run['lr']:g}, "
        f"{run['warmup']} steps of warmup, linear to 0 over the last {run['decay']}, "
        f"weight decay {run['weight_decay']:g}, seed {run['seed']}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA", type=Path, help="folder with train.txt.xz and valid.txt")
    parser.add_argument("-o", "--output", metavar="WORK", type=Path, required=True)
    parser.add_argument("--first", metavar="MODEL", help="a folder: start from this model")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test that the recipe runs")
    args = parser.parse_args(argv)
    try:
        make(args.data, args.output, QUICK if args.quick else FULL, args.first)
    except Gpt2cError as error:
        print(f"make_assets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
