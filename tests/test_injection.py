"""Every allocation of the C core fails in turn: a clean MemoryError, nothing leaked, and all works again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2c
from gpt2c import bindings, kernels
from gpt2c.backends import packed_cache
from gpt2c.backends.native import native_config
from gpt2c.errors import OutOfMemoryError

Folders = Callable[[str], Path]
EachFails = Callable[[Callable[[], object]], int]
MOST = 200  # allocations; each scenario below has far fewer


@pytest.fixture
def core(binding: str) -> Iterator[Any]:
    native = bindings.load(binding)
    yield native
    native.memory_fail_at(0)


def live(core: Any, expected: int = -1) -> int:
    """Bytes; garbage is collected first, which takes long with torch, unless they are what is expected."""
    if core.memory()[0] != expected:
        gc.collect()
    return int(core.memory()[0])


@pytest.fixture
def each_fails(core: Any, record_property: Callable[[str, object], None]) -> EachFails:
    """A function: a scenario -> how many allocations it has, each of which failed in turn."""

    def run(scenario: Callable[[], object]) -> int:
        scenario()  # what is made once for ever is made here
        before = live(core)
        for n in range(1, MOST):
            core.memory_fail_at(n)
            try:
                scenario()
            except OutOfMemoryError as error:
                assert isinstance(error, MemoryError)
                assert "\n" not in str(error) and str(error)
            else:
                record_property("allocations", n - 1)
                return n - 1
            finally:
                core.memory_fail_at(0)
                assert live(core, before) == before
        raise AssertionError(f"still failing at allocation {MOST}")

    return run


@pytest.mark.parametrize(
    "opts", ["none", "all", "all,gelu_table", "all,bf16", "all,kv_f16,threads=3", "all,q4"]
)
def test_loading_and_generating(
    opts: str, binding: str, each_fails: EachFails, model_folder: Folders
) -> None:
    with gpt2c.load(model_folder("odd"), opts=opts, binding=binding) as model:
        expected = model.generate([1, 2, 3], 5).ids

    def scenario() -> None:
        with gpt2c.load(model_folder("odd"), opts=opts, binding=binding) as model:
            assert model.generate([1, 2, 3], 5).ids == expected

    # The model, its layers, flags, pool and weights; the session, its arena and ids.
    assert each_fails(scenario) >= 8


def test_a_session_that_could_not_be_made_leaves_its_model_good(
    binding: str, each_fails: EachFails, model_folder: Folders
) -> None:
    with gpt2c.load(model_folder("untied"), binding=binding) as model:
        expected = model.logits([1, 2, 3])
        # A session and its ids: the buffers are those of the session before.
        assert each_fails(lambda: model.logits([1, 2, 3])) == 2
        np.testing.assert_array_equal(model.logits([1, 2, 3]), expected)


def test_packed_files(
    binding: str, core: Any, each_fails: EachFails, model_folder: Folders, tmp_path: Path
) -> None:
    path = tmp_path / "x.packed"
    with gpt2c.load(model_folder("tiny"), opts="aligned", binding=binding) as model:
        config = native_config(model.config, model.plan, [name for name, *_ in core.isas()])
        assert each_fails(lambda: model.save_packed(path, b"k")) == 1
    assert each_fails(lambda: core.Model.open_packed(bytes(path), b"k", config)) >= 4
    assert [file.name for file in tmp_path.iterdir()] == ["x.packed"]


def test_the_cache_of_packed_files(
    binding: str,
    each_fails: EachFails,
    model_folder: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A load whose saving fails still gives a model, and no load leaves half a file."""
    monkeypatch.setenv("GPT2C_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "MIN_BYTES", 0)
    with gpt2c.load(model_folder("tiny"), opts="aligned", binding=binding) as model:
        expected = model.logits([1, 2])

    def scenario() -> None:
        for file in packed_cache.packed_files(tmp_path / "cache"):
            file.unlink()
        with gpt2c.load(model_folder("tiny"), opts="aligned", binding=binding) as model:
            np.testing.assert_array_equal(model.logits([1, 2]), expected)

    assert each_fails(scenario) >= 8
    assert all(file.suffix == ".packed" for file in (tmp_path / "cache").iterdir())


def test_the_kernels_one_by_one(binding: str, each_fails: EachFails) -> None:
    x = np.ones((3, 32), np.float32)

    def scenario() -> None:
        kernels.linear(x, np.ones((32, 40)), layout="panels", binding=binding)
        kernels.attention(x, x, x, 4, binding=binding)

    assert each_fails(scenario) >= 6


def test_a_failure_under_a_running_session_changes_nothing(
    binding: str, core: Any, model_folder: Folders
) -> None:
    with gpt2c.load(model_folder("tiny"), opts="all,threads=3", binding=binding) as model:
        with model.session() as session:
            core.memory_fail_at(
                1
            )  # a feed allocates nothing, not even for the threads that the first one starts
            session.feed([1, 2, 3])
            logits = session.feed([4])
            core.memory_fail_at(0)
        np.testing.assert_array_equal(logits, model.logits([1, 2, 3, 4])[-1])
