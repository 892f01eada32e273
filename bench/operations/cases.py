"""The cases of the kernel benchmark: operations and sizes, how each is run and verified, and the limits.

A Case says what is computed; `make` prepares it for one instruction set. A limit of the machine is a Case,
too, so that it is measured alternately with the kernels.
"""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2c import bindings, kernels
from shared import machine_limits
from shared.checkout import kernel_oracle as oracle
from shared.machine_limits import FLOAT, STREAMS
from shared.native_library import Handle, Library

Floats = NDArray[np.float32]

# GPT-2 small.
N_EMBD, N_HEAD, N_INNER, N_VOCAB = 768, 12, 3072, 50257
LAYER_MATRICES = ((N_EMBD, 3 * N_EMBD), (N_EMBD, N_EMBD), (N_EMBD, N_INNER), (N_INNER, N_EMBD))
HEAD = (N_EMBD, N_VOCAB)

LAYOUTS = {"f32": "panels", "bf16": "panels_bf16"}
WEIGHT_BYTES = {"f32": 4, "bf16": 2}

LIMITS = "limits"

COLD_CACHES = 4
MAX_COLD_BYTES = 256 << 20
LAST_LEVEL_UNKNOWN = 32 << 20


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    linears: (n_in, n_out, rows); min_call_seconds: work is repeated until a call takes this long;
    max_case_seconds: for all rounds of a case, of which there are at least two.
    """

    linears: tuple[tuple[int, int, int], ...]
    max_rounds: int
    min_call_seconds: float
    max_case_seconds: float


FULL = Scale(
    linears=tuple((*matrix, rows) for matrix in (*LAYER_MATRICES, HEAD) for rows in (1, 8, 32, 256)),
    max_rounds=15,
    min_call_seconds=0.015,
    max_case_seconds=2.0,
)
QUICK = Scale(
    linears=(*((N_EMBD, N_INNER, rows) for rows in (1, 8, 32, 256)), (*HEAD, 1)),
    max_rounds=7,
    min_call_seconds=0.003,
    max_case_seconds=0.3,
)


@dataclass(frozen=True)
class Work:
    """A case for one instruction set. run: does it that many times; check: AssertionError if the last result
    is outside the kernel's error bound or differs in a bit from that of gpt2c.kernels."""

    run: Callable[[int], None]
    check: Callable[[], None]


@dataclass(frozen=True)
class Case:
    """An operation at one size.

    n_bytes: the minimum that must be read and written; operations: the multiplications and additions of its
    multiply-adds, 0 if other work dominates; cold: whether its operands come from memory; bf16: whether its
    weights are bfloat16, so that dot products of bfloat16 pairs are its limit on a machine that has them.
    """

    table: str
    name: str
    n_bytes: int
    operations: int
    cold: bool
    make: Callable[[Library, str], Work] = field(compare=False, repr=False)
    bf16: bool = False

    def __str__(self) -> str:
        return f"{self.table}, {self.name}"


def isas() -> list[str]:
    """The instruction sets that this machine can run, in the order of native/isa.def."""
    return [name for name, _, supported in bindings.select().isas() if supported]


def cases(scale: Scale) -> list[Case]:
    return [
        *(linear(form, *sizes) for form in LAYOUTS for sizes in scale.linears),
        *(attention(rows, position) for rows, position in ((1, 100), (1, 1000), (256, 0))),
        *elementwise(),
    ]


def _number(isa: str) -> int:
    return [name for name, _, _ in bindings.select().isas()].index(isa)


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


# ---- Caches ----


def last_level_bytes() -> int:
    """Size of the last-level cache as Linux reports it; on other systems a guess."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1:], 0))
    return max(sizes) or LAST_LEVEL_UNKNOWN


def cold_bytes() -> int:
    """How many bytes are read in a cycle, so that each part has left the caches before it is read again."""
    return min(COLD_CACHES * last_level_bytes(), MAX_COLD_BYTES)


def _copies(n_bytes: int) -> int:
    """How many copies of an operand are read alternately so that they come from memory: at least two."""
    return max(2, math.ceil(cold_bytes() / n_bytes))


# ---- Linear layers ----


def linear(form: str, n_in: int, n_out: int, rows: int) -> Case:
    head = "head " if (n_in, n_out) == HEAD else ""
    n_weights = n_in * n_out
    return Case(
        f"linear {form}",
        f"{head}{n_in}x{n_out}, {counted(rows, 'row')}",
        n_weights * WEIGHT_BYTES[form] + rows * (n_in + n_out) * FLOAT,
        2 * n_weights * rows,
        cold=True,
        make=partial(_linear, form, n_in, n_out, rows),
        bf16=form == "bf16",
    )


@functools.lru_cache(maxsize=2)
def _weight(n_in: int, n_out: int) -> Floats:
    return oracle.normal(n_in, n_out, seed=1)


@functools.cache
def _matrices(form: str, n_in: int, n_out: int, library: Library) -> Handle:
    """Copies of a matrix, shared by all instruction sets. Each run reads the least recently read copy."""
    weight = _weight(n_in, n_out)
    copies = _copies(weight.size * WEIGHT_BYTES[form])
    number = bindings.select().formats().index(form)
    return library.new("matrices", weight, n_in, n_out, number, copies)


@functools.cache
def _packed(form: str, n_in: int, n_out: int) -> kernels.Packed:
    return kernels.pack(_weight(n_in, n_out), LAYOUTS[form])


@functools.cache
def _x(n_in: int) -> Floats:
    return oracle.normal(256, n_in, seed=2)


@functools.cache
def _out(rows: int, n_out: int) -> Floats:
    """One result buffer for all instruction sets: each is checked before the next one runs."""
    return np.empty((rows, n_out), np.float32)


CHECKED_ROWS = (0, 7, 31, 255)
"""A case checks its first and last row, which are among these. The tests prove that rows are independent."""


@functools.cache
def _linear_answers(form: str, n_in: int, n_out: int) -> tuple[oracle.Answer, ...]:
    """The right results for x[CHECKED_ROWS]. An instruction set that multiplies bfloat16 pairs rounds x, too,
    and is allowed twice the error."""
    x, weight = _x(n_in)[list(CHECKED_ROWS)], _weight(n_in, n_out)
    if form == "f32":
        return (oracle.linear(x, weight),)
    weight = oracle.rounded(weight)
    exact, bound = oracle.linear(oracle.rounded(x), weight)
    return oracle.linear(x, weight), (exact, 2 * bound)


def _linear(form: str, n_in: int, n_out: int, rows: int, library: Library, isa: str) -> Work:
    x, out = _x(n_in)[:rows], _out(rows, n_out)
    out.fill(np.nan)
    packed_x = np.zeros(library.number("packed_x_bytes", rows, n_in) // FLOAT, np.float32)
    matrices = _matrices(form, n_in, n_out, library)

    def check() -> None:
        for i, row in enumerate(CHECKED_ROWS):
            if row in (0, rows - 1):
                answers = [(e[i], b[i]) for e, b in _linear_answers(form, n_in, n_out)]
                _assert_within_one(out[row], answers)
                oracle.assert_same_bits(out[row], kernels.linear(x[row], _packed(form, n_in, n_out), isa=isa))

    return Work(library.repeat("linear", _number(isa), out, x, matrices, packed_x, rows), check)


def _assert_within_one(actual: Floats, answers: list[oracle.Answer]) -> None:
    *others, last = answers
    if not any((np.abs(actual - exact) <= bound).all() for exact, bound in others):
        oracle.assert_within(actual, last)


# ---- Attention ----


def attention(rows: int, position: int) -> Case:
    n = position + rows
    seen = sum(range(position + 1, n + 1))
    return Case(
        "attention",
        f"{counted(rows, 'row')} from position {position}",
        (2 * n + 2 * rows) * N_EMBD * FLOAT,  # K and V, Q and the result
        4 * seen * N_EMBD,  # one multiply-add for the scores, one for the sum
        cold=rows == 1,
        make=partial(_attention, rows, position),
    )


def _attention(rows: int, position: int, library: Library, isa: str) -> Work:
    n = position + rows
    q, k, v = (oracle.normal(n, N_EMBD, seed=seed) for seed in (3, 4, 5))
    copies = _copies(2 * n * N_EMBD * FLOAT) if rows == 1 else 1
    sizes = (n, position, N_HEAD, N_EMBD // N_HEAD, copies)
    handle = library.new("attention", _number(isa), np.hstack([q, k, v]), *sizes)
    out = np.full((rows, N_EMBD), np.nan, np.float32)

    def check() -> None:
        exact, bound = oracle.attention(q, k, v, N_HEAD)
        oracle.assert_within(out, (exact[position:], bound[position:]))
        oracle.assert_same_bits(out, kernels.attention(q, k, v, N_HEAD, position, isa=isa))

    return Work(library.repeat("attention", handle, out), check)


# ---- Other operations: with the rows of a long prompt, in the caches ----

ROWS = 256


def elementwise() -> Iterator[Case]:
    def case(table: str, name: str, n_read: int, n_written: int, make: Callable[..., Work]) -> Case:
        return Case(table, name, (n_read + n_written) * FLOAT, 0, cold=False, make=make)

    wide, inner, scores = ROWS * N_EMBD, ROWS * N_INNER, ROWS * 1000
    yield case("layernorm", f"{ROWS} rows of {N_EMBD}", wide, wide, _layernorm)
    yield case("gelu", f"formula, {ROWS} rows of {N_INNER}", inner, inner, _gelu)
    yield case("gelu", f"table, {ROWS} rows of {N_INNER}", inner, inner, _gelu_table)
    yield case("softmax", f"{ROWS} rows of 1000", scores, scores, _softmax)
    yield case("add", f"{ROWS} rows of {N_EMBD}", 2 * wide, wide, _add)
    yield case("argmax", f"{N_VOCAB} logits", N_VOCAB, 0, _argmax)


def _work(
    library: Library,
    isa: str,
    name: str,
    x: Floats,
    arguments: tuple[Any, ...],
    answer: oracle.Answer,
    by_package: Callable[..., Floats],
) -> Work:
    """The work of an operation on x and further arguments.

    answer: the right result; by_package: the package's function for it.
    """
    out = np.full_like(x, np.nan)

    def check() -> None:
        oracle.assert_within(out, answer)
        oracle.assert_same_bits(out, by_package(isa=isa))

    return Work(library.repeat(name, _number(isa), out, x, *arguments), check)


def _exactly(answer: oracle.Array) -> oracle.Answer:
    return answer.astype(np.float64), np.zeros(answer.shape)


def _layernorm(library: Library, isa: str) -> Work:
    x, weight, bias = oracle.normal(ROWS, N_EMBD), oracle.normal(N_EMBD), oracle.normal(N_EMBD, seed=1)
    answer = oracle.layernorm(x, weight, bias, 1e-5)
    arguments = (weight, bias, ROWS, N_EMBD, 1e-5)
    return _work(library, isa, "layernorm", x, arguments, answer, partial(kernels.layernorm, x, weight, bias))


def _gelu(library: Library, isa: str) -> Work:
    x = oracle.normal(ROWS, N_INNER)
    return _work(library, isa, "gelu", x, (x.size,), oracle.gelu(x), partial(kernels.gelu, x))


def _gelu_table(library: Library, isa: str) -> Work:
    x, halves = oracle.normal(ROWS, N_INNER), kernels.gelu_table()
    answer = _exactly(halves[x.astype(np.float16).view(np.uint16)])
    return _work(library, isa, "gelu_table", x, (x.size, halves), answer, partial(kernels.gelu, x, True))


def _softmax(library: Library, isa: str) -> Work:
    x = oracle.normal(ROWS, 1000)
    return _work(library, isa, "softmax", x, (ROWS, 1000), oracle.softmax(x), partial(kernels.softmax, x))


def _add(library: Library, isa: str) -> Work:
    a, b = oracle.normal(ROWS, N_EMBD), oracle.normal(ROWS, N_EMBD, seed=1)
    return _work(library, isa, "add", a, (b, a.size), _exactly(a + b), partial(kernels.add, a, b))


def _argmax(library: Library, isa: str) -> Work:
    x, out = oracle.normal(N_VOCAB), np.full(1, -1, np.int64)

    def check() -> None:
        assert out[0] == x.argmax() == kernels.argmax(x, isa=isa)

    return Work(library.repeat("argmax", _number(isa), out, x, N_VOCAB), check)


# ---- The limits ----


@dataclass(frozen=True)
class Limits:
    """The cases that measure the machine's limits.

    cold: reading from memory, in small pages and, where the system has them, large ones, in one stream and
    in several; warm: reading data in the caches again, by the number of bytes; call: not a limit of a
    kernel, but the time that a call of the package's functions adds.
    """

    cold: tuple[Case, ...]
    warm: dict[int, Case]
    multiply_add: Case
    bf16: Case | None
    call: Case

    def all(self) -> list[Case]:
        last = [self.multiply_add, *([self.bf16] if self.bf16 else []), self.call]
        return [*self.cold, *self.warm.values(), *last]


def limits(library: Library, chosen: list[Case]) -> Limits:
    """The limits that these cases need."""
    pages = ("4 KiB", "2 MiB") if hasattr(mmap, "MADV_HUGEPAGE") else ("plain",)
    cold = tuple(
        Case(
            LIMITS,
            f"read {megabytes(cold_bytes())}, {kind} pages, {counted(streams, 'stream')}",
            cold_bytes(),
            0,
            cold=True,
            make=partial(_read, cold_bytes(), kind == "2 MiB", streams),
        )
        for kind in pages
        for streams in STREAMS
    )
    warm = {
        n: Case(LIMITS, f"read {megabytes(n)} again", n, 0, cold=False, make=partial(_read, n, False, 1))
        for n in sorted({case.n_bytes for case in chosen if not case.cold})
    }
    multiply_add = _arithmetic(library, "multiply-add, float32", "multiply_add")
    bf16 = _arithmetic(library, "dot product, bfloat16 pairs", "bf16")
    call = Case(LIMITS, "gpt2c.kernels.add of nothing", 0, 0, cold=False, make=_nothing)
    return Limits(cold, warm, multiply_add, bf16 if bf16.operations else None, call)


def megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e7 else f"{n_bytes / 1e6:.1f} MB"


def _read(n_bytes: int, large_pages: bool, streams: int, library: Library, isa: str) -> Work:
    return Work(machine_limits.reading(library, n_bytes, large_pages, streams), lambda: None)


def _arithmetic(library: Library, name: str, function: str) -> Case:
    def make(library: Library, isa: str) -> Work:
        return Work(library.repeat(function), lambda: None)

    operations = library.number(f"{function}_operations")
    return Case(LIMITS, name, 0, operations, cold=False, make=make)


def _nothing(library: Library, isa: str) -> Work:
    empty = np.empty(0, np.float32)

    def run(loops: int) -> None:
        for _ in range(loops):
            kernels.add(empty, empty)

    return Work(run, lambda: None)
