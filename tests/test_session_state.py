"""What a session holds, given to another one: copied, or taken out as bytes and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_sets import EVERY_SET, ISAS

import gpt2c

IDS = [
    3,
    1,
    4,
    1,
    5,
    9,
    2,
    6,
    5,
    3,
    5,
    8,
    9,
    7,
    9,
    3,
    2,
    3,
    8,
    4,
    6,
    2,
    6,
    4,
    3,
    3,
    8,
    3,
    2,
    7,
    9,
    5,
    0,
    2,
    8,
]

# Each stores something else: K and V alone, as halves, everything, a mixture, nothing at all.
PLANS = [
    "all",
    "all,kv_f16",
    "none",
    "kv,gelu,layernorm,aligned",
    "linear,residual",
    "kv,linear,gelu,residual,fused",
]


@pytest.fixture(params=[(*on, opts) for on in EVERY_SET for opts in PLANS], ids="-".join)
def model(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> Iterator[gpt2c.Model]:
    isa, binding, opts = request.param
    with gpt2c.load(model_folder("odd"), isa=isa, opts=opts, binding=binding) as model:
        yield model


def test_a_copy_of_any_length_goes_on_with_the_bits_of_having_been_fed(model: gpt2c.Model) -> None:
    with model.session() as original, model.session() as copy:
        original.feed(IDS)
        expected = model.logits([*IDS, 11])
        for n in (0, 1, 15, 16, 17, 32, len(IDS)):
            copy.copy_from(original, n)
            assert (copy.n_past, copy.ids) == (n, IDS[:n])
            assert np.array_equal(copy.feed_all([*IDS[n:], 11]), expected[n:])
        assert original.ids == IDS
        assert np.array_equal(original.feed([11]), expected[-1])


def test_the_bytes_of_a_state_put_back_go_on_with_the_same_bits(model: gpt2c.Model) -> None:
    for n in (1, 16, 21):
        with model.session() as original, model.session() as other:
            original.feed(IDS[:n])
            native = original._open()
            state = np.empty(native.state_bytes(n), np.uint8)
            native.get_state(state)
            other.feed(IDS[::-1])
            other._open().set_state(n, state)
            assert other.ids == IDS[:n]
            assert np.array_equal(other.feed(IDS[n:]), model.logits(IDS)[-1])


def test_greedy_ids_of_every_token_are_those_of_the_logits(model: gpt2c.Model) -> None:
    expected = model.logits(IDS).argmax(-1).tolist()
    with model.session() as session:
        assert session.feed_greedy_all(IDS[:1]) == expected[:1]
        assert session.feed_greedy_all(IDS[1:]) == expected[1:]


def test_a_prompt_of_several_chunks_gives_all_its_greedy_ids(binding: str) -> None:
    ids = [i * 37 % 8000 for i in range(300)]
    with gpt2c.load(binding=binding) as model, model.session() as session:
        found = session.feed_greedy_all(ids)
        assert [found[i] for i in (0, 31, 32, 255, 256, 299)] == [
            int(model.logits(ids[: i + 1])[-1].argmax()) for i in (0, 31, 32, 255, 256, 299)
        ]


@settings(deadline=None, max_examples=40)
@given(
    st.data(),
    st.sampled_from(ISAS),
    st.sampled_from(["cython", "cffi"]),
    st.sampled_from(["all", "all,kv_f16", "all,q8", "kv,gelu", "none"]),
)
def test_sessions_that_feed_rewind_copy_and_save_are_always_what_their_tokens_say(
    model_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    isa: str,
    binding: str,
    opts: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "state"
    with gpt2c.load(model_folder("tiny"), isa=isa, opts=opts, binding=binding, threads=1) as model:
        sessions, held = [model.session(), model.session()], [[], []]
        for _ in range(data.draw(st.integers(1, 6))):
            i = data.draw(st.integers(0, 1))
            match data.draw(st.sampled_from(["feed", "rewind", "copy", "save"])):
                case "feed":
                    # Few different ones, so that sessions begin alike: what they share is not copied.
                    ids = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=20))
                    if len(held[i]) + len(ids) <= 100:
                        sessions[i].feed(ids)
                        held[i] = held[i] + ids
                case "rewind":
                    n = data.draw(st.integers(0, len(held[i])))
                    sessions[i].rewind(n)
                    held[i] = held[i][:n]
                case "copy":
                    n = data.draw(st.integers(0, len(held[1 - i])))
                    sessions[i].copy_from(sessions[1 - i], n)
                    held[i] = held[1 - i][:n]
                case "save":
                    sessions[1 - i].save(path)
                    sessions[i].load(path)
                    held[i] = held[1 - i][:]
        for session, ids in zip(sessions, held, strict=True):
            assert session.ids == ids
            assert np.array_equal(session.feed([7]), model.logits([*ids, 7])[-1])


def test_what_cannot_be_copied_is_refused_and_changes_nothing(
    binding: str, model_folder: Callable[[str], Path]
) -> None:
    with (
        gpt2c.load(model_folder("tiny"), binding=binding) as model,
        gpt2c.load(model_folder("tiny"), binding=binding) as twin,
        model.session() as session,
        model.session() as other,
        twin.session() as stranger,
    ):
        session.feed(IDS)
        other.feed([1, 2])
        stranger.feed(IDS)
        with pytest.raises(gpt2c.OptionError, match="cannot copy 3 tokens: the session holds 2"):
            session.copy_from(other, 3)
        with pytest.raises(gpt2c.OptionError, match="only be copied from another session of the same model"):
            session.copy_from(stranger, 1)
        with pytest.raises(gpt2c.SessionBusyError):
            session.copy_from(session, 1)
        assert session.ids == IDS
        native, state = session._open(), np.empty(0, np.uint8)
        with pytest.raises(gpt2c.OptionError):
            native.get_state(state)
        state = np.empty(native.state_bytes(2), np.uint8)
        other._open().get_state(state)
        with pytest.raises(gpt2c.OptionError):
            native.set_state(3, state)
        state[:4] = 255  # an id of -1
        with pytest.raises(gpt2c.TokenError):
            native.set_state(2, state)
        assert session.ids == IDS
        assert native.state_bytes(129) == 0


def test_the_checksum_of_the_weights_tells_models_apart(
    binding: str, model_folder: Callable[[str], Path]
) -> None:
    def checksum(name: str, **how: str) -> int:
        with gpt2c.load(model_folder(name), binding=binding, **how) as model:
            return model._handle.opened().checksum()

    assert checksum("tiny") == checksum("tiny") != checksum("odd")
    assert checksum("tiny") != checksum("tiny", weights="bf16")
