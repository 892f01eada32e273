"""Which instruction sets, and through which binding, a test runs a whole model.

Both bindings link the same objects, and test_bindings.py holds the whole models of one to those of the other
bit for bit, on every set. So the plain sets, whose models are slow, run in the first binding only; a set with
SIMD, which takes no time, in both.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

import gpt2c
from gpt2c import bindings
from gpt2c.options import resolve

ISAS: tuple[str, ...] = tuple(gpt2c.build_info()["isas_supported"])
PLAIN = ("ref", "unroll")
EVERY_SET = [
    (isa, name) for isa in ISAS for name in bindings.NAMES if name == bindings.NAMES[0] or isa not in PLAIN
]


def _plans(opts: Iterable[str]) -> list[tuple[str, str]]:
    supported = [(isa, True) for isa in ISAS]
    isas = {one: resolve(one, isas=supported, environ={}).isa for one in opts}
    return [(one, name) for one, isa in isas.items() for name in bindings.NAMES if (isa, name) in EVERY_SET]


def every_set() -> pytest.MarkDecorator:
    """Parameters `isa` and `binding`."""
    return pytest.mark.parametrize(("isa", "binding"), EVERY_SET, indirect=["binding"])


def every_plan(opts: Iterable[str]) -> pytest.MarkDecorator:
    """Parameters `opts` and `binding`: each of these options with the set that it stands for."""
    return pytest.mark.parametrize(("opts", "binding"), _plans(opts), indirect=["binding"])
