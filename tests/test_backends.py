"""Every backend of `load(backend=...)`: the same model, the same interface, and clear errors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import PROMPTS
from references import is_installed, needs, optional
from test_reference import oracle

import gpt2c
from gpt2c import backends
from gpt2c.backends import cached
from gpt2c.bindings import Outputs
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.cli import main as cli
from gpt2c.options import SWITCHES, WEIGHTS

Folder = Callable[[str], Path]


def parameter(name: str) -> Any:
    """A test parameter; a backend whose packages are not installed is skipped with what to install."""
    needed = getattr(backends.LIBRARIES.get(name), "packages", ())
    return pytest.param(name, marks=needs(*needed))


EVERY = [parameter(name) for name in backends.names()]
ROUNDING = [name for name, opts in backends.PRESETS.items() if set(opts) & set(WEIGHTS)]
EXACT = [parameter(name) for name in backends.names() if name not in ROUNDING]
PYTHON = [parameter(name) for name in backends.LIBRARIES]
TIE = 1e-3  # two logits this close may come out in either order


@pytest.fixture(autouse=True)
def one_thread_for_torch() -> None:
    """Its threads spin at barriers, which costs much where tests run side by side."""
    if is_installed("torch"):
        optional("torch").set_num_threads(1)


# ---- The same model ----


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_logits_are_the_oracles(name: str, backend: str, model_folder: Folder) -> None:
    folder = model_folder(name)
    with gpt2c.load(folder, backend=backend) as model:
        for ids in PROMPTS[name]:
            logits = model.logits(ids)
            assert logits.dtype == np.float32 and logits.shape == (len(ids), model.config.n_vocab)
            assert np.abs(logits - oracle(folder, ids)).max() < 1e-4


@pytest.mark.parametrize("backend", EXACT)
def test_logits_of_the_embedded_model_are_the_oracles(backend: str) -> None:
    ids = list(range(0, 8192, 271))
    with gpt2c.load(backend=backend) as model:
        assert np.abs(model.logits(ids) - oracle(EMBEDDED_MODEL, ids)).max() < 1e-4


TEXTS = ["Once upon a time", "'I am ready,' said Holmes,", "The old man of the sea"]


# c_naive computes every token of a text again for the next one: one text of it proves as much as three.
@pytest.mark.parametrize(
    ("prompt", "backend"),
    [
        pytest.param(prompt, *backend.values, marks=backend.marks)
        for prompt in TEXTS
        for backend in EXACT
        if prompt == TEXTS[0] or backend.values != ("c_naive",)
    ],
)
def test_greedy_text_is_the_same(prompt: str, backend: str) -> None:
    with gpt2c.load(backend=backend) as model:
        found = model.generate(prompt, 30)
    with gpt2c.load(isa="ref") as naive:
        assert_same_but_for_a_tie(naive, naive_completion(prompt), found.ids)


@cache
def naive_completion(prompt: str) -> gpt2c.Completion:
    with gpt2c.load(isa="ref") as naive:
        return naive.generate(prompt, 30)


def assert_same_but_for_a_tie(model: gpt2c.Model, expected: gpt2c.Completion, found: list[int]) -> None:
    """Where the ids first differ, `model`'s two best logits must be too close to call."""
    if expected.ids != found:
        n_same = next(i for i, (a, b) in enumerate(zip(expected.ids, found, strict=True)) if a != b)
        logits = model.logits([*expected.prompt_ids, *expected.ids[:n_same]])[-1]
        second, best = np.sort(logits)[-2:]
        assert best - second < TIE, f"differs at new token {n_same + 1}: {expected.ids} {found}"


def test_presets_are_the_native_options_that_they_name() -> None:
    six = ",".join(SWITCHES)
    same = {
        "c_naive": "none",
        "c_simd": "aligned,simd,threads",
        "c_kv": f"aligned,simd,threads,{six}",
        "c_kv2": f"aligned,simd,threads,{six},fused",
        "c_q8": f"aligned,simd,threads,{six},fused,q8",
        "c_q4": f"aligned,simd,threads,{six},fused,q4",
    }
    assert set(same) == set(backends.names()) & set(backends.PRESETS)
    for preset, opts in same.items():
        with gpt2c.load(backend=preset) as a, gpt2c.load(opts=opts) as b:
            assert a.plan == b.plan


def test_a_preset_is_offered_as_soon_as_its_options_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.PRESETS, "c_later", ("kv", "not_there_yet"))
    assert "c_later" not in backends.names()
    monkeypatch.setitem(backends.PRESETS, "c_later", ("kv",))
    assert "c_later" in backends.names()


# ---- The same surface ----


@pytest.mark.parametrize("backend", PYTHON)
def test_a_session_feeds_rewinds_and_feeds_again(backend: str, model_folder: Folder) -> None:
    folder = model_folder("odd")
    ids = PROMPTS["odd"][2]
    expected = oracle(folder, ids)
    with gpt2c.load(folder, backend=backend) as model, model.session() as session:
        assert np.abs(session.feed(ids[:5]) - expected[4]).max() < 1e-4
        session.feed([1, 2, 3])
        session.rewind(5)
        assert session.n_past == 5
        assert np.abs(session.feed_all(ids[5:]) - expected[5:]).max() < 1e-4
        assert session.n_past == len(ids)
        session.rewind(0)
        assert session.feed_greedy(ids) == expected[-1].argmax()


@pytest.mark.parametrize("backend", PYTHON)
def test_a_long_prompt_in_chunks_is_the_whole(
    backend: str, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ids = model_folder("tiny"), list(range(100))
    monkeypatch.setattr(cached, "CHUNK_ROWS", 7)
    with gpt2c.load(folder, backend=backend) as model:
        assert np.abs(model.logits(ids) - oracle(folder, ids)).max() < 1e-4


@pytest.mark.parametrize("backend", PYTHON)
def test_streamed_pieces_are_the_text_of_generate(backend: str) -> None:
    settings = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 20, "seed": 5}
    with gpt2c.load(backend=backend) as model:
        assert "".join(model.stream("The sea", **settings)) == model.generate("The sea", **settings).text
        assert model.weight_bytes == 4 * model.config.n_parameters


@pytest.mark.parametrize("backend", PYTHON)
def test_errors_are_those_of_the_c_core(backend: str, model_folder: Folder) -> None:
    model = gpt2c.load(model_folder("tiny"), backend=backend)
    with model.session() as session:
        with pytest.raises(gpt2c.TokenError):
            session.feed([128])
        with pytest.raises(gpt2c.ContextLengthError):
            session.feed([0] * 129)
        with pytest.raises(gpt2c.OptionError, match="native backend only"):
            _ = session.rows
        assert session.n_past == 0
    with pytest.raises(gpt2c.OptionError, match="packed files"):
        model.save_packed(Path("never-written"), b"")
    model.close()
    with pytest.raises(gpt2c.ClosedError):
        model.logits([1])


class Slow:
    """A backend that waits in its first chunk until `go_on` is set."""

    weight_bytes = 0

    def __init__(self) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()

    def new_cache(self) -> None:
        return None

    def hidden(self, ids: np.ndarray, n_past: int, cache: None) -> np.ndarray:
        self.started.set()
        assert self.go_on.wait(60)
        return np.zeros((len(ids), 1), np.float32)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        return np.array([[0.0, np.nan, 3.0, 3.0]], np.float32)


def test_a_call_from_another_thread_can_cancel_and_not_enter() -> None:
    slow = Slow()
    session = cached.CachedSession(cached.CachedModel("slow", slow))
    outcome: list[BaseException] = []

    def feed() -> None:
        try:
            session.feed(np.zeros(2 * cached.CHUNK_ROWS, np.int32), Outputs(next_id=True))
        except gpt2c.Gpt2cError as error:
            outcome.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    assert slow.started.wait(60)
    with pytest.raises(gpt2c.SessionBusyError):
        session.feed(np.zeros(1, np.int32), Outputs())
    with pytest.raises(gpt2c.SessionBusyError):
        session.rewind(0)
    session.cancel()
    slow.go_on.set()
    thread.join(60)
    assert [type(error) for error in outcome] == [gpt2c.CancelledError]
    assert session.n_past() == 0
    assert session.feed(np.zeros(1, np.int32), Outputs(next_id=True)) == 2, "lowest of the best, NaN never"


# ---- Refusals ----


@pytest.mark.parametrize("backend", PYTHON)
@pytest.mark.parametrize(
    "argument", [{"opts": "kv"}, {"threads": 2}, {"isa": "ref"}, {"binding": "cffi"}, {"weights": "f32"}]
)
def test_what_only_the_c_core_has_is_refused_elsewhere(backend: str, argument: dict[str, Any]) -> None:
    with pytest.raises(gpt2c.OptionError, match=f"{next(iter(argument))}: for the native backend only"):
        gpt2c.load(backend=backend, **argument)


def test_a_preset_takes_no_options_and_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(gpt2c.OptionError, match="c_kv"):
        gpt2c.load(backend="c_kv", opts="kv")
    with pytest.raises(gpt2c.OptionError, match="did you mean 'numpy'"):
        gpt2c.load(backend="nunpy")
    with pytest.raises(gpt2c.OptionError, match="unknown backend None"):
        gpt2c.load(backend=None)


@pytest.mark.parametrize(("backend", "package"), [("torch", "torch"), ("hf", "transformers")])
def test_a_missing_package_is_named_with_its_extra(
    backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None if package == "torch" else object())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(gpt2c.BackendUnavailable) as caught:
        gpt2c.load(backend=backend)
    assert f"import of {package} halted" in str(caught.value)
    assert f"pip install 'gpt2c[{backend}]'" in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--backend", "numpy"], 0),
        (["--backend", "c_kv", "--threads", "1"], 0),
        (["--backend", "c_kv", "--opts", "all"], 2),
        (["--backend", "numpy", "--isa", "ref"], 2),
        (["--backend", "nothing"], 2),
    ],
)
def test_the_flag(argv: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--max-new-tokens", "2", *argv]) == status
    out, err = capsys.readouterr()
    if status:
        assert out == "" and len(err.splitlines()) == 1
    else:
        assert out.startswith("Once upon a time")
