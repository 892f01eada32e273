"""Choice of a binding, and the interface that both bindings offer.

Both extensions link the same C objects. Cython's is faster for short calls. CFFI's uses the limited API,
so one file serves every CPython. Either works without the other.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np

from gpt2c.errors import BackendUnavailable, OptionError

# In a bare checkout `import gpt2c` finds this folder, which contains no compiled files. Those that pip
# installed are further down sys.path.
_HERE = Path(__file__).parent


def _installed_elsewhere() -> list[str]:
    folders = [os.path.join(entry, "gpt2c", "bindings") for entry in sys.path if isinstance(entry, str)]
    return [folder for folder in folders if os.path.isdir(folder) and not os.path.samefile(folder, _HERE)]


if (_HERE.parents[1] / "setup.py").exists() and not any(_HERE.glob("_c*.so")):
    __path__ += _installed_elsewhere()

NAMES = ("cython", "cffi")
_MODULES = {"cython": "gpt2c.bindings._cython", "cffi": "gpt2c.bindings.cffi_binding"}


class LoadedModel(Protocol):
    """A backend's weights in memory; freed with the last reference."""

    def weight_bytes(self) -> int: ...


@runtime_checkable
class NativeModel(LoadedModel, Protocol):
    """A gpt2c_model; freed with its last reference. Status codes are raised as gpt2c's errors."""

    def set(self, tensor: int, layer: int, dtype: int, data: np.ndarray) -> None: ...
    def tensor_bytes(self, tensor: int, layer: int) -> int: ...
    def get(self, tensor: int, layer: int, out: np.ndarray) -> None:
        """Copy a tensor in the model's layout to `out`, uint8 [tensor_bytes]."""

    def freeze(self) -> None: ...
    def save_packed(self, path: bytes, key: bytes) -> None: ...
    def layout(self) -> int:
        """How the projections are laid out: a gpt2c_layout."""

    def checksum(self) -> int:
        """A checksum of all weights, as they are laid out in memory."""


class NativeModelType(Protocol):
    """The class of models: called with a gpt2c_model_config as a dict; open_packed is the other way."""

    def __call__(self, config: dict[str, Any]) -> NativeModel: ...
    def open_packed(self, path: bytes, key: bytes | None, config: dict[str, Any]) -> NativeModel:
        """Map a packed file; key None accepts any."""


class Outputs(NamedTuple):
    """The results of a feed of n ids (gpt2c_outputs): C-contiguous arrays to write; None is not computed.

    last_logits: float32 [n_vocab], after the last token. logits: float32 [n, n_vocab], after every token.
    hidden: float32 [n, n_embd], after the final layer norm. next_id: whether `feed` returns the id of the
    largest last logit; the lowest id wins a tie. next_ids: int32 [n], the same after every token.
    """

    last_logits: np.ndarray | None = None
    logits: np.ndarray | None = None
    hidden: np.ndarray | None = None
    next_id: bool = False
    next_ids: np.ndarray | None = None


class NativeSession(Protocol):
    """A gpt2c_session; freed with its last reference. A running call holds a reference, too."""

    def feed(self, ids: np.ndarray, outputs: Outputs) -> int:
        """Run int32 ids [n]; returns the next id, or -1 without outputs.next_id."""

    def n_past(self) -> int: ...
    def rewind(self, n_past: int) -> None: ...
    def ids(self, out: np.ndarray) -> None:
        """Copy the first len(out) tokens to `out`, int32."""

    def copy(self, source: Any, n: int) -> None:
        """Replace all tokens by the first n of another session of the same model."""

    def state_bytes(self, n: int) -> int: ...
    def get_state(self, state: np.ndarray) -> None:
        """state: uint8 [state_bytes(n_past)]."""

    def set_state(self, n: int, state: np.ndarray) -> None:
        """state: uint8 [state_bytes(n)]."""

    def cancel(self) -> None: ...
    def rows(self) -> list[int]: ...
    def separate_passes(self) -> int: ...
    def screened(self) -> tuple[int, int]: ...
    def trace(self, events: np.ndarray | None = None) -> None:
        """gpt2c_session_trace: a buffer of gpt2c_trace_event as bytes (uint8); None turns tracing off."""

    def traced(self) -> int: ...


class NativeMatrix(Protocol):
    """A gpt2c_matrix; freed with its last reference."""


class Runtime(Protocol):
    """Creates sessions: a binding, or a backend in Python (gpt2c/backends)."""

    name: str

    def Session(self, model: Any) -> NativeSession: ...
    def traced_ops(self) -> list[str]:
        """The names of the operations in a trace, in the order of gpt2c_traced_op."""


class Binding(Runtime, Protocol):
    def version(self) -> str: ...
    def constants(self) -> dict[str, int]:
        """All enum constants of include/gpt2c.h, by name."""

    def isas(self) -> list[tuple[str, bool, bool]]:
        """(name, compiled, supported) in the order of native/isa.def."""

    def formats(self) -> list[str]:
        """The names of the weight formats, in the order of native/formats.def."""

    def memory(self) -> tuple[int, int, int]:
        """(live bytes, peak bytes, allocations so far)."""

    def memory_fail_at(self, n: int) -> None: ...
    def batch_feed(
        self,
        sessions: Sequence[Any],
        ids: np.ndarray,
        n_ids: np.ndarray,
        last_logits: np.ndarray | None = None,
        next_ids: np.ndarray | None = None,
    ) -> None:
        """gpt2c_batch_feed. ids: int32, of all sessions, at most GPT2C_LIMIT_CHUNK_ROWS in total. n_ids:
        uintp, of each session."""

    def packed_version(self) -> int:
        """The version of the packed file format; files of any other version are refused."""

    def packed_info(self, path: bytes, verify: bool = False) -> dict[str, Any]:
        """The gpt2c_model_config in a packed file; verify: also read and check all weights."""

    @property
    def Model(self) -> NativeModelType: ...

    # The kernels one by one; gpt2c.kernels checks the arguments. Arrays are C-contiguous and have the
    # types in gpt2c.h (float32 except for ids, indices and table). An isa, a layout and an epilogue are
    # numbers; spans are (begin, end).
    def Matrix(self, weight: np.ndarray, given: int, n_in: int, n_out: int, layout: int) -> NativeMatrix: ...
    def op_linear(
        self,
        isa: int,
        out: np.ndarray,
        x: np.ndarray,
        weight: Any,
        rows: tuple[int, int],
        columns: tuple[int, int],
        bias: np.ndarray | None = None,
        epilogue: int = 0,
        gelu_table: np.ndarray | None = None,
        residual: np.ndarray | None = None,
    ) -> None: ...
    def op_embed(self, isa: int, out: np.ndarray, wte: Any, ids: np.ndarray, wpe: np.ndarray) -> None: ...
    def op_layernorm(
        self,
        isa: int,
        out: np.ndarray,
        x: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        rows: int,
        n: int,
        epsilon: float,
    ) -> None: ...
    def gelu_table_fill(self, table: np.ndarray) -> None: ...
    def op_gelu(self, isa: int, out: np.ndarray, x: np.ndarray, table: np.ndarray | None = None) -> None: ...
    def op_gelu_erf(self, isa: int, out: np.ndarray, x: np.ndarray) -> None: ...
    def op_relu(self, isa: int, out: np.ndarray, x: np.ndarray) -> None: ...
    def op_add(self, isa: int, out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None: ...
    def op_softmax(self, isa: int, out: np.ndarray, x: np.ndarray, rows: int, n: int) -> None: ...
    def op_argmax(self, isa: int, out: np.ndarray, x: np.ndarray, rows: int, n: int) -> None: ...
    def op_attention(
        self,
        isa: int,
        out: np.ndarray,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        n: int,
        n_past: int,
        n_head: int,
        head_dim: int,
        fused: bool,
        rows: tuple[int, int],
        heads: tuple[int, int],
        kv_f16: bool = False,
    ) -> None: ...


def load(name: str) -> Binding:
    """Return the binding of that name. BackendUnavailable: it is not built, or cannot be imported."""
    _check(name)
    try:
        return cast(Binding, importlib.import_module(_MODULES[name]))
    except ImportError as error:
        raise BackendUnavailable(f"the {name} binding is not built: {error}") from None


def _check(name: str, origin: str = "") -> None:
    if name not in NAMES:
        raise OptionError(f"unknown binding {name!r}{origin} (choose from auto, {', '.join(NAMES)})")


def available() -> list[str]:
    """The names of the bindings that this installation contains."""

    def works(name: str) -> bool:
        try:
            load(name)
        except BackendUnavailable:
            return False
        return True

    return [name for name in NAMES if works(name)]


@functools.cache
def _any_built() -> Binding:
    """Either binding, to ask about the core that both link: the one that $GPT2C_BINDING names, if it can be
    loaded. BackendUnavailable: none is built."""
    named = os.environ.get("GPT2C_BINDING")
    *others, last = sorted(NAMES, key=lambda name: name != named)
    for name in others:
        try:
            return load(name)
        except BackendUnavailable:
            pass
    return load(last)


def version() -> str:
    """The package's version: from its metadata where it is installed, else from the C core.

    Nothing is imported for it before it is asked for. BackendUnavailable: neither is there.
    """
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version("gpt2c")
    except PackageNotFoundError:  # a checkout in sys.path
        return _any_built().version()


@functools.cache
def enum(name: str) -> Mapping[str, int]:
    """The constants of an enum of include/gpt2c.h, by lower-case name, without the prefix and COUNT.

    enum("layout") is {"in_out": 0, "out_in": 1, ...}. KeyError: no constant begins like that.
    BackendUnavailable: no binding is built.
    """
    prefix = f"GPT2C_{name.upper()}_"
    found = {key: value for key, value in _any_built().constants().items() if key.startswith(prefix)}
    if not found:
        raise KeyError(name)
    return MappingProxyType(
        {
            key.removeprefix(prefix).lower(): value
            for key, value in sorted(found.items(), key=lambda item: item[1])
            if key != f"{prefix}COUNT"
        }
    )


_warned = False


def select(name: str = "auto") -> Binding:
    """The binding to use: the argument, else $GPT2C_BINDING, else Cython, or CFFI if Cython's is missing.

    Only "auto" falls back to CFFI, with one warning.
    """
    global _warned
    if name == "auto":
        name = os.environ.get("GPT2C_BINDING") or "auto"
        if name != "auto":
            _check(name, " from GPT2C_BINDING")
    if name != "auto":
        return load(name)
    try:
        return load("cython")
    except BackendUnavailable as error:
        binding = load("cffi")
        if not _warned:
            _warned = True
            warnings.warn(f"gpt2c: {error}; using the cffi binding", RuntimeWarning, stacklevel=3)
        return binding
