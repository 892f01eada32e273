"""Train a GPT-2 on a text: from scratch, or from any model that gpt2c loads.

    python tools/train.py TRAIN -o RUN --model MODEL           start from a folder, file or hub id
    python tools/train.py TRAIN -o RUN --shape L8-H4-E256-V8192-C512 --vocabulary FOLDER
    python tools/train.py TRAIN -o RUN ... --resume            continue from RUN/checkpoint.pt

TRAIN and the file of --valid are UTF-8 texts (plain, xz or gzip) or token files of tools/prepare_text.py. The
tool writes to the folder RUN: log.jsonl (one line per step), checkpoint.pt, and at the end loss.png and the
folder model/, which `gpt2c.load` and transformers load. Needs the extra: pip install 'gpt2c[train]'. See
docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Threads that spin at a barrier slow each other down if the cores are shared. Must be set before torch is
# imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout

try:
    import torch
except ImportError:
    sys.exit("train: training needs PyTorch: pip install 'gpt2c[train]'")

import numpy as np
import prepare_text
import random_model
from numpy.typing import NDArray
from training import checkpoints, report
from training.data import Windows
from training.loop import Settings, Trainer
from training.model import GPT2
from training.optimizers import OPTIMIZERS, Schedule
from training.token_file import is_token_file, read_tokens

from gpt2c._files import write_whole
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import resolve_model
from gpt2c.checkpoints.writers import DTYPES, write_folder
from gpt2c.config import config_of_fields
from gpt2c.errors import ConfigError, Gpt2cError, OptionError
from gpt2c.text.tokenizer import Tokenizer

_MAY_CHANGE = {"output", "steps", "decay", "resume", "valid_every", "save_every"}  # when a run is resumed
LOG_EVERY = 20  # steps between two printed lines, if there is no progress bar


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.model is None) != (args.shape is not None):
        parser.error("give one of --model and --shape")
    if args.vocabulary and not args.shape:
        parser.error("--vocabulary is for --shape: a model has its own")
    try:
        train(args)
    except OptionError as error:
        parser.error(str(error))
    except Gpt2cError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


def _number(
    kind: type[int] | type[float], minimum: float, maximum: float = math.inf
) -> Callable[[str], float]:
    """A parser for argparse: a number of that kind in [minimum, maximum]."""
    bounds = f"from {minimum:g}" + (f" to {maximum:g}" if maximum < math.inf else "")

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or math.isinf(value):
            whole = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {whole} {bounds}")
        return value

    return parse


_count, _whole = _number(int, 1), _number(int, 0)
_positive, _fraction = _number(float, 1e-12), _number(float, 0, 1)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default to each help text, except for None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=_HelpFormatter)
    add = parser.add_argument
    add("train", metavar="TRAIN", type=Path, help="a text or a token file")
    add("-o", "--output", metavar="RUN", type=Path, required=True, help="folder of the run")
    add("--model", help="start from this folder, file or hub id ('embedded' is the one in the package)")
    add("--shape", help="start from random weights of a shape such as L8-H4-E256-V8192-C512")
    add("--vocabulary", metavar="MODEL", help="with --shape: a folder or hub id (default: the embedded one)")
    add("--valid", metavar="FILE", type=Path, help="a text or token file to validate on")
    add("--steps", type=_count, default=1000, help="total number of steps")
    add("--batch", type=_count, default=16, help="windows per step")
    add("--context", metavar="N", type=_count, help="tokens per window (default: the model's n_ctx)")
    add("--lr", metavar="RATE", type=_positive, default=1e-3, help="peak learning rate")
    add("--warmup", metavar="STEPS", type=_whole, default=20, help="steps of linear rise")
    add("--decay", metavar="STEPS", type=_whole, help="steps of linear fall to 0 (default: all after warmup)")
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default="muon",
        help="for the matrices in the layers; AdamW is for all other weights",
    )
    add("--weight-decay", metavar="W", type=_fraction, default=0.05, help="weight decay of the matrices")
    add("--beta1", type=_fraction, default=0.9, help="first beta of AdamW")
    add("--beta2", type=_fraction, default=0.95, help="second beta of AdamW")
    add("--clip", metavar="NORM", type=_positive, default=1.0, help="maximum norm of the gradient")
    add("--seed", type=_whole, default=0, help="seed of the initial weights and the order of the data")
    add("--dtype", choices=("bf16", "f32"), default="bf16", help="dtype of the matrix products")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    add("--threads", metavar="N", type=_count, help="CPU threads (default: PyTorch's choice)")
    add("--compile", action=argparse.BooleanOptionalAction, default=False, help="use torch.compile")
    add("--teacher", metavar="MODEL", help="learn this model's probabilities, not the text's tokens")
    add("--valid-every", metavar="STEPS", type=_count, default=250, help="steps between validations")
    add("--valid-windows", metavar="N", type=_count, default=64, help="maximum number of validation windows")
    add("--save-every", metavar="STEPS", type=_count, default=250, help="steps between checkpoints")
    add("--save-as", choices=DTYPES, default="f32", help="dtype of the model that is written")
    add(
        "--resume",
        action="store_true",
        help="continue a run; --steps and --decay may differ from before",
    )
    return parser


def train(args: argparse.Namespace) -> None:
    """Train as the arguments say. Gpt2cError: the run did not start, or it can be resumed."""
    if args.threads:
        torch.set_num_threads(args.threads)
    model, fields, vocabulary = _start(args)
    run: Path = args.output
    model_folder = run / "model"
    n = args.context or model.config.n_ctx
    if n > model.config.n_ctx:
        raise OptionError(f"--context {n} is more than the model's {model.config.n_ctx}")

    def windows(path: Path) -> Windows:
        return Windows(_tokens(path, vocabulary, model.config.n_vocab), n, args.seed)

    valid = windows(args.valid) if args.valid else None
    trainer = Trainer(model, windows(args.train), valid, _settings(args), run, _teacher(args, model))
    _open_run(run, args)
    if args.resume:
        trainer.resume()
    with report.progress(args.steps, trainer.step, LOG_EVERY) as show, trainer.stopped_by_interrupt():
        trainer.run(show)
    if trainer.step < args.steps:
        raise Gpt2cError(f"interrupted after step {trainer.step}; --resume continues from there")
    write_folder(checkpoints.checkpoint_of(model, fields, vocabulary), model_folder, args.save_as)
    try:
        report.draw_loss(run / "log.jsonl", run / "loss.png")
    except ImportError:
        print("train: loss.png not drawn: matplotlib is not installed", file=sys.stderr)
    print(f"train: wrote {model_folder}", file=sys.stderr)


def _start(args: argparse.Namespace) -> tuple[GPT2, dict[str, object], Path]:
    """The model to train, the fields of its config.json, and the folder of its vocabulary."""
    if args.model is not None:
        return _loaded(args.model)
    try:
        fields = random_model.config_json(args.shape)
        config = config_of_fields(fields, "--shape")
    except ConfigError as error:
        raise OptionError(str(error)) from None
    fields |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    model = GPT2(config)
    model.initialize(args.seed)
    return model, fields, resolve_model(args.vocabulary)


def _loaded(name: str) -> tuple[GPT2, dict[str, object], Path]:
    with load_checkpoint(resolve_model(name)) as checkpoint:
        model = GPT2(checkpoint.config)
        model.load(checkpoint)
        return model, checkpoint.config_fields, checkpoint.folder


def _teacher(args: argparse.Namespace, model: GPT2) -> GPT2 | None:
    if args.teacher is None:
        return None
    teacher, _, _ = _loaded(args.teacher)
    if teacher.config.n_vocab != model.config.n_vocab:
        both = f"{teacher.config.n_vocab:,} ids, the model one of {model.config.n_vocab:,}"
        raise OptionError(f"--teacher has a vocabulary of {both}")
    return teacher


def _tokens(path: Path, vocabulary: Path, n_vocab: int) -> NDArray[np.uint16]:
    """The ids of a text or token file, uint16 [n]."""
    if is_token_file(path):
        ids = read_tokens(path)
    else:
        ids = prepare_text.encode(prepare_text.read_text(path), Tokenizer.from_folder(vocabulary))
    if ids.max() >= n_vocab:
        raise Gpt2cError(
            f"{str(path)!r} has the id {ids.max()}, but the model's vocabulary ends at {n_vocab - 1:,}"
        )
    return ids


def _open_run(run: Path, args: argparse.Namespace) -> None:
    """Create the folder of a run, or check that the run to resume was started with the same arguments."""
    path = run / "settings.json"
    given = {name: str(value) for name, value in vars(args).items() if name not in _MAY_CHANGE}
    if (run / "model").exists():
        raise Gpt2cError(f"{str(run / 'model')!r} already exists: the run is complete")
    if not args.resume:
        if path.exists():
            raise Gpt2cError(f"{str(run)!r} holds a run: --resume continues it, or give another folder")
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Gpt2cError(f"{str(run)!r} cannot be created: {error.strerror}") from None
        write_whole(path, json.dumps(given, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Gpt2cError(f"{str(run)!r} holds no run to resume: no readable settings.json") from None
    for name, value in given.items():
        if before.get(name) != value:
            raise OptionError(f"--{name.replace('_', '-')} was {before.get(name)} before and is {value} now")


def _settings(args: argparse.Namespace) -> Settings:
    decay = args.steps - args.warmup if args.decay is None else args.decay
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Settings(
        schedule=Schedule(args.lr, args.steps, args.warmup, max(decay, 0)),
        batch=args.batch,
        optimizer=args.optimizer,
        weight_decay=args.weight_decay,
        betas=(args.beta1, args.beta2),
        clip=args.clip,
        bf16=args.dtype == "bf16",
        compile=args.compile,
        device=device,
        valid_every=args.valid_every,
        valid_windows=args.valid_windows,
        save_every=args.save_every,
    )


if __name__ == "__main__":
    sys.exit(main())
