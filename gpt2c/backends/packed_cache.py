"""The cache of packed files: weights are packed once, and every later load maps the file.

Packing GPT-2 small takes most of a second and half a gigabyte of private memory. Mapping the packed file
takes milliseconds, and processes share its pages. The files are in `$GPT2C_CACHE`, else
`$XDG_CACHE_HOME/gpt2c`, else `~/.cache/gpt2c`; `GPT2C_CACHE=off` turns the cache off.

Each pair of checkpoint and layout has one file. When the checkpoint changes, a new file replaces it. No other
packed file is ever deleted, but users may delete all of them (`rm -r`) at any time. The cache only saves
time: whatever is wrong with it, `load()` works without it.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import sha256, user_folder
from ..bindings import Binding, NativeModel
from ..checkpoints.checkpoint import Checkpoint
from ..errors import Gpt2cError, ModelFileError
from ..options import Plan

_LOG = logging.getLogger("gpt2c")

MIN_BYTES = 64 << 20
"""Smaller models are not cached, because packing them is quick: the embedded model (34 MB) loads in about
20 ms without the cache and in 5 ms with it."""

_STALE_AFTER_S = 3600.0  # a temporary file of this age was left by a process that was killed


def layout_of(plan: Plan) -> dict[str, Any]:
    """Everything in a plan that changes how weights are laid out. A new option of that kind is added here."""
    return {"aligned": "aligned" in plan, "weights": plan.weights, "head_screen": "head_screen" in plan}


def load_or_build(
    binding: Binding,
    config: dict[str, Any],
    checkpoint: Checkpoint,
    plan: Plan,
    build: Callable[[], NativeModel],
) -> NativeModel:
    """Map the model's packed file. If there is none, call `build()` and save a packed file of its result.

    config: gpt2c_model_config of include/gpt2c.h. Errors are those of `build` and of the binding.
    """
    folder = cache_folder()
    # Row-major weights (without `aligned`) are for learning, and have the checkpoint's own layout.
    if folder is None or "aligned" not in plan or 4 * checkpoint.config.n_parameters < MIN_BYTES:
        return build()
    reason = why_not(folder)
    if reason:
        _warn_once(f"gpt2c: the cache {str(folder)!r} is not used: {reason}", stacklevel=5)
        return build()
    file = _file_of(checkpoint, plan, binding.packed_version(), folder)
    native = _open(file, binding, config)
    if native is None:
        native = build()
        if _save(file, native):
            # Replaces this process's private copy with the file's pages, which all processes share.
            native = _open(file, binding, config) or native
    return native


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of packed files, which may not exist yet. None: the cache is off, or there is no home."""
    named = environ.get("GPT2C_CACHE", "")
    if named == "off":
        return None
    if named:
        return Path(os.path.abspath(named))
    return user_folder(environ, "XDG_CACHE_HOME", ".cache")


def why_not(folder: Path) -> str:
    """Why an existing folder cannot be trusted with weights; "" if it can, or does not exist."""
    try:
        about = os.stat(folder)
    except OSError:
        return ""  # does not exist (if it cannot be accessed, saving fails later)
    if not stat.S_ISDIR(about.st_mode):
        return "it is not a folder"
    if about.st_uid != os.geteuid():
        return "it belongs to another user"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (chmod {stat.S_IMODE(about.st_mode) & ~0o022:o} fixes that)"
    return ""


def is_read_only(folder: Path) -> bool:
    """Whether a folder is not writable. If it does not exist: whether it cannot be created."""
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return not os.access(existing, os.W_OK | os.X_OK)


def packed_files(folder: Path) -> list[Path]:
    """The packed files in a folder, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".packed")
    except OSError:
        return []


@dataclass(frozen=True)
class _PackedFile:
    """A packed file that may not exist. key: identifies the state of the checkpoint that it was made from."""

    path: Path
    key: bytes


def _file_of(checkpoint: Checkpoint, plan: Plan, format_version: int, folder: Path) -> _PackedFile:
    fingerprints = checkpoint.fingerprints()
    model = _digest([list(fingerprints), layout_of(plan)])
    key = _digest([model, list(fingerprints.values()), repr(checkpoint.config), format_version])
    return _PackedFile(folder / f"{model[:16]}-{key[:16]}.packed", key.encode())


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _open(file: _PackedFile, binding: Binding, config: dict[str, Any]) -> NativeModel | None:
    # Before opening: another thread may save the file after an open has failed.
    was_there = os.path.lexists(file.path)
    try:
        return binding.Model.open_packed(os.fsencode(file.path), file.key, config)
    except ModelFileError as error:
        if was_there:
            _warn_once(f"gpt2c: {file.path}: {error}; rebuilt", stacklevel=6)
        return None


def _save(file: _PackedFile, native: NativeModel) -> bool:
    folder = file.path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if why_not(folder):  # another user's folder appeared meanwhile
            return False
        _delete(path for path in folder.glob("*.tmp") if _age_s(path) > _STALE_AFTER_S)
        native.save_packed(os.fsencode(file.path), file.key)
    except (OSError, Gpt2cError) as error:
        _LOG.debug("no packed file in %s: %s", folder, error)
        return False
    same_model = file.path.name.partition("-")[0]
    _delete(path for path in folder.glob(f"{same_model}-*.packed") if path != file.path)
    return True


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            _LOG.debug("not deleted: %s", error)


_warned: set[str] = set()


def _warn_once(message: str, stacklevel: int) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel)
