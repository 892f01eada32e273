"""From what a user calls a model to the folder or file that holds it.

The Hugging Face hub is reached through the optional package `huggingface_hub`, imported only when a
hub id has to be fetched; its cache folder, its tokens and its offline mode (`HF_HOME`, `HF_TOKEN`,
`HF_HUB_OFFLINE`) are honoured because it alone handles them.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from .._files import quoted
from ..errors import BackendUnavailable, ModelFileError, ModelNotFoundError
from ..text.tokenizer import VOCABULARY_FILES
from .readers import SUFFIXES, names_of_suffixes

_LOG = logging.getLogger("gpt2c")

EMBEDDED_MODEL = Path(__file__).parents[1] / "assets"
"""The folder of the model that comes with the package, which is called EMBEDDED_NAME."""

EMBEDDED_NAME = "embedded"

# "gpt2" or "org/name", as the hub itself allows them; everything else can only be a path.
_HUB_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,95})?")

_FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    *VOCABULARY_FILES,
)

_OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Of a model that has no safetensors."""

_UNREACHABLE = (
    "the hub cannot be reached (is the network down, or HF_HUB_OFFLINE set?) and the local cache does not "
    "have it; fetch it once while online, or give a folder"
)

# What went wrong, by the class of the hub client's error (asked along its bases, most derived first).
_REASONS = {
    "GatedRepoError": "its owner gives access on request: accept its terms on the hub and set HF_TOKEN",
    "RepositoryNotFoundError": "the hub has no such model, or shows it only to users who are logged in",
    "HFValidationError": "the name is not valid on the hub",
    "OfflineModeIsEnabled": _UNREACHABLE,
    "LocalEntryNotFoundError": _UNREACHABLE,
}


def resolve_model(model: str | os.PathLike[str] | None = None) -> Path:
    """The folder, or the file of weights, that holds a model.

    `model`: None for the one that comes with the package; an existing folder; a file of one of the
    kinds in readers/ (a `.safetensors` file with its `config.json` beside it); or, as a `str` and where
    nothing on disk has that name, "embedded", which is the package's again, or a hub id such as "gpt2" or
    "org/name". A hub id is fetched or brought up to date; when the hub cannot be reached, the copy in the
    local cache serves.

    Raises `ModelNotFoundError` when there is nothing of that name, `ModelFileError` for another kind
    of file, `BackendUnavailable` when a hub id needs `huggingface_hub` and it is not installed.
    """
    if model is None:
        return EMBEDDED_MODEL
    name = os.fspath(model)
    if os.path.isdir(name):
        return Path(name)
    if os.path.exists(name):
        return _weights_file(Path(name))
    if model == EMBEDDED_NAME:
        return EMBEDDED_MODEL
    if isinstance(model, str) and _HUB_ID.fullmatch(name) and not name.endswith(SUFFIXES):
        return _fetch(name)
    raise ModelNotFoundError(f"no model at {quoted(name, 300)}: there is no such folder or file")


def _weights_file(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise ModelFileError(f"{quoted(str(path), 300)} is neither a folder nor a {names_of_suffixes()} file")
    if path.suffix == ".safetensors" and not os.path.exists(path.parent / "config.json"):
        raise ModelNotFoundError(f"{quoted(str(path), 300)} has no config.json next to it")
    return path


def download(name: str) -> Path:
    """The hub client's folder for the hub id `name`, fetched or brought up to date.

    The client shows its progress on standard error, and goes on where an earlier download was broken off.
    When the hub cannot be reached, the copy in the local cache serves. Errors as in `resolve_model`.
    """
    if not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(f"{quoted(name, 300)} is not a hub id (such as 'gpt2' or 'org/name')")
    return _fetch(name)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as e:
        raise BackendUnavailable(
            f"'{name}' is not a folder; to fetch it from the Hugging Face hub install the extra: "
            "pip install 'gpt2c[hub]'"
        ) from e

    def snapshot(local_files_only: bool, files: tuple[str, ...] = _FILES) -> Path:
        folder = snapshot_download(
            name,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],  # other formats of the same model, in folders of their own
            local_files_only=local_files_only,
        )
        return Path(folder)

    # Exception, because what the client raises depends on its release and on the HTTP library below it.
    try:
        folder = snapshot(local_files_only=False)
        if not any(folder.glob("*.safetensors")):  # else they would all be fetched twice
            folder = snapshot(local_files_only=False, files=_OLD_WEIGHTS)
    except Exception as error:
        try:
            folder = snapshot(local_files_only=True)
        except Exception:
            raise ModelNotFoundError(
                f"'{name}' is not a folder, and cannot be fetched from the Hugging Face hub: {_reason(error)}"
            ) from error
        _LOG.warning("%s: loaded from the local cache, because %s", name, _reason(error))
    for needed, other in (("config.json", "config.json"), ("*.safetensors", "pytorch_model*.bin")):
        if not any(folder.glob(needed)) and not any(folder.glob(other)):
            raise ModelNotFoundError(
                f"'{name}': the hub's copy in {quoted(str(folder), 300)} has no {needed}; "
                "the model has none, or the copy is incomplete: try again while online"
            )
    return folder


def _reason(error: BaseException) -> str:
    for base in type(error).__mro__:
        if base.__name__ in _REASONS:
            return _REASONS[base.__name__]
    first = next(iter(str(error).split("\n")), "").strip()  # these messages may fill a screen
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
