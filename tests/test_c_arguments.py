"""The C API refuses nothing, and numbers outside their range, where no binding would hand it such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gpt2c
from gpt2c.bindings.cffi_binding import ffi, lib

NULL = ffi.NULL
MOST = 2**64 - 1  # SIZE_MAX
INVALID = lib.GPT2C_STATUS_INVALID_ARGUMENT


@pytest.fixture
def model(model_folder: Callable[[str], Path]) -> Iterator[Any]:
    with gpt2c.load(model_folder("tiny"), binding="cffi") as loaded:
        yield loaded._handle.loaded.handle  # type: ignore[attr-defined]


@pytest.fixture
def session(model: Any) -> Iterator[Any]:
    out = ffi.new("gpt2c_session **")
    assert lib.gpt2c_session_create(model, NULL, NULL, out) == lib.GPT2C_STATUS_OK
    yield out[0]
    lib.gpt2c_session_free(out[0])


def all_invalid(calls: dict[str, int]) -> None:
    assert {name: status for name, status in calls.items() if status != INVALID} == {}


def test_of_models_and_packed_files(model: Any, tmp_path: Path) -> None:
    out, config, info = (
        ffi.new("gpt2c_model **"),
        ffi.new("gpt2c_model_config *"),
        ffi.new("gpt2c_isa_info *"),
    )
    data, path = ffi.new("char[64]"), bytes(tmp_path / "x")
    out[0] = model
    calls = {
        "create: config": lib.gpt2c_model_create(NULL, out),
        "create: all zero": lib.gpt2c_model_create(config, out),
        "create: model": lib.gpt2c_model_create(config, NULL),
        "set: model": lib.gpt2c_model_set(NULL, 0, 0, 0, data, 64),
        "set: data": lib.gpt2c_model_set(model, 0, 0, 0, NULL, 64),
        "set: tensor": lib.gpt2c_model_set(model, lib.GPT2C_TENSOR_COUNT, 0, 0, data, 64),
        "set: layer": lib.gpt2c_model_set(model, lib.GPT2C_TENSOR_LN_1_BIAS, 2, 0, data, 64),
        "set: dtype": lib.gpt2c_model_set(model, 0, 0, lib.GPT2C_DTYPE_COUNT, data, 64),
        "get: model": lib.gpt2c_model_get(NULL, 0, 0, data, 64),
        "get: out": lib.gpt2c_model_get(model, 0, 0, NULL, 64),
        "get: bytes": lib.gpt2c_model_get(model, 0, 0, data, MOST),
        "freeze": lib.gpt2c_model_freeze(NULL),
        "checksum: model": lib.gpt2c_model_checksum(NULL, ffi.new("uint64_t *")),
        "checksum": lib.gpt2c_model_checksum(model, NULL),
        "save: model": lib.gpt2c_packed_save(NULL, path, b"k"),
        "save: path": lib.gpt2c_packed_save(model, NULL, b"k"),
        "save: key": lib.gpt2c_packed_save(model, path, NULL),
        "save: long key": lib.gpt2c_packed_save(model, path, b"k" * 128),
        "open: path": lib.gpt2c_packed_open(NULL, b"k", config, out),
        "open: config": lib.gpt2c_packed_open(path, b"k", NULL, out),
        "open: model": lib.gpt2c_packed_open(path, b"k", config, NULL),
        "info: path": lib.gpt2c_packed_info(NULL, 0, config),
        "info: config": lib.gpt2c_packed_info(path, 0, NULL),
        "isa: info": lib.gpt2c_isa_get(0, NULL),
        "isa: -1": lib.gpt2c_isa_get(-1, info),
        "isa: count": lib.gpt2c_isa_get(lib.gpt2c_isa_count(), info),
    }
    all_invalid(calls)
    assert out[0] == NULL and list(tmp_path.iterdir()) == []
    assert lib.gpt2c_model_weight_bytes(NULL) == lib.gpt2c_model_tensor_bytes(NULL, 0, 0) == 0
    assert lib.gpt2c_format_name(-1) == lib.gpt2c_format_name(99) == NULL
    assert lib.gpt2c_traced_op_name(-1) == lib.gpt2c_traced_op_name(99) == NULL
    assert ffi.string(lib.gpt2c_status_message(99)) == b"unknown status"
    for free in (
        lib.gpt2c_model_free,
        lib.gpt2c_session_free,
        lib.gpt2c_matrix_free,
        lib.gpt2c_session_cancel,
    ):
        free(NULL)
    lib.gpt2c_memory_get(NULL)


def test_of_sessions(model: Any, session: Any) -> None:
    out, outputs, n = ffi.new("gpt2c_session **"), ffi.new("gpt2c_outputs *"), ffi.new("size_t *")
    ids, state, events = ffi.new("int32_t[4]"), ffi.new("char[64]"), ffi.new("gpt2c_trace_event[1]")
    out[0] = session
    two, one = ffi.new("gpt2c_session *[]", [session, NULL]), ffi.new("size_t[]", [1, 1])
    calls = {
        "create: model": lib.gpt2c_session_create(NULL, NULL, NULL, out),
        "create: session": lib.gpt2c_session_create(model, NULL, NULL, NULL),
        "feed: session": lib.gpt2c_session_feed(NULL, ids, 1, outputs),
        "feed: ids": lib.gpt2c_session_feed(session, NULL, 1, outputs),
        "feed: none": lib.gpt2c_session_feed(session, ids, 0, outputs),
        "feed: outputs": lib.gpt2c_session_feed(session, ids, 1, NULL),
        "batch: sessions": lib.gpt2c_batch_feed(NULL, 1, ids, one, NULL, NULL),
        "batch: no session": lib.gpt2c_batch_feed(two, 0, ids, one, NULL, NULL),
        "batch: NULL": lib.gpt2c_batch_feed(two, 2, ids, one, NULL, NULL),
        "batch: ids": lib.gpt2c_batch_feed(two, 1, NULL, one, NULL, NULL),
        "batch: n_ids": lib.gpt2c_batch_feed(two, 1, ids, NULL, NULL, NULL),
        "batch: most": lib.gpt2c_batch_feed(two, 1, ids, ffi.new("size_t *", MOST), NULL, NULL),
        "rewind: session": lib.gpt2c_session_rewind(NULL, 0),
        "rewind": lib.gpt2c_session_rewind(session, MOST),
        "ids: session": lib.gpt2c_session_ids(NULL, ids, 0),
        "ids: out": lib.gpt2c_session_ids(session, NULL, 0),
        "ids": lib.gpt2c_session_ids(session, ids, 1),
        "copy: session": lib.gpt2c_session_copy(NULL, session, 0),
        "copy: from": lib.gpt2c_session_copy(session, NULL, 0),
        "get_state: session": lib.gpt2c_session_get_state(NULL, state, 0),
        "get_state: out": lib.gpt2c_session_get_state(session, NULL, 0),
        "set_state: session": lib.gpt2c_session_set_state(NULL, 0, state, 0),
        "set_state: state": lib.gpt2c_session_set_state(session, 0, NULL, 0),
        "set_state: most": lib.gpt2c_session_set_state(session, MOST, state, 64),
        "rows: session": lib.gpt2c_session_rows(NULL, n),
        "rows": lib.gpt2c_session_rows(session, NULL),
        "separate_passes: session": lib.gpt2c_session_separate_passes(NULL, n),
        "separate_passes": lib.gpt2c_session_separate_passes(session, NULL),
        "screened: session": lib.gpt2c_session_screened(NULL, n, n),
        "screened: ids": lib.gpt2c_session_screened(session, NULL, n),
        "screened: candidates": lib.gpt2c_session_screened(session, n, NULL),
        "trace: session": lib.gpt2c_session_trace(NULL, events, 1),
        "trace: events": lib.gpt2c_session_trace(session, NULL, 1),
        "trace: capacity": lib.gpt2c_session_trace(session, events, 0),
        "traced: session": lib.gpt2c_session_traced(NULL, n),
        "traced": lib.gpt2c_session_traced(session, NULL),
    }
    all_invalid(calls)
    assert out[0] == NULL
    assert lib.gpt2c_session_n_past(NULL) == lib.gpt2c_session_n_past(session) == 0
    assert lib.gpt2c_session_state_bytes(NULL, 0) == lib.gpt2c_session_state_bytes(session, MOST) == 0


def test_of_kernels() -> None:
    out, x = ffi.new("gpt2c_matrix **"), ffi.new("float[64]")
    in_out, panels = lib.GPT2C_LAYOUT_IN_OUT, lib.GPT2C_LAYOUT_PANELS
    assert lib.gpt2c_matrix_create(x, in_out, 4, 4, panels, out) == lib.GPT2C_STATUS_OK
    matrix, ids, places = out[0], ffi.new("int32_t[4]"), ffi.new("int64_t[4]")
    no_weight = ffi.new("gpt2c_op_linear_args *", {"out": x, "x": x, "rows_end": 1, "columns_end": 4})
    calls = {
        "matrix: weight": lib.gpt2c_matrix_create(NULL, 0, 4, 4, 0, out),
        "matrix: given": lib.gpt2c_matrix_create(x, panels, 4, 4, 0, out),
        "matrix: layout": lib.gpt2c_matrix_create(x, 0, 4, 4, lib.GPT2C_LAYOUT_COUNT, out),
        "matrix: most": lib.gpt2c_matrix_create(x, 0, MOST, MOST, 0, out),
        "matrix": lib.gpt2c_matrix_create(x, 0, 4, 4, 0, NULL),
        "linear": lib.gpt2c_op_linear(0, NULL),
        "linear: weight": lib.gpt2c_op_linear(0, no_weight),
        "embed: out": lib.gpt2c_op_embed(0, NULL, matrix, ids, x, 1),
        "embed: matrix": lib.gpt2c_op_embed(0, x, NULL, ids, x, 1),
        "embed: ids": lib.gpt2c_op_embed(0, x, matrix, NULL, x, 1),
        "embed: wpe": lib.gpt2c_op_embed(0, x, matrix, ids, NULL, 1),
        "embed: most": lib.gpt2c_op_embed(0, x, matrix, ids, x, MOST),
        "layernorm: bias": lib.gpt2c_op_layernorm(0, x, x, x, NULL, 1, 4, 1.0),
        "layernorm: most": lib.gpt2c_op_layernorm(0, x, x, x, x, MOST, 4, 1.0),
        "table": lib.gpt2c_gelu_table_fill(NULL),
        "gelu": lib.gpt2c_op_gelu(0, x, NULL, 1, NULL),
        "gelu_erf": lib.gpt2c_op_gelu_erf(0, NULL, x, 1),
        "relu": lib.gpt2c_op_relu(0, NULL, x, 1),
        "relu: most": lib.gpt2c_op_relu(0, x, x, MOST),
        "add": lib.gpt2c_op_add(0, x, NULL, x, 1),
        "softmax": lib.gpt2c_op_softmax(0, NULL, x, 1, 4),
        "softmax: most": lib.gpt2c_op_softmax(0, x, x, 2, MOST),
        "argmax": lib.gpt2c_op_argmax(0, NULL, x, 1, 4),
        "argmax: most": lib.gpt2c_op_argmax(0, places, x, MOST, 1),
        "attention": lib.gpt2c_op_attention(0, NULL),
    }
    all_invalid(calls)
    assert out[0] == NULL
    lib.gpt2c_matrix_free(matrix)
