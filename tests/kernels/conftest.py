"""Every test here runs for every instruction set that this machine supports, through both bindings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpt2c import bindings

ISAS = [name for name, _, supported in bindings.select().isas() if supported]
TARGETS = [{"binding": binding, "isa": isa} for binding in bindings.NAMES for isa in ISAS]


@pytest.fixture(params=TARGETS, ids=lambda target: "-".join(target.values()))
def on(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Where to run: keyword arguments of a kernel. Whatever a test allocates in C it also gives back."""
    bindings.load(request.param["binding"])
    yield dict(request.param)


@pytest.fixture(params=["in_out", "out_in", "panels"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)
