"""Finding the folder or file of a model by the name that a user gives.

The optional package `huggingface_hub` downloads models from the Hugging Face hub; it is imported only when a
hub id has to be fetched. It handles the cache folder, the tokens and the offline mode, so `HF_HOME`,
`HF_TOKEN` and `HF_HUB_OFFLINE` work as usual.
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
"""The folder of the model that comes with the package. Users call it by EMBEDDED_NAME."""

EMBEDDED_NAME = "embedded"

# "gpt2" or "org/name", by the hub's own rules; anything else can only be a path.
_HUB_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,95})?")

_FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    *VOCABULARY_FILES,
)

_OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Files to fetch if a model has no safetensors file."""

_UNREACHABLE = (
    "the hub cannot be reached (is the network down, or HF_HUB_OFFLINE set?) and the local cache does not "
    "have it; fetch it once while online, or give a folder"
)

# Error messages by the class of the hub client's error, looked up along its bases, most derived first.
_REASONS = {
    "GatedRepoError": "its owner gives access on request: accept its terms on the hub and set HF_TOKEN",
    "RepositoryNotFoundError": "the hub has no such model, or shows it only to users who are logged in",
    "HFValidationError": "the name is not valid on the hub",
    "OfflineModeIsEnabled": _UNREACHABLE,
    "LocalEntryNotFoundError": _UNREACHABLE,
}


def resolve_model(model: str | os.PathLike[str] | None = None) -> Path:
    """The folder or weight file of a model.

    `model`: None for the model that comes with the package; an existing folder; or a file of a format in
    readers/ (a `.safetensors` file needs a `config.json` in its folder). A `str` that names nothing on disk
    may also be "embedded", which is the package's model, or a hub id such as "gpt2" or "org/name". A hub id
    is downloaded or updated; if the hub cannot be reached, the copy in the local cache is used.

    Raises `ModelNotFoundError` if nothing has that name, `ModelFileError` for another kind of file,
    `BackendUnavailable` if a hub id needs `huggingface_hub` and it is not installed.
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
    """Download or update the model with the hub id `name`; returns its folder in the hub client's cache.

    The client shows its progress on standard error and resumes an interrupted download. If the hub cannot be
    reached, the copy in the local cache is used. Errors as in `resolve_model`.
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
            ignore_patterns=["*/*"],  # subfolders hold other formats of the same model
            local_files_only=local_files_only,
        )
        return Path(folder)

    # Exception, because what the client raises depends on its version and on its HTTP library.
    try:
        folder = snapshot(local_files_only=False)
        if not any(folder.glob("*.safetensors")):  # not fetched together: most models have both
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
    first = next(iter(str(error).split("\n")), "").strip()  # the messages may have many lines
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
