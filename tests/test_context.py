"""A context that slides: its beginning stays, the oldest tokens after it go, and the others give the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c.generation.context import Context


class Held:
    """Stands in for a session: remembers what it was fed."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    @property
    def n_past(self) -> int:
        return len(self.ids)

    def rewind(self, n_past: int) -> None:
        assert n_past <= len(self.ids)
        del self.ids[n_past:]


def naive_window(ids: list[int], n_prompt: int, n_ctx: int) -> list[int]:
    """Token by token, with a list: the first n_ctx // 8 stay, n_ctx // 2 are left when it is full."""

    def slide(window: list[int]) -> list[int]:
        if len(window) <= n_ctx:
            return window
        n_left, n_first = max(1, n_ctx // 2), n_ctx // 8
        return window[:n_first] + window[len(window) - (n_left - n_first) :]

    window = slide(ids[:n_prompt])
    for token in ids[n_prompt:]:
        window = slide([*window, token])
    return window


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 120), st.data())
def test_a_session_always_holds_the_window_and_never_more_than_the_context(
    n_ctx: int, n_prompt: int, n_new: int, data: st.DataObject
) -> None:
    ids = list(range(n_prompt + n_new))
    context, session = Context(ids[:n_prompt], n_ctx), Held()
    for token in ids[n_prompt:]:
        if data.draw(st.booleans()):  # or several tokens are fed at once
            session.ids += context.pending(session)
            assert session.ids == context.window()
        context.append(token)
    session.ids += context.pending(session)
    assert session.ids == context.window() == naive_window(ids, n_prompt, n_ctx)
    assert len(session.ids) <= n_ctx
    assert context.n_dropped == len(ids) - len(session.ids)
    assert context.n_free == n_ctx - len(session.ids)


@given(st.integers(1, 30), st.lists(st.integers(0, 9), min_size=1, max_size=70), st.data())
def test_tokens_taken_back_leave_a_window_of_what_is_left(
    n_ctx: int, ids: list[int], data: st.DataObject
) -> None:
    context, session = Context(ids, n_ctx), Held()
    session.ids += context.pending(session)
    n = data.draw(st.integers(1, len(ids)))
    context.truncate(n, session)
    session.ids += context.pending(session)
    assert context.ids == ids[:n]
    assert session.ids == context.window()
    assert len(session.ids) <= n_ctx
    first = n_ctx // 8
    assert session.ids[:first] == ids[:n][:first]


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(0, 127), min_size=1, max_size=300), st.integers(1, 160))
def test_each_token_is_the_one_after_its_window(
    model_folder: Callable[[str], Path], prompt: list[int], n: int
) -> None:
    with gpt2c.load(model_folder("tiny")) as model:
        completion = model.generate(prompt, n, overflow="slide")
        assert (len(completion.ids), completion.finish_reason) == (n, "length")
        ids = prompt + completion.ids
        for at in {len(prompt), len(prompt) + n // 2, len(prompt) + n - 1}:
            window = naive_window(ids[:at], len(prompt), 128)
            assert ids[at] == model.logits(window)[-1].argmax()


@pytest.mark.parametrize("n_prompt", [1, 127, 128, 129, 500])
def test_any_prompt_and_any_number_of_tokens_go_through(
    n_prompt: int, model_folder: Callable[[str], Path], binding: str
) -> None:
    with gpt2c.load(model_folder("tiny"), binding=binding) as model:
        completion = model.generate([1] * n_prompt, 300, overflow="slide", temperature=1.0, seed=0)
        assert len(completion.ids) == 300
        assert completion.dropped_tokens > 0
        assert model.generate([1], 5, overflow="slide").dropped_tokens == 0


def test_the_context_of_one_token_goes_on_too(tmp_path: Path) -> None:
    import json

    import safetensors.numpy
    from models import write_model

    folder = write_model(tmp_path / "m", "tiny")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "n_positions": 1}))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["wpe.weight"] = tensors["wpe.weight"][:1]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with gpt2c.load(folder) as model:
        ids = model.generate([1, 2, 3], 5, overflow="slide").ids
        expected = [3]
        for _ in range(5):
            expected.append(int(model.logits([expected[-1]])[-1].argmax()))
        assert ids == expected[1:]
