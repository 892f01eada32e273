"""The CFFI binding: include/gpt2c.h as Python sees it. Its twin is _cython.pyx."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from gpt2c.bindings import _cffi  # type: ignore[attr-defined]
from gpt2c.errors import check as _raise_for

ffi, lib = _cffi.ffi, _cffi.lib

name = "cffi"


def check(status: int) -> None:
    if status != lib.GPT2C_OK:
        _raise_for(status, ffi.string(lib.gpt2c_status_message(status)).decode())


def version() -> str:
    return str(ffi.string(lib.gpt2c_version()).decode())


def isas() -> list[tuple[str, bool, bool]]:
    info = ffi.new("gpt2c_isa_info *")
    rows = []
    for i in range(lib.gpt2c_isa_count()):
        check(lib.gpt2c_isa_get(i, info))
        rows.append((ffi.string(info.name).decode(), bool(info.compiled), bool(info.supported)))
    return rows


def memory() -> tuple[int, int, int]:
    stats = ffi.new("gpt2c_memory_stats *")
    lib.gpt2c_memory_get(stats)
    return stats.live_bytes, stats.peak_bytes, stats.allocations


def memory_fail_at(n: int) -> None:
    lib.gpt2c_memory_fail_at(n)


# Signal handlers run between Python instructions, so a function that does nothing is enough; an
# exception that one raises is kept for the thread until feed() is back in Python.
_pending = threading.local()


def _keep_exception(kind: Any, exception: BaseException, traceback: Any) -> None:
    _pending.exception = exception


@ffi.def_extern(error=1, onerror=_keep_exception)  # type: ignore[untyped-decorator]
def gpt2c_cffi_poll(context: Any) -> int:
    return 0


def _raise_pending() -> None:
    exception = getattr(_pending, "exception", None)
    if exception is not None:
        del _pending.exception
        raise exception


def _floats(array: np.ndarray | None) -> Any:
    return ffi.NULL if array is None else ffi.from_buffer("float[]", array, require_writable=True)


class Model:
    def __init__(self, config: dict[str, Any]) -> None:
        out = ffi.new("gpt2c_model **")
        check(lib.gpt2c_model_create(ffi.new("gpt2c_model_config *", config), out))
        self.handle = ffi.gc(out[0], lib.gpt2c_model_free)

    @staticmethod
    def open_packed(path: bytes, key: bytes | None, config: dict[str, Any]) -> Model:
        out = ffi.new("gpt2c_model **")
        c_key = ffi.NULL if key is None else key
        check(lib.gpt2c_packed_open(path, c_key, ffi.new("gpt2c_model_config *", config), out))
        model = Model.__new__(Model)
        model.handle = ffi.gc(out[0], lib.gpt2c_model_free)
        return model

    def save_packed(self, path: bytes, key: bytes) -> None:
        check(lib.gpt2c_packed_save(self.handle, path, key))

    def set(self, tensor: int, layer: int, dtype: int, data: np.ndarray) -> None:
        check(lib.gpt2c_model_set(self.handle, tensor, layer, dtype, ffi.from_buffer(data), data.nbytes))

    def freeze(self) -> None:
        check(lib.gpt2c_model_freeze(self.handle))

    def weight_bytes(self) -> int:
        return int(lib.gpt2c_model_weight_bytes(self.handle))


def packed_info(path: bytes, verify: bool = False) -> dict[str, Any]:
    config = ffi.new("gpt2c_model_config *")
    check(lib.gpt2c_packed_info(path, verify, config))
    return {name: getattr(config, name) for name, _ in ffi.typeof("gpt2c_model_config").fields}


class Session:
    def __init__(self, model: Model) -> None:
        out = ffi.new("gpt2c_session **")
        check(lib.gpt2c_session_create(model.handle, lib.gpt2c_cffi_poll, ffi.NULL, out))
        self.handle = ffi.gc(out[0], lib.gpt2c_session_free)

    def feed(
        self,
        ids: np.ndarray,
        last_logits: np.ndarray | None = None,
        logits: np.ndarray | None = None,
        hidden: np.ndarray | None = None,
        next_id: bool = False,
    ) -> int:
        chosen = ffi.new("int32_t *", -1)
        outputs = ffi.new("gpt2c_outputs *")
        buffers = outputs.last_logits, outputs.logits, outputs.hidden = (
            _floats(last_logits),
            _floats(logits),
            _floats(hidden),
        )
        outputs.next_id = chosen if next_id else ffi.NULL
        first = ffi.from_buffer("int32_t[]", ids)
        status = lib.gpt2c_session_feed(self.handle, first, ids.shape[0], outputs)
        del buffers  # held until here: a struct's field does not keep its buffer alive
        _raise_pending()
        check(status)
        return int(chosen[0])

    def n_past(self) -> int:
        return int(lib.gpt2c_session_n_past(self.handle))

    def rewind(self, n_past: int) -> None:
        check(lib.gpt2c_session_rewind(self.handle, n_past))

    def cancel(self) -> None:
        lib.gpt2c_session_cancel(self.handle)

    def rows(self) -> list[int]:
        rows = ffi.new("size_t[6]")
        check(lib.gpt2c_session_rows(self.handle, rows))
        return list(rows)
