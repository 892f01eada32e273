"""`gpt2c info`: describe the installation, a model and the cache."""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .. import bindings, build_info
from ..backends import packed_cache
from ..checkpoints import hub
from ..checkpoints.checkpoint import tensor_specs
from ..config import ModelConfig
from ..errors import ModelFileError
from ..model import Model
from .arguments import add_model_arguments, load_model

HELP = "describe the installation, a model and the cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `info`."""
    parser.add_argument("--verify", action="store_true", help="first check all packed files in the cache")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Print the description, and check the cache first with --verify."""
    if args.verify:
        verify_cache(args.binding)
    with load_model(args) as model:
        built, c = build_info(args.binding), model.config
        supported = built["isas_supported"]
        isas = [name if name in supported else f"({name})" for name in built["isas_compiled"]]
        print(f"gpt2c {built['version']}")
        print(f"binding      {built['binding']} (built: {', '.join(built['bindings'])})")
        print(f"isa          {built['isa']} (compiled: {' '.join(isas)}; in brackets: cannot run here)")
        print(f"model        {args.model or hub.EMBEDDED_NAME}")
        print(
            f"shape        n_layer={c.n_layer} n_head={c.n_head} n_embd={c.n_embd} n_inner={c.n_inner} "
            f"n_ctx={c.n_ctx} n_vocab={c.n_vocab}"
        )
        print(f"parameters   {c.n_parameters:,}")
        for line in _shape_lines(c):
            print(line)
        print(f"weights      {_bytes_by_format(model)}")
        print(f"plan         {model.plan}")
    print(f"cache        {_cache_line()}")


def _shape_lines(config: ModelConfig) -> Iterator[str]:
    """Yield a line for each kind of tensor: the number of tensors and their shape."""
    specs = tensor_specs(config)
    counts = Counter(spec.kind for spec in specs)
    shapes = {spec.kind: list(spec.shape) for spec in specs}
    for kind, shape in shapes.items():
        yield f"  {kind:20} {counts[kind]:4} x {shape}"


def _bytes_by_format(model: Model) -> str:
    """Describe the bytes of weights by format.

    Matrices are in the plan's format; position embeddings, biases and norms are always float32.
    """
    total, name = model.weight_bytes, model.plan.weights
    plain = sum(4 * math.prod(spec.shape) for spec in tensor_specs(model.config) if not spec.is_matrix)
    by_format = {"f32": total} if name == "f32" else {name: total - plain, "f32": plain}
    return ", ".join(f"{name} {n:,} bytes" for name, n in by_format.items())


def _cache_line() -> str:
    folder = packed_cache.cache_folder()
    if folder is None:
        return "off (GPT2C_CACHE=off)" if os.environ.get("GPT2C_CACHE") else "off (no home folder)"
    refused = packed_cache.why_not(folder)
    if refused:
        return f"off: {folder}: {refused}"
    files = packed_cache.packed_files(folder)
    state = "read-only" if packed_cache.is_read_only(folder) else "on"
    return f"{state}, {folder}: {len(files)} packed files, {sum(map(_size, files)):,} bytes"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted since it was listed
        return 0


def verify_cache(binding: str) -> None:
    """Read every packed file in the cache and verify its checksums. Raises ModelFileError if one is bad."""
    folder = packed_cache.cache_folder()
    native = bindings.select(binding)
    n_bad = 0
    for path in packed_cache.packed_files(folder) if folder else []:
        try:
            native.packed_info(os.fsencode(path), True)
            print(f"good         {path}")
        except ModelFileError as error:
            n_bad += 1
            print(f"BAD          {path}: {error}")
    if n_bad:
        raise ModelFileError(
            f"bad packed files in the cache: {n_bad}; delete them, and the next load rebuilds them"
        )
