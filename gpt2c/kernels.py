"""The operations of GPT-2 one by one: NumPy in, NumPy out, computed by the C kernels that a model runs.

For learning, tests and microbenchmarks:

    from gpt2c import kernels
    y = kernels.linear(x, weight, bias, isa="ref")        # the naive loops
    w = kernels.pack(weight)                              # lays the weights out once ...
    y = kernels.linear(x, w, bias)                        # ... for any number of calls

Inputs are anything that NumPy converts to an array of real numbers. They are converted to float32 and made
C-contiguous where necessary. Results are new float32 arrays. `isa` is the name of an instruction set, or
"auto": $GPT2C_ISA if it is set, else the fastest that this machine supports. `binding` is "cython", "cffi"
or "auto". For one instruction set, a row of a result has the same bits whichever other rows are computed in
the same call, and with either binding. native/kernels.h gives the error bounds of all results.

All functions raise OptionError for an argument that does not fit, BackendUnavailable for a binding that is
not built, and OutOfMemoryError.
"""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import bindings
from ._checks import as_ids
from .bindings import Binding, NativeMatrix
from .errors import OptionError
from .options import isa_of, nearest

__all__ = [
    "Packed",
    "add",
    "argmax",
    "attention",
    "embed",
    "gelu",
    "gelu_erf",
    "gelu_table",
    "layernorm",
    "linear",
    "pack",
    "relu",
    "softmax",
]

Floats = NDArray[np.float32]
Span = tuple[int, int]


# ---- Linear ----


@dataclass(frozen=True)
class Packed:
    """The weights of a linear layer in the layout that a kernel reads; `pack` creates them."""

    n_in: int
    n_out: int
    layout: str
    binding: str
    native: NativeMatrix = field(repr=False)


def pack(weight: ArrayLike, layout: str = "panels", *, binding: str = "auto") -> Packed:
    """Lay weights [n_in, n_out] out for `linear`; a transposed view such as `w.T` is read without a copy.

    layout: "in_out", row-major, as GPT-2's files store the projections; "out_in", row-major and transposed,
    as they store the embedding; "panels", 32 columns next to each other, 64-byte aligned: the fast one.
    """
    chosen = bindings.select(binding)
    number = _number_of("layout", layout, bindings.enum("layout"))
    array = _real("weight", weight)
    if array.ndim != 2 or 0 in array.shape:
        raise OptionError(f"weight has shape {array.shape}: [n_in, n_out] is needed, both at least 1")
    n_in, n_out = array.shape
    transposed = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = _float32("weight", array.T if transposed else array).reshape(-1)
    native = chosen.Matrix(flat, int(transposed), n_in, n_out, number)
    return Packed(n_in, n_out, layout, chosen.name, native)


def linear(
    x: ArrayLike,
    weight: ArrayLike | Packed,
    bias: ArrayLike | None = None,
    layout: str | None = None,
    *,
    epilogue: str = "plain",
    residual: ArrayLike | None = None,
    rows: Span | None = None,
    columns: Span | None = None,
    isa: str = "auto",
    binding: str = "auto",
) -> Floats:
    """x [..., n_in] @ weight [n_in, n_out] + bias [n_out] -> [..., n_out].

    Each sum starts from 0 and adds the products in the order of the inputs; the bias is added last. weight:
    an array, which is first laid out as `layout` (see `pack`; "panels" by default), or a `Packed`.

    epilogue: applied to a sum before it is stored. "plain": nothing; "gelu", "gelu_table": as `gelu`;
    "gelu_erf", "relu": as the functions of these names; "add": as `add(residual, ...)`, with residual
    [..., n_out]. The bits are those of the separate operation.

    rows, columns: (begin, end): compute only these, and return [rows, columns]. Rows are those of x as
    [-1, n_in]. Columns begin at a multiple of 32, and end at a multiple of 32 or at n_out.
    """
    array = _float32("x", x)
    packed = _packed(weight, layout, binding)
    chosen, number = _choose(isa, packed.binding)
    n_in, n_out = packed.n_in, packed.n_out
    if array.ndim == 0 or array.shape[-1] != n_in:
        raise OptionError(f"x has shape {array.shape}: [..., {n_in}] is needed for these weights")
    shape = (*array.shape[:-1], n_out)
    n_rows = math.prod(array.shape[:-1])
    row_span = _span("rows", rows, n_rows)
    column_span = _span("columns", columns, n_out, bindings.enum("limit")["panel_columns"])
    kind = _number_of("epilogue", epilogue, _epilogues())
    if (residual is not None) != (epilogue == "add"):
        raise OptionError("epilogue='add' needs a residual, and a residual needs epilogue='add'")

    out = np.empty((n_rows, n_out), np.float32)
    chosen.op_linear(
        number,
        out.reshape(-1),
        array.reshape(-1),
        packed.native,
        row_span,
        column_span,
        bias=None if bias is None else _shaped("bias", bias, (n_out,)),
        epilogue=kind,
        gelu_table=_gelu_bits() if epilogue == "gelu_table" else None,
        residual=None if residual is None else _shaped("residual", residual, shape).reshape(-1),
    )
    if rows is None and columns is None:
        return out.reshape(shape)
    return out[slice(*row_span), slice(*column_span)]


def _packed(weight: ArrayLike | Packed, layout: str | None, binding: str) -> Packed:
    if not isinstance(weight, Packed):
        return pack(weight, layout or "panels", binding=binding)
    if layout not in (None, weight.layout):
        raise OptionError(f"layout={layout!r}, but the weights are packed as {weight.layout!r}")
    if binding not in ("auto", weight.binding):
        raise OptionError(f"binding={binding!r}, but the weights are packed by {weight.binding!r}")
    return weight


def embed(
    ids: ArrayLike,
    wte: ArrayLike | Packed,
    wpe: ArrayLike,
    position: SupportsIndex = 0,
    layout: str | None = None,
    *,
    isa: str = "auto",
    binding: str = "auto",
) -> Floats:
    """Token ids [n] -> wte[ids] + wpe[position : position + n], [n, n_embd].

    wte: [n_vocab, n_embd], or `pack(wte.T)`, the output head: the row of a token in wte is a column of it.
    wpe: [n_ctx, n_embd]. TokenError: an id is outside the vocabulary.
    """
    packed = _packed(wte if isinstance(wte, Packed) else _real("wte", wte).T, layout, binding)
    chosen, number = _choose(isa, packed.binding)
    tokens = np.empty(0, np.int32) if np.size(ids) == 0 else as_ids(ids, packed.n_out)  # type: ignore[arg-type]
    positions = _float32("wpe", wpe)
    if positions.ndim != 2 or positions.shape[1] != packed.n_in:
        raise OptionError(f"wpe has shape {positions.shape}: [n_ctx, {packed.n_in}] is needed for this wte")
    first = operator.index(position)
    if not 0 <= first <= len(positions) - len(tokens):
        raise OptionError(
            f"{len(tokens)} tokens at position {first} do not fit: wpe holds {len(positions)} positions"
        )
    out = np.empty((len(tokens), packed.n_in), np.float32)
    here = positions[first : first + len(tokens)].reshape(-1)
    chosen.op_embed(number, out.reshape(-1), packed.native, tokens, here)
    return out


# ---- Between the linear layers ----


def layernorm(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    epsilon: float = 1e-5,
    *,
    isa: str = "auto",
    binding: str = "auto",
) -> Floats:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis: [..., n] -> [..., n].

    weight, bias: [n]; epsilon: positive. Ba, Kiros and Hinton 2016, "Layer Normalization".
    """
    chosen, number = _choose(isa, binding)
    array = _with_columns("x", x)
    n = array.shape[-1]
    scale, shift = _shaped("weight", weight, (n,)), _shaped("bias", bias, (n,))
    if not 0 < np.float32(epsilon) < np.inf:
        raise OptionError(f"epsilon={epsilon}: a positive float32 number is needed")
    out = np.empty_like(array)
    flat, rows = array.reshape(-1), array.size // n
    chosen.op_layernorm(number, out.reshape(-1), flat, scale, shift, rows, n, float(epsilon))
    return out


def gelu(x: ArrayLike, table: bool = False, *, isa: str = "auto", binding: str = "auto") -> Floats:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), elementwise, any shape.

    Hendrycks and Gimpel 2016, "Gaussian Error Linear Units". table: look the value up instead, for x rounded
    to fp16 (see `gelu_table`); it is 0 for x <= -10, and x for x >= 10.
    """
    chosen, number = _choose(isa, binding)
    array = _float32("x", x)
    out = np.empty_like(array)
    chosen.op_gelu(number, out.reshape(-1), array.reshape(-1), _gelu_bits() if table else None)
    return out


def gelu_table() -> NDArray[np.float16]:
    """The table, [65536]: entry h is GELU of the fp16 value with the bits h, rounded to fp16."""
    return _gelu_bits().view(np.float16)


def gelu_erf(x: ArrayLike, *, isa: str = "auto", binding: str = "auto") -> Floats:
    """x/2 (1 + erf(x / sqrt(2))), elementwise, any shape; "gelu" in a config. Hendrycks and Gimpel 2016."""
    chosen, number = _choose(isa, binding)
    array = _float32("x", x)
    out = np.empty_like(array)
    chosen.op_gelu_erf(number, out.reshape(-1), array.reshape(-1))
    return out


def relu(x: ArrayLike, *, isa: str = "auto", binding: str = "auto") -> Floats:
    """x where it is positive or a NaN, else 0; elementwise, any shape."""
    chosen, number = _choose(isa, binding)
    array = _float32("x", x)
    out = np.empty_like(array)
    chosen.op_relu(number, out.reshape(-1), array.reshape(-1))
    return out


def add(a: ArrayLike, b: ArrayLike, *, isa: str = "auto", binding: str = "auto") -> Floats:
    """a + b, elementwise, for equal shapes: the residual additions. He et al. 2015."""
    chosen, number = _choose(isa, binding)
    first = _float32("a", a)
    second = _shaped("b", b, first.shape)
    out = np.empty_like(first)
    chosen.op_add(number, out.reshape(-1), first.reshape(-1), second.reshape(-1))
    return out


# ---- Attention and choice ----


def softmax(x: ArrayLike, *, isa: str = "auto", binding: str = "auto") -> Floats:
    """e^x / sum of e^x over the last axis: [..., n] -> [..., n], n at least 1.

    The largest x is subtracted first, so that no e^x overflows; the exact result is the same.
    """
    chosen, number = _choose(isa, binding)
    array = _with_columns("x", x)
    n = array.shape[-1]
    out = np.empty_like(array)
    chosen.op_softmax(number, out.reshape(-1), array.reshape(-1), array.size // n, n)
    return out


def argmax(x: ArrayLike, *, isa: str = "auto", binding: str = "auto") -> NDArray[np.int64]:
    """The index of the largest x along the last axis: [..., n] -> int64 [...], n at least 1.

    The lowest index wins a tie. A NaN counts as -infinity, unlike in np.argmax.
    """
    chosen, number = _choose(isa, binding)
    array = _with_columns("x", x)
    n = array.shape[-1]
    out = np.empty(array.shape[:-1], np.int64)
    chosen.op_argmax(number, out.reshape(-1), array.reshape(-1), array.size // n, n)
    return out


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    n_head: SupportsIndex,
    n_past: SupportsIndex = 0,
    *,
    fused: bool = True,
    kv_f16: bool = False,
    rows: Span | None = None,
    heads: Span | None = None,
    isa: str = "auto",
    binding: str = "auto",
) -> Floats:
    """Causal self-attention, softmax(q k^T / sqrt(head_dim)) v in each head: q, k, v [n, n_embd] -> rows.

    n_embd = n_head * head_dim, heads next to each other. Position i reads positions 0..i. k and v of the
    first n_past positions are stored first, as if by an earlier call; the result is the rows of the positions
    after them, [n - n_past, n_embd]. Vaswani et al. 2017, "Attention Is All You Need", equation 1.

    fused: apply the scale as scores are computed or read, or in a pass of its own; the same bits.
    kv_f16: store k and v rounded to half precision, and finite values beyond 65504 as 65504. rows, heads:
    (begin, end): compute only these, and return [rows, heads * head_dim].
    """
    chosen, number = _choose(isa, binding)
    queries = _float32("q", q)
    if queries.ndim != 2 or queries.shape[1] == 0:
        raise OptionError(f"q has shape {queries.shape}: [n, n_embd] is needed, n_embd at least 1")
    keys, values = _shaped("k", k, queries.shape), _shaped("v", v, queries.shape)
    n, n_embd = queries.shape
    h, past = operator.index(n_head), operator.index(n_past)
    if h < 1 or n_embd % h != 0:
        raise OptionError(f"n_head={h} does not divide n_embd={n_embd}")
    if not 0 <= past <= n:
        raise OptionError(f"n_past={past} is outside 0..{n}")
    row_span, head_span = _span("rows", rows, n - past), _span("heads", heads, h)
    head_dim = n_embd // h

    out = np.empty((n - past, n_embd), np.float32)
    chosen.op_attention(
        number,
        out.reshape(-1),
        queries.reshape(-1),
        keys.reshape(-1),
        values.reshape(-1),
        n,
        past,
        h,
        head_dim,
        bool(fused),
        row_span,
        head_span,
        kv_f16=bool(kv_f16),
    )
    return out[slice(*row_span), head_span[0] * head_dim : head_span[1] * head_dim]


# ---- Arguments ----


@functools.cache
def _isas(binding: str) -> list[tuple[str, bool, bool]]:
    return bindings.load(binding).isas()


def _choose(isa: str, binding: str) -> tuple[Binding, int]:
    """The binding, and the instruction set's number in it."""
    chosen = bindings.select(binding)
    rows = _isas(chosen.name)
    supported = [name for name, _, ok in rows if ok]
    if isa == "auto":
        isa = isa_of(os.environ) or supported[-1]
    names = ("auto", *(name for name, _, _ in rows))
    number = _number_of("instruction set", isa, dict(zip(names, range(-1, len(rows)), strict=True)))
    if isa not in supported:
        raise OptionError(f"this machine cannot run {isa!r} (choose from {', '.join(supported)})")
    return chosen, number


def _number_of(what: str, name: str, known: Mapping[str, int]) -> int:
    if name not in known:
        guess = nearest(name, known)
        raise OptionError(f"unknown {what} {name!r}{guess} (choose from {', '.join(known)})")
    return known[name]


@functools.cache
def _epilogues() -> dict[str, int]:
    return {"plain" if name == "none" else name: n for name, n in bindings.enum("epilogue").items()}


@functools.cache
def _gelu_bits() -> NDArray[np.uint16]:
    """The table as bits, filled once; it is the same for every instruction set and binding."""
    table = np.empty(1 << 16, np.uint16)
    bindings.select().gelu_table_fill(table)
    table.flags.writeable = False
    return table


def _real(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise OptionError(f"{name} is not an array: its rows differ in length") from None
    if array.dtype.kind not in "fiub":
        raise OptionError(f"{name} holds {array.dtype}: real numbers are needed")
    return array


def _float32(name: str, value: ArrayLike) -> Floats:
    return np.require(_real(name, value), np.float32, ["C", "A"])


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Floats:
    array = _float32(name, value)
    if array.shape != shape:
        raise OptionError(f"{name} has shape {array.shape}: {shape} is needed")
    return array


def _with_columns(name: str, value: ArrayLike) -> Floats:
    array = _float32(name, value)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise OptionError(f"{name} has shape {array.shape}: [..., n] is needed, n at least 1")
    return array


def _span(name: str, span: Span | None, n: int, multiple: int = 1) -> Span:
    if span is None:
        return 0, n
    begin, end = (operator.index(bound) for bound in span)
    if not 0 <= begin <= end <= n:
        raise OptionError(f"{name}={span} is not within (0, {n})")
    if begin % multiple or (end % multiple and end != n):
        raise OptionError(f"{name}={span}: multiples of {multiple} are needed, or the end {n}")
    return begin, end
