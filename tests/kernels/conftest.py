"""Every test here runs for every instruction set that this machine supports, through both bindings."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from gpt2c import bindings

ISAS = [name for name, _, supported in bindings.select().isas() if supported]
TARGETS = [{"binding": binding, "isa": isa} for binding in bindings.NAMES for isa in ISAS]


def live_bytes() -> dict[str, int]:
    """Bytes that each binding's core has allocated and not yet freed."""
    return {name: bindings.load(name).memory()[0] for name in bindings.NAMES}


@pytest.fixture(scope="package", autouse=True)
def without_garbage() -> None:
    """Collect what earlier tests left, which would otherwise be freed during a test here."""
    gc.collect()


@pytest.fixture(autouse=True)
def frees_what_it_allocates() -> Iterator[None]:
    """Fail a test that leaves memory allocated in C."""
    before = live_bytes()
    yield
    if live_bytes() != before:
        gc.collect()  # references may form a cycle
    assert live_bytes() == before


@pytest.fixture(params=TARGETS, ids=lambda target: "-".join(target.values()))
def on(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Where to run: keyword arguments of a kernel."""
    bindings.load(request.param["binding"])
    yield dict(request.param)


@pytest.fixture(params=["in_out", "out_in", "panels"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)
