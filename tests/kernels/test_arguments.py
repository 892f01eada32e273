"""What every kernel has in common: how arrays come in, what is refused, what is given back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_oracle import assert_same_bits, bits, normal
from processes import INSTALLED, python

import gpt2c
from gpt2c import BackendUnavailable, OptionError, OutOfMemoryError, TokenError, bindings, kernels

On = dict[str, str]

X, W, V = normal(6, 20), normal(20, 40), normal(20)
Q = normal(9, 20)

# One call a kernel, of arrays that a test may change: (name, arrays, function).
CALLS: list[tuple[str, list[Any], Callable[..., Any]]] = [
    ("linear", [X, W, normal(40)], kernels.linear),
    ("layernorm", [X, V, V], kernels.layernorm),
    ("gelu", [X], kernels.gelu),
    ("add", [X, X], kernels.add),
    ("softmax", [X], kernels.softmax),
    ("argmax", [X], kernels.argmax),
    ("attention", [Q, Q, Q], lambda q, k, v, **on: kernels.attention(q, k, v, 4, 2, **on)),
    ("attention_f16", [Q, Q, Q], lambda q, k, v, **on: kernels.attention(q, k, v, 4, 2, kv_f16=True, **on)),
    ("embed", [W, normal(2, 40)], lambda wte, wpe, **on: kernels.embed([3, 0], wte, wpe, **on)),
]
every_call = pytest.mark.parametrize(
    ("arrays", "function"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS]
)


@every_call
def test_any_dtype_and_any_strides_give_the_bits_of_plain_float32(
    on: On, arrays: list[Any], function: Callable[..., Any]
) -> None:
    expected = function(*arrays, **on)
    forms: list[Callable[[Any], Any]] = [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
    ]
    for form in forms:
        out = function(*map(form, arrays), **on)
        assert out.dtype == expected.dtype and out.flags.c_contiguous
        np.testing.assert_array_equal(out, expected)


@every_call
def test_inputs_are_left_as_they_were(on: On, arrays: list[Any], function: Callable[..., Any]) -> None:
    given = [array.copy() for array in arrays]
    for array in given:
        array.flags.writeable = False
    function(*given, **on)
    for array, original in zip(given, arrays, strict=True):
        assert_same_bits(array, original)


@every_call
def test_memory_goes_back_to_its_level(on: On, arrays: list[Any], function: Callable[..., Any]) -> None:
    memory = bindings.load(on["binding"]).memory
    before = memory()[0]
    function(*arrays, **on)
    assert memory()[0] == before


@pytest.mark.parametrize(("name", "allocations"), [("linear", 2), ("attention", 4), ("attention_f16", 4)])
def test_running_out_of_memory_is_an_error_and_leaks_nothing(on: On, name: str, allocations: int) -> None:
    arrays, function = next(call[1:] for call in CALLS if call[0] == name)
    binding = bindings.load(on["binding"])
    expected, before = function(*arrays, **on), binding.memory()[0]
    for nth in range(1, allocations + 1):
        binding.memory_fail_at(nth)
        try:
            with pytest.raises(OutOfMemoryError, match=r"^out of memory$"):
                function(*arrays, **on)
        finally:
            binding.memory_fail_at(0)
        assert binding.memory()[0] == before
    assert_same_bits(function(*arrays, **on), expected)


def test_packed_weights_are_freed_with_their_last_reference(on: On) -> None:
    memory = bindings.load(on["binding"]).memory
    before = memory()[0]
    packed = kernels.pack(W, binding=on["binding"])
    assert memory()[0] >= before + W.nbytes
    del packed
    assert memory()[0] == before


def test_no_rows_give_no_rows(on: On) -> None:
    none = np.empty((0, 20), np.float32)
    assert kernels.linear(none, W, **on).shape == (0, 40)
    assert kernels.linear(none, W, epilogue="add", residual=np.empty((0, 40)), **on).shape == (0, 40)
    assert kernels.linear(np.empty((2, 0, 20)), W, normal(40), **on).shape == (2, 0, 40)
    assert kernels.layernorm(none, V, V, **on).shape == (0, 20)
    assert kernels.gelu(none, **on).shape == (0, 20)
    assert kernels.gelu([], table=True, **on).shape == (0,)
    assert kernels.add(none, none, **on).shape == (0, 20)
    assert kernels.softmax(none, **on).shape == (0, 20)
    assert kernels.argmax(none, **on).shape == (0,)
    assert kernels.attention(none, none, none, 4, **on).shape == (0, 20)
    assert kernels.attention(Q, Q, Q, 4, len(Q), **on).shape == (0, 20)
    assert kernels.embed([], W, normal(1, 40), **on).shape == (0, 40)


def test_leading_axes_are_rows(on: On) -> None:
    x = normal(2, 3, 20)
    flat = x.reshape(6, 20)
    for function, *more in ((kernels.linear, W), (kernels.layernorm, V, V), (kernels.softmax,)):
        out = function(x, *more, **on)
        assert_same_bits(out.reshape(6, -1), function(flat, *more, **on))
        assert_same_bits(function(x[0, 0], *more, **on), out[0, 0])
    assert kernels.gelu(2.0, **on).shape == ()


def test_both_bindings_give_the_same_bits_and_the_same_errors(on: On) -> None:
    for _, arrays, function in CALLS:
        out = [function(*arrays, isa=on["isa"], binding=name) for name in bindings.NAMES]
        np.testing.assert_array_equal(*out)
    messages = []
    for name in bindings.NAMES:
        with pytest.raises(OptionError) as caught:
            bindings.load(name).op_gelu(10_000, V.copy(), V)
        messages.append(str(caught.value))
    assert messages == ["an argument is missing or outside its range"] * 2


def test_an_operation_may_be_done_in_place(on: On) -> None:
    binding = bindings.load(on["binding"])
    isa = [name for name, _, _ in binding.isas()].index(on["isa"])
    flat = X.reshape(-1)
    calls: list[tuple[Any, Callable[[Any], None]]] = [
        (kernels.gelu(X, **on), lambda a: binding.op_gelu(isa, a, a)),
        (kernels.add(X, X[::-1], **on), lambda a: binding.op_add(isa, a, a, X[::-1].ravel())),
        (kernels.add(X[::-1], X, **on), lambda a: binding.op_add(isa, a, X[::-1].ravel(), a)),
        (kernels.softmax(X, **on), lambda a: binding.op_softmax(isa, a, a, 6, 20)),
        (kernels.layernorm(X, V, V, **on), lambda a: binding.op_layernorm(isa, a, a, V, V, 6, 20, 1e-5)),
    ]
    for expected, call in calls:
        array = flat.copy()
        call(array)
        assert_same_bits(array, expected.reshape(-1))


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "weight too narrow": (lambda **on: kernels.linear(X, W[:19], **on), r"x has shape \(6, 20\): .*19"),
    "weight of three axes": (
        lambda **on: kernels.linear(X, W[None], **on),
        r"weight has shape \(1, 20, 40\)",
    ),
    "no inputs": (lambda **on: kernels.linear(X[:, :0], W[:0], **on), r"weight has shape \(0, 40\)"),
    "bias too long": (
        lambda **on: kernels.linear(X, W, normal(41), **on),
        r"bias has shape \(41,\): \(40,\)",
    ),
    "layout": (lambda **on: kernels.linear(X, W, layout="panel", **on), "did you mean 'panels'"),
    "epilogue": (lambda **on: kernels.linear(X, W, epilogue="tanh", **on), "unknown epilogue 'tanh'"),
    "no residual": (lambda **on: kernels.linear(X, W, epilogue="add", **on), "residual"),
    "residual alone": (lambda **on: kernels.linear(X, W, residual=X, **on), "residual"),
    "rows": (lambda **on: kernels.linear(X, W, rows=(2, 7), **on), r"rows=\(2, 7\) is not within \(0, 6\)"),
    "columns": (lambda **on: kernels.linear(X, W, columns=(0, 31), **on), "multiples of 32"),
    "scalar": (lambda **on: kernels.softmax(1.0, **on), r"x has shape \(\)"),
    "empty rows": (lambda **on: kernels.argmax(np.empty((3, 0)), **on), r"x has shape \(3, 0\)"),
    "norm weight": (lambda **on: kernels.layernorm(X, V[:19], V, **on), r"weight has shape \(19,\)"),
    "epsilon": (lambda **on: kernels.layernorm(X, V, V, 0.0, **on), "epsilon=0.0"),
    "unequal": (lambda **on: kernels.add(X, X[:5], **on), r"b has shape \(5, 20\): \(6, 20\)"),
    "k too short": (lambda **on: kernels.attention(Q, Q[:8], Q, 4, **on), r"k has shape \(8, 20\)"),
    "n_head": (lambda **on: kernels.attention(Q, Q, Q, 3, **on), "n_head=3 does not divide n_embd=20"),
    "n_past": (lambda **on: kernels.attention(Q, Q, Q, 4, 10, **on), r"n_past=10 is outside 0\.\.9"),
    "heads": (lambda **on: kernels.attention(Q, Q, Q, 4, heads=(2, 5), **on), r"heads=\(2, 5\)"),
    "positions": (lambda **on: kernels.embed([1, 2], W, normal(3, 40), 2, **on), "wpe holds 3"),
    "complex": (lambda **on: kernels.gelu([1j], **on), "x holds complex128"),
    "text": (lambda **on: kernels.gelu("abc", **on), "x holds"),
    "ragged": (lambda **on: kernels.gelu([[1, 2], [3]], **on), "rows differ in length"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused_in_one_line(on: On, call: Callable[..., Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        call(**on)
    assert "\n" not in str(caught.value)


def test_packed_weights_are_used_as_they_were_packed(on: On) -> None:
    packed = kernels.pack(W, "in_out", binding=on["binding"])
    with pytest.raises(OptionError, match="packed as 'in_out'"):
        kernels.linear(X, packed, layout="panels", **on)
    other = next(name for name in bindings.NAMES if name != on["binding"])
    with pytest.raises(OptionError, match=f"packed by '{on['binding']}'"):
        kernels.linear(X, packed, binding=other)


def test_the_core_checks_what_a_binding_hands_it(on: On) -> None:
    """Python checks first, so these are reached only by calling the binding itself."""
    binding = bindings.load(on["binding"])
    isa = [name for name, _, _ in binding.isas()].index(on["isa"])
    matrix = kernels.pack(W, binding=on["binding"]).native
    x, out, none = X.reshape(-1), np.zeros(240, np.float32), np.empty(0, np.float32)
    linear, attention = binding.op_linear, binding.op_attention
    calls: list[Callable[[], Any]] = [
        lambda: binding.op_gelu(-1, out, out),
        lambda: binding.op_gelu(isa, none, out),
        lambda: binding.op_add(isa, out, out, none),
        lambda: binding.op_softmax(isa, out, x, 6, 0),
        lambda: binding.op_argmax(isa, np.zeros(6, np.int64), x, 6, 0),
        lambda: binding.op_layernorm(isa, out, x, V, V, 6, 20, 0.0),
        lambda: binding.op_layernorm(isa, out, x, V, V, 6, 20, np.inf),
        lambda: binding.op_layernorm(isa, out, x, V, V, 6, 20, np.nan),
        lambda: binding.op_layernorm(isa, out, x, none, V, 6, 20, 1e-5),
        lambda: linear(isa, out, x, matrix, (4, 3), (0, 40)),
        lambda: linear(isa, out, x, matrix, (0, 6), (0, 41)),
        lambda: linear(isa, out, x, matrix, (0, 6), (16, 40)),
        lambda: linear(isa, out, x, matrix, (0, 6), (0, 16)),
        lambda: linear(isa, out, x, matrix, (0, 6), (0, 40), epilogue=6),
        lambda: linear(isa, out, x, matrix, (0, 6), (0, 40), epilogue=2),
        lambda: linear(isa, out, x, matrix, (0, 6), (0, 40), epilogue=3),
        lambda: linear(isa, out, none, matrix, (0, 6), (0, 40)),
        lambda: linear(isa, out, x, matrix, (0, 2**62), (0, 40)),
        lambda: attention(isa, out, x, x, x, 6, 7, 4, 5, True, (0, 0), (0, 4)),
        lambda: attention(isa, out, x, x, x, 6, 0, 0, 5, True, (0, 6), (0, 0)),
        lambda: attention(isa, out, x, x, x, 6, 0, 4, 5, True, (0, 7), (0, 4)),
        lambda: attention(isa, out, x, x, x, 6, 0, 4, 5, True, (0, 6), (3, 5)),
        lambda: attention(isa, out, x, x, x, 2**40, 0, 2**20, 2**20, True, (0, 6), (0, 4)),
        lambda: binding.op_argmax(isa, np.zeros(1, np.int64), x, 1, 2**31),
        lambda: binding.Matrix(x, 2, 20, 6, 0),
        lambda: binding.Matrix(x, 0, 20, 6, 99),
        lambda: binding.Matrix(x, 0, 0, 6, 0),
        lambda: binding.Matrix(none, 0, 20, 6, 0),
        lambda: binding.Matrix(x, 0, 2**40, 2**40, 0),
    ]
    for call in calls:
        with pytest.raises(OptionError, match="an argument is missing or outside its range"):
            call()
    with pytest.raises(TokenError):
        binding.op_embed(isa, out, matrix, np.array([40], np.int32), V)
    assert not out.any()


def test_the_instruction_set_is_chosen_by_name(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = bindings.load(on["binding"]).isas()
    with pytest.raises(OptionError, match=r"unknown instruction set 'avx9' .*choose from auto, ref"):
        kernels.gelu(X, isa="avx9", binding=on["binding"])
    for name, _, supported in rows:
        if not supported:
            with pytest.raises(OptionError, match=f"this machine cannot run '{name}'"):
                kernels.gelu(X, isa=name, binding=on["binding"])
    monkeypatch.setenv("GPT2C_ISA", on["isa"])
    assert_same_bits(kernels.gelu(X, binding=on["binding"]), kernels.gelu(X, **on))
    monkeypatch.delenv("GPT2C_ISA")
    best = gpt2c.build_info(on["binding"])["isa"]
    assert_same_bits(kernels.gelu(X, binding=on["binding"]), kernels.gelu(X, isa=best))
    for nothing in ("", "auto"):
        monkeypatch.setenv("GPT2C_ISA", nothing)
        assert_same_bits(kernels.gelu(X, binding=on["binding"]), kernels.gelu(X, isa=best))


def test_an_instruction_set_that_the_machine_lacks_is_refused_by_the_core_too(on: On) -> None:
    binding = bindings.load(on["binding"])
    for isa, (_, _, supported) in enumerate(binding.isas()):
        if not supported:
            with pytest.raises(BackendUnavailable):
                binding.op_gelu(isa, V.copy(), V)


def test_an_unknown_binding_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown binding 'swig'"):
        kernels.gelu(X, binding="swig")
    assert bits(kernels.gelu(X)).any()


@pytest.mark.parametrize("layout", range(2, 6), ids=["panels", "panels_bf16", "panels_q8", "panels_q4"])
def test_a_size_that_padding_makes_too_large_is_refused(layout: int, on: On) -> None:
    """One row is padded to a block of 64: the bytes of that many blocks would wrap around to few."""
    binding = bindings.load(on["binding"])
    for block_bytes in (2112, 576, 4096, 8192):
        n_out = (2**64 // block_bytes + 1) * 32
        with pytest.raises((OutOfMemoryError, OptionError)):
            binding.Matrix(X.reshape(-1), 1, 1, n_out, layout)


UNREADABLE = """
import ctypes, mmap, sys
import numpy as np
from gpt2c import kernels

page, n_past = mmap.PAGESIZE, 32
n_embd = page // 4 // n_past
pages = mmap.mmap(-1, 2 * page)
q = np.frombuffer(pages, np.float32).reshape(2 * n_past, n_embd)
k = np.ones_like(q)
expected = kernels.attention(q, k, k, 1, n_past, isa=sys.argv[1], binding=sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(q.ctypes.data), ctypes.c_size_t(page), 0) == 0
found = kernels.attention(q, k, k, 1, n_past, isa=sys.argv[1], binding=sys.argv[2])
assert np.array_equal(found, expected)
print("not read")
"""


def test_queries_of_the_past_are_not_read(on: On, tmp_path: Path) -> None:
    done = python("-c", UNREADABLE, on["isa"], on["binding"], path=INSTALLED, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "not read\n"), done.stderr
