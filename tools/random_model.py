"""Write a GPT-2 of any shape with random weights: `config.json` and `model.safetensors`.

    python tools/random_model.py gpt2 --seed 1 -o /tmp/random-gpt2
    python tools/random_model.py L2-H4-E64-V512-C128 --dtype bf16 -o /tmp/small

For tests, and for measuring speed and memory without the published weights, since both depend on the shape
alone. The weights have the standard deviation with which GPT-2's training starts: 0.02, for the two
projections into the residual stream divided by sqrt(2 n_layer). Unlike there, biases and layer norms are not
exactly 0 and 1 but random values around them, so that an implementation that omits one gives another result.

Tensor i comes from a generator of its own, PCG64([seed, i]), in float32, and is then rounded to the dtype. So
a tensor does not depend on the others, and the f16 model of a seed is the rounded f32 model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, built or not

from gpt2c.checkpoints.checkpoint import TensorSpec, tensor_specs
from gpt2c.checkpoints.writers import DTYPES, Progress, encode
from gpt2c.checkpoints.writers.huggingface import write_safetensors
from gpt2c.cli.terminal import bar_of_bytes
from gpt2c.config import ModelConfig, parse_config
from gpt2c.errors import ConfigError

# name: n_layer, n_head, n_embd, n_vocab, n_ctx
SHAPES = {
    "tiny": (2, 4, 32, 128, 64),
    "distilgpt2": (6, 12, 768, 50257, 1024),
    "gpt2": (12, 12, 768, 50257, 1024),
    "gpt2-medium": (24, 16, 1024, 50257, 1024),
    "gpt2-large": (36, 20, 1280, 50257, 1024),
    "gpt2-xl": (48, 25, 1600, 50257, 1024),
}

_PIECE = 1 << 20  # elements that are generated at a time, so that memory does not depend on the model's size

_EXPLICIT = re.compile(r"L(\d{1,9})-H(\d{1,9})-E(\d{1,9})-V(\d{1,9})-C(\d{1,9})(?:-I(\d{1,9}))?")


def config_json(shape: str, dtype: str = "f32") -> dict[str, object]:
    """The fields of the `config.json` of a shape.

    shape: a key of `SHAPES`, or a form like `L2-H4-E64-V512-C128` or `L2-H4-E64-V512-C128-I96` (layers,
    heads, n_embd, vocabulary, context, and n_inner if it is not 4 n_embd). dtype: a key of `DTYPES`. Raises
    `ConfigError` for another word.
    """
    explicit = _EXPLICIT.fullmatch(shape)
    if not explicit and shape not in SHAPES:
        names = ", ".join(SHAPES)
        raise ConfigError(
            f"unknown shape {shape!r} (choose from {names}, or a form like L2-H4-E64-V512-C128)"
        )
    sizes = tuple(int(size) for size in explicit.groups()[:5]) if explicit else SHAPES[shape]
    n_layer, n_head, n_embd, n_vocab, n_ctx = sizes
    n_inner = int(explicit[6]) if explicit and explicit[6] else None
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": n_vocab - 1,
        "embd_pdrop": 0.1,
        "eos_token_id": n_vocab - 1,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": n_ctx,
        "n_embd": n_embd,
        "n_head": n_head,
        "n_inner": n_inner,
        "n_layer": n_layer,
        "n_positions": n_ctx,
        "resid_pdrop": 0.1,
        "torch_dtype": DTYPES[dtype][2],
        "vocab_size": n_vocab,
    }


def _mean_and_std(spec: TensorSpec, config: ModelConfig) -> tuple[float, float]:
    if spec.kind.startswith("ln_"):
        return (1.0, 0.1) if spec.kind.endswith(".weight") else (0.0, 0.05)
    if spec.kind.endswith("c_proj.weight"):
        return 0.0, 0.02 / math.sqrt(2 * config.n_layer)
    return 0.0, 0.02


def tensor_bytes(
    spec: TensorSpec, index: int, config: ModelConfig, seed: int, dtype: str
) -> Iterator[memoryview]:
    """The data of the tensor with that index, in pieces."""
    generator = np.random.Generator(np.random.PCG64([seed, index]))
    mean, std = _mean_and_std(spec, config)
    n_remaining = math.prod(spec.shape)
    while n_remaining:
        n = min(n_remaining, _PIECE)
        values = generator.standard_normal(n, dtype=np.float32)
        values *= np.float32(std)
        values += np.float32(mean)
        yield encode(values, dtype).data
        n_remaining -= n


def write_random_model(
    folder: str | os.PathLike[str],
    shape: str,
    seed: int = 0,
    dtype: str = "f32",
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a model of `shape` (see `config_json`) to `folder`, which is created if necessary.

    The files are written to a temporary folder and moved to `folder` when they are complete. Raises
    `FileExistsError` if `folder` holds a model and `force` is false, `ConfigError` for an invalid shape,
    `OSError` if files cannot be written.
    """
    folder = Path(folder).absolute()
    fields = config_json(shape, dtype)
    text = json.dumps(fields, indent=2) + "\n"
    config = parse_config(text.encode(), f"shape {shape}")
    names = ("model.safetensors", "config.json")
    if not force:
        for name in names:
            if os.path.lexists(folder / name):
                raise FileExistsError(f"{folder / name} exists (--force overwrites it)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        _write_weights(partial / names[0], config, seed, dtype, progress)
        (partial / names[1]).write_text(text, encoding="utf-8")
        if folder.exists():
            for name in names:
                os.replace(partial / name, folder / name)
        else:
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_weights(path: Path, config: ModelConfig, seed: int, dtype: str, progress: Progress | None) -> None:
    specs = tensor_specs(config)
    pieces = (
        piece for index, spec in enumerate(specs) for piece in tensor_bytes(spec, index, config, seed, dtype)
    )
    with open(path, "wb") as file:
        write_safetensors(
            file, ((spec.name, spec.shape, DTYPES[dtype][0]) for spec in specs), pieces, progress
        )


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Write a GPT-2 with random weights: config.json and model.safetensors.",
        epilog=f"SHAPE: {', '.join(SHAPES)}, or a form like L2-H4-E64-V512-C128[-I256] "
        "(layers, heads, n_embd, vocabulary, context, n_inner)",
    )
    parser.add_argument("shape", metavar="SHAPE")
    parser.add_argument("--seed", type=_seed, default=0, help="an integer >= 0 (default: 0)")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="dtype of the weights (default: f32)")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, type=Path)
    parser.add_argument("--force", action="store_true", help="overwrite an existing model")
    args = parser.parse_args(argv)
    try:
        write_random_model(args.output, args.shape, args.seed, args.dtype, args.force, bar_of_bytes())
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    except ConfigError as e:
        parser.error(str(e))
    except OSError as e:
        print(f"random_model: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
