"""The CFFI binding: include/gpt2c.h as Python sees it. Its twin is _cython.pyx."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2c.bindings import Outputs, _cffi  # type: ignore[attr-defined]
from gpt2c.errors import check as _raise_for

Span = tuple[int, int]

ffi, lib = _cffi.ffi, _cffi.lib

name = "cffi"


def check(status: int) -> None:
    if status != lib.GPT2C_STATUS_OK:
        _raise_for(status, ffi.string(lib.gpt2c_status_message(status)).decode())


def version() -> str:
    return str(ffi.string(lib.gpt2c_version()).decode())


def constants() -> dict[str, int]:
    return {name: getattr(lib, name) for name in dir(lib) if name.startswith("GPT2C_")}


def isas() -> list[tuple[str, bool, bool]]:
    info = ffi.new("gpt2c_isa_info *")
    rows = []
    for i in range(lib.gpt2c_isa_count()):
        check(lib.gpt2c_isa_get(i, info))
        rows.append((ffi.string(info.name).decode(), bool(info.compiled), bool(info.supported)))
    return rows


def formats() -> list[str]:
    return [ffi.string(lib.gpt2c_format_name(i)).decode() for i in range(lib.gpt2c_format_count())]


def traced_ops() -> list[str]:
    return [ffi.string(lib.gpt2c_traced_op_name(i)).decode() for i in range(lib.GPT2C_TRACED_OP_COUNT)]


def memory() -> tuple[int, int, int]:
    stats = ffi.new("gpt2c_memory_stats *")
    lib.gpt2c_memory_get(stats)
    return stats.live_bytes, stats.peak_bytes, stats.allocations


def memory_fail_at(n: int) -> None:
    lib.gpt2c_memory_fail_at(n)


# Signal handlers run between Python instructions, so a function that does nothing is enough. An exception
# raised by a handler is saved for the thread until feed() returns to Python.
_pending = threading.local()


def _save_exception(kind: Any, exception: BaseException, traceback: Any) -> None:
    _pending.exception = exception


@ffi.def_extern(error=1, onerror=_save_exception)  # type: ignore[untyped-decorator]
def gpt2c_cffi_poll(context: Any) -> int:
    return 0


def _raise_pending() -> None:
    exception = getattr(_pending, "exception", None)
    if exception is not None:
        del _pending.exception
        raise exception


# ---- Arrays are C-contiguous and have these types: cffi itself would accept bytes for any type ----

_DTYPES = {
    "float[]": np.dtype(np.float32),
    "int32_t[]": np.dtype(np.int32),
    "int64_t[]": np.dtype(np.int64),
    "uint16_t[]": np.dtype(np.uint16),
    "size_t[]": np.dtype(np.uintp),
    "unsigned char[]": np.dtype(np.uint8),
}


def _buffer(array: np.ndarray, kind: str, writable: bool = False) -> Any:
    if array.dtype != _DTYPES[kind]:
        raise ValueError(f"Buffer dtype mismatch, expected {kind[:-2]!r} but got {array.dtype}")
    return ffi.from_buffer(kind, array, require_writable=writable)


def _in(array: np.ndarray | None, kind: str = "float[]") -> Any:
    """A pointer to the array; NULL for None and for an empty array."""
    return ffi.NULL if array is None or not array.size else _buffer(array, kind)


def _out(array: np.ndarray | None, kind: str = "float[]") -> Any:
    return ffi.NULL if array is None or not array.size else _buffer(array, kind, writable=True)


def _config(fields: dict[str, Any]) -> Any:
    """A gpt2c_model_config. ValueError: a field is missing, for which cffi itself would use 0."""
    for name, _ in ffi.typeof("gpt2c_model_config").fields:
        if name not in fields:
            raise ValueError(f"No value specified for struct attribute {name!r}")
    return ffi.new("gpt2c_model_config *", fields)


class Model:
    def __init__(self, config: dict[str, Any]) -> None:
        out = ffi.new("gpt2c_model **")
        check(lib.gpt2c_model_create(_config(config), out))
        self.handle = ffi.gc(out[0], lib.gpt2c_model_free)

    @staticmethod
    def open_packed(path: bytes, key: bytes | None, config: dict[str, Any]) -> Model:
        out = ffi.new("gpt2c_model **")
        c_key = ffi.NULL if key is None else key
        check(lib.gpt2c_packed_open(path, c_key, _config(config), out))
        model = Model.__new__(Model)
        model.handle = ffi.gc(out[0], lib.gpt2c_model_free)
        return model

    def save_packed(self, path: bytes, key: bytes) -> None:
        check(lib.gpt2c_packed_save(self.handle, path, key))

    def set(self, tensor: int, layer: int, dtype: int, data: np.ndarray) -> None:
        first = _in(data, "unsigned char[]")
        check(lib.gpt2c_model_set(self.handle, tensor, layer, dtype, first, data.nbytes))

    def tensor_bytes(self, tensor: int, layer: int) -> int:
        return int(lib.gpt2c_model_tensor_bytes(self.handle, tensor, layer))

    def get(self, tensor: int, layer: int, out: np.ndarray) -> None:
        to = _out(out, "unsigned char[]")
        check(lib.gpt2c_model_get(self.handle, tensor, layer, to, out.nbytes))

    def freeze(self) -> None:
        check(lib.gpt2c_model_freeze(self.handle))

    def weight_bytes(self) -> int:
        return int(lib.gpt2c_model_weight_bytes(self.handle))

    def layout(self) -> int:
        return int(lib.gpt2c_model_layout(self.handle))

    def checksum(self) -> int:
        out = ffi.new("uint64_t *")
        check(lib.gpt2c_model_checksum(self.handle, out))
        return int(out[0])


def packed_version() -> int:
    return int(lib.gpt2c_packed_version())


def packed_info(path: bytes, verify: bool = False) -> dict[str, Any]:
    config = ffi.new("gpt2c_model_config *")
    check(lib.gpt2c_packed_info(path, verify, config))
    return {name: getattr(config, name) for name, _ in ffi.typeof("gpt2c_model_config").fields}


class Session:
    def __init__(self, model: Model) -> None:
        out = ffi.new("gpt2c_session **")
        check(lib.gpt2c_session_create(model.handle, lib.gpt2c_cffi_poll, ffi.NULL, out))
        self.handle = ffi.gc(out[0], lib.gpt2c_session_free)

    def feed(self, ids: np.ndarray, outputs: Outputs) -> int:
        chosen = ffi.new("int32_t *", -1)
        wanted = ffi.new("gpt2c_outputs *")
        buffers = wanted.last_logits, wanted.logits, wanted.hidden, wanted.next_ids = (
            _out(outputs.last_logits),
            _out(outputs.logits),
            _out(outputs.hidden),
            _out(outputs.next_ids, "int32_t[]"),
        )
        wanted.next_id = chosen if outputs.next_id else ffi.NULL
        first = _buffer(ids, "int32_t[]")
        status = lib.gpt2c_session_feed(self.handle, first, len(first), wanted)
        del buffers  # referenced until here: a struct's field does not keep its buffer alive
        _raise_pending()
        check(status)
        return int(chosen[0])

    def n_past(self) -> int:
        return int(lib.gpt2c_session_n_past(self.handle))

    def rewind(self, n_past: int) -> None:
        check(lib.gpt2c_session_rewind(self.handle, n_past))

    def ids(self, out: np.ndarray) -> None:
        check(lib.gpt2c_session_ids(self.handle, _buffer(out, "int32_t[]", writable=True), out.size))

    def copy(self, source: Session, n: int) -> None:
        check(lib.gpt2c_session_copy(self.handle, source.handle, n))

    def state_bytes(self, n: int) -> int:
        return int(lib.gpt2c_session_state_bytes(self.handle, n))

    def get_state(self, state: np.ndarray) -> None:
        to = _buffer(state, "unsigned char[]", writable=True)
        check(lib.gpt2c_session_get_state(self.handle, to, state.nbytes))

    def set_state(self, n: int, state: np.ndarray) -> None:
        first = _buffer(state, "unsigned char[]")
        check(lib.gpt2c_session_set_state(self.handle, n, first, state.nbytes))

    def cancel(self) -> None:
        lib.gpt2c_session_cancel(self.handle)

    def rows(self) -> list[int]:
        rows = ffi.new("size_t[]", lib.GPT2C_SWITCH_COUNT)
        check(lib.gpt2c_session_rows(self.handle, rows))
        return list(rows)

    def separate_passes(self) -> int:
        passes = ffi.new("size_t *")
        check(lib.gpt2c_session_separate_passes(self.handle, passes))
        return int(passes[0])

    def screened(self) -> tuple[int, int]:
        ids, candidates = ffi.new("size_t *"), ffi.new("size_t *")
        check(lib.gpt2c_session_screened(self.handle, ids, candidates))
        return int(ids[0]), int(candidates[0])

    def trace(self, events: np.ndarray | None = None) -> None:
        buffer, capacity = ffi.NULL, 0
        if events is not None:
            buffer = _buffer(events, "unsigned char[]", writable=True)
            capacity = len(buffer) // ffi.sizeof("gpt2c_trace_event")
        check(lib.gpt2c_session_trace(self.handle, ffi.cast("gpt2c_trace_event *", buffer), capacity))
        self.events = buffer  # keeps the buffer alive while C writes to it

    def traced(self) -> int:
        n = ffi.new("size_t *")
        check(lib.gpt2c_session_traced(self.handle, n))
        return int(n[0])


def batch_feed(
    sessions: Sequence[Session],
    ids: np.ndarray,
    n_ids: np.ndarray,
    last_logits: np.ndarray | None = None,
    next_ids: np.ndarray | None = None,
) -> None:
    handles = ffi.new("gpt2c_session *[]", [session.handle for session in sessions])
    status = lib.gpt2c_batch_feed(
        handles,
        len(sessions),
        _in(ids, "int32_t[]"),
        _in(n_ids, "size_t[]"),
        _out(last_logits),
        _out(next_ids, "int32_t[]"),
    )
    _raise_pending()
    check(status)


# ---- Kernels: arrays are flat, None and empty arrays are NULL, a span is (begin, end) ----


class Matrix:
    def __init__(self, weight: np.ndarray, given: int, n_in: int, n_out: int, layout: int) -> None:
        out = ffi.new("gpt2c_matrix **")
        check(lib.gpt2c_matrix_create(_in(weight), given, n_in, n_out, layout, out))
        self.handle = ffi.gc(out[0], lib.gpt2c_matrix_free)


def op_linear(
    isa: int,
    out: np.ndarray,
    x: np.ndarray,
    weight: Matrix,
    rows: Span,
    columns: Span,
    bias: np.ndarray | None = None,
    epilogue: int = 0,
    gelu_table: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> None:
    fields = {  # also keeps the buffers alive, which the struct's pointers do not
        "out": _out(out),
        "x": _in(x),
        "weight": weight.handle,
        "bias": _in(bias),
        "epilogue": epilogue,
        "gelu_table": _in(gelu_table, "uint16_t[]"),
        "residual": _in(residual),
        "rows_begin": rows[0],
        "rows_end": rows[1],
        "columns_begin": columns[0],
        "columns_end": columns[1],
    }
    check(lib.gpt2c_op_linear(isa, ffi.new("gpt2c_op_linear_args *", fields)))


def op_embed(isa: int, out: np.ndarray, wte: Matrix, ids: np.ndarray, wpe: np.ndarray) -> None:
    check(lib.gpt2c_op_embed(isa, _out(out), wte.handle, _in(ids, "int32_t[]"), _in(wpe), ids.size))


def op_layernorm(
    isa: int,
    out: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    rows: int,
    n: int,
    epsilon: float,
) -> None:
    check(lib.gpt2c_op_layernorm(isa, _out(out), _in(x), _in(weight), _in(bias), rows, n, epsilon))


def gelu_table_fill(table: np.ndarray) -> None:
    check(lib.gpt2c_gelu_table_fill(_out(table, "uint16_t[]")))


def op_gelu(isa: int, out: np.ndarray, x: np.ndarray, table: np.ndarray | None = None) -> None:
    check(lib.gpt2c_op_gelu(isa, _out(out), _in(x), x.size, _in(table, "uint16_t[]")))


def op_gelu_erf(isa: int, out: np.ndarray, x: np.ndarray) -> None:
    check(lib.gpt2c_op_gelu_erf(isa, _out(out), _in(x), x.size))


def op_relu(isa: int, out: np.ndarray, x: np.ndarray) -> None:
    check(lib.gpt2c_op_relu(isa, _out(out), _in(x), x.size))


def op_add(isa: int, out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    check(lib.gpt2c_op_add(isa, _out(out), _in(a), _in(b), a.size))


def op_softmax(isa: int, out: np.ndarray, x: np.ndarray, rows: int, n: int) -> None:
    check(lib.gpt2c_op_softmax(isa, _out(out), _in(x), rows, n))


def op_argmax(isa: int, out: np.ndarray, x: np.ndarray, rows: int, n: int) -> None:
    check(lib.gpt2c_op_argmax(isa, _out(out, "int64_t[]"), _in(x), rows, n))


def op_attention(
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
    rows: Span,
    heads: Span,
    kv_f16: bool = False,
) -> None:
    fields = {  # keeps the buffers alive, as in op_linear
        "out": _out(out),
        "q": _in(q),
        "k": _in(k),
        "v": _in(v),
        "n": n,
        "n_past": n_past,
        "n_head": n_head,
        "head_dim": head_dim,
        "fused": int(fused),
        "kv_f16": int(kv_f16),
        "rows_begin": rows[0],
        "rows_end": rows[1],
        "heads_begin": heads[0],
        "heads_end": heads[1],
    }
    check(lib.gpt2c_op_attention(isa, ffi.new("gpt2c_op_attention_args *", fields)))
