"""Reader of files that torch.save wrote: Hugging Face's pytorch_model.bin, and nanoGPT's ckpt.pt.

These files are pickles, which can run any code when they are loaded. They are read only through torch's
loader with `weights_only`, which builds tensors and plain containers and refuses everything else. Torch is an
extra.

A nanoGPT checkpoint contains its sizes (`model_args`). Its linear layers are [n_out, n_in], and its
activation is the GELU of the error function (`nn.GELU()`). With `bias=False` it has no biases; they are read
as zeros.
"""

from __future__ import annotations

import mmap
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..._files import quoted
from ...config import ModelConfig, config_of_fields
from ...errors import BackendUnavailable, ModelFileError
from .base import MappedFile, StoredTensor, map_file

_DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}

# nanoGPT's names of sizes -> names in a config.json. The other arguments change nothing here. An argument
# that is in neither list comes from a derivative of nanoGPT, which may compute something else.
_NANOGPT_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
_NANOGPT_OTHERS = ("bias", "dropout")
_LINEAR = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


class TorchFile(MappedFile):
    """An open file that torch.save wrote; made by `open_torch`."""

    def __init__(
        self,
        path: Path,
        data: mmap.mmap,
        mtime_ns: int,
        state: dict[str, Any],
        transposed: tuple[str, ...] = (),
        config: ModelConfig | None = None,
    ) -> None:
        """state: name -> torch tensor. transposed: endings of the names of [n_out, n_in] matrices."""

        def as_viewed(name: str, tensor: Any) -> StoredTensor:
            shape = tuple(tensor.shape[::-1] if name.endswith(transposed) else tensor.shape)
            return StoredTensor(name, _DTYPES.get(str(tensor.dtype), str(tensor.dtype)), shape)

        tensors = {name: as_viewed(name, tensor) for name, tensor in state.items()}
        super().__init__(path, data, mtime_ns, tensors, 0, {})
        self.config = config
        self._state = state
        self._transposed = transposed

    def view(self, name: str) -> memoryview:
        """See `TensorFile.view`."""
        import torch

        self._open()
        tensor = self._state[name]
        tensor = (tensor.t() if name.endswith(self._transposed) else tensor).contiguous()
        return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())

    def close(self) -> None:
        """Release the tensors; their memory is freed with the last view."""
        super().close()
        self._state = {}


def open_torch(path: Path) -> TorchFile:
    """Open a file that torch.save wrote. Raises `ModelFileError`, `ConfigError`, `BackendUnavailable`."""
    data, mtime_ns = map_file(path)
    content = _load(path)
    if isinstance(content, dict) and {"model", "model_args"} <= content.keys():
        return _nanogpt(path, data, mtime_ns, content)
    return TorchFile(path, data, mtime_ns, _state_dict(path, content))


def _load(path: Path) -> Any:
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_zip(path)
    try:
        import torch
    except ImportError:
        raise BackendUnavailable(
            f"{path.name}: torch is needed to read it: pip install 'gpt2c[torch]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about the old format
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    # For a file that torch did not write, it raises any of a dozen classes.
    except Exception as e:
        reason = next(iter(str(e).split("\n")), "").strip()[:200]
        raise ModelFileError(
            f"{path.name}: torch cannot load it as weights only: {reason or type(e).__name__}"
        ) from e


def _check_zip(path: Path) -> None:
    """Refuse an archive with compressed members: torch.save makes none, and they could unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ModelFileError(f"{path.name}: its member {quoted(entry.filename)} is compressed")
    except (zipfile.BadZipFile, OSError, NotImplementedError) as e:
        raise ModelFileError(f"{path.name}: is a damaged archive: {e}") from None


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    import torch

    if not isinstance(content, dict):
        raise ModelFileError(f"{path.name}: holds {type(content).__name__}, not a dict of tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelFileError(f"{path.name}: {quoted(name)} is {type(tensor).__name__}, not a tensor")
        # A tensor with a stride of 0 shows one element as many, which would take memory that the file does
        # not have. A meta tensor has no elements. A nested tensor is "strided", too, but has no shape.
        is_plain = tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_nested
        if not is_plain or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ModelFileError(
                f"{path.name}: tensor {quoted(name)} is not a dense CPU tensor with all its elements"
            )
    return content


def _nanogpt(path: Path, data: mmap.mmap, mtime_ns: int, content: dict[str, Any]) -> TorchFile:
    import torch

    arguments = content["model_args"]
    if not isinstance(arguments, dict):
        raise ModelFileError(f"{path.name}: model_args is {type(arguments).__name__}, not a dict")
    for key in arguments:
        if key not in _NANOGPT_SIZES and key not in _NANOGPT_OTHERS:
            raise ModelFileError(f"{path.name}: model_args has {quoted(key)}, which nanoGPT does not know")
    sizes = {ours: arguments.get(theirs) for theirs, ours in _NANOGPT_SIZES.items()}
    config = config_of_fields({**sizes, "activation_function": "gelu"}, f"{path.name}: model_args")
    state = _state_dict(path, content["model"])
    # torch.compile adds the prefix.
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    if not arguments.get("bias", True):
        for name in [name for name in state if name.endswith(".weight") and _has_bias(name)]:
            zeros = torch.from_numpy(np.zeros(state[name].shape[:1], np.float32))
            state.setdefault(name.removesuffix("weight") + "bias", zeros)
    return TorchFile(path, data, mtime_ns, state, _LINEAR, config)


def _has_bias(name: str) -> bool:
    return name.rsplit(".", 2)[-2] in ("ln_1", "ln_2", "ln_f", "c_attn", "c_proj", "c_fc")
