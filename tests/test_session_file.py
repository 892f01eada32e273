"""Sessions in files: what is read goes on with the bits of what was written, or is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from instruction_sets import every_set

import gpt2c

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]


@every_set()
@pytest.mark.parametrize("opts", ["all", "all,kv_f16,bf16", "kv", "none"])
def test_a_session_read_back_goes_on_with_the_same_bits(
    isa: str, opts: str, binding: str, tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    with gpt2c.load(model_folder("odd"), isa=isa, opts=opts, binding=binding) as model:
        for n in (0, 1, 16, 20):
            with model.session() as session:
                if n:
                    session.feed(IDS[:n])
                session.save(tmp_path / "state")
            with model.session() as other:
                other.feed([7])
                other.load(tmp_path / "state")
                assert other.ids == IDS[:n]
                assert np.array_equal(other.feed_all([11, 12]), model.logits([*IDS[:n], 11, 12])[n:])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_link_to_a_state_stays_a_link(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    (tmp_path / "link").symlink_to("state")
    with gpt2c.load(model_folder("odd")) as model, model.session() as session:
        session.feed(IDS)
        session.save(tmp_path / "link")
        with model.session() as other:
            other.load(tmp_path / "state")
            assert other.ids == IDS
    assert (tmp_path / "link").is_symlink()


def test_the_other_binding_and_other_threads_read_it_too(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    with gpt2c.load(model_folder("odd"), binding="cython", threads=2) as model, model.session() as session:
        session.feed(IDS)
        session.save(tmp_path / "state")
        expected = session.feed([5])
    plan = "kv,linear,gelu,residual,layernorm,unembed,aligned,simd,head_screen"
    with (
        gpt2c.load(model_folder("odd"), binding="cffi", opts=plan) as model,
        model.session() as session,
    ):
        session.load(str(tmp_path / "state"))
        assert np.array_equal(session.feed([5]), expected)


@pytest.fixture
def saved(tmp_path: Path, model_folder: Callable[[str], Path]) -> Path:
    with gpt2c.load(model_folder("odd")) as model, model.session() as session:
        session.feed(IDS)
        session.save(tmp_path / "state")
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("name", "how", "what"),
    [
        ("tiny", {}, "n_embd, n_head, n_inner, n_layer, n_vocab, weights differ"),
        ("odd", {"weights": "bf16"}, "format, weights differ"),
        ("odd", {"isa": "ref"}, "isa differ"),
        ("odd", {"opts": "all,kv_f16"}, "kv_f16 differ"),
        ("odd", {"opts": "kv,unembed,aligned,simd,head_screen"}, "switches differ"),
    ],
)
def test_a_file_of_another_model_or_plan_is_refused(
    name: str, how: dict[str, str], what: str, saved: Path, model_folder: Callable[[str], Path]
) -> None:
    with gpt2c.load(model_folder(name), **how) as model, model.session() as session:
        session.feed([1, 2])
        with pytest.raises(gpt2c.ModelFileError) as caught:
            session.load(saved)
        assert str(caught.value) == f"state: belongs to another model or plan: {what}"
        assert session.ids == [1, 2]


def with_digest(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_found_and_changes_nothing(
    data: st.DataObject, saved: Path, model_folder: Callable[[str], Path]
) -> None:
    good = saved.read_bytes()
    bad = bytearray(good)
    match data.draw(st.sampled_from(["flip", "cut", "longer"])):
        case "flip":
            bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del bad[data.draw(st.integers(0, len(bad) - 1)) :]
        case "longer":
            bad += data.draw(st.binary(min_size=1, max_size=9))
    path = saved.with_name("bad")
    path.write_bytes(bad)
    with gpt2c.load(model_folder("odd")) as model, model.session() as session:
        session.feed([1, 2])
        with pytest.raises(gpt2c.ModelFileError, match=r"^bad: is (damaged|not a session file)"):
            session.load(path)
        assert session.ids == [1, 2]


def test_lies_with_a_good_checksum_are_refused_too(saved: Path, model_folder: Callable[[str], Path]) -> None:
    content = saved.read_bytes()[:-32]
    n = int.from_bytes(content[8:12], "little")
    header, state = content[12 : 12 + n], content[12 + n :]

    def file(header: bytes, state: bytes, length: int | None = None) -> bytes:
        n = len(header) if length is None else length
        return with_digest(content[:8] + n.to_bytes(4, "little") + header + state)

    lies = {
        "more tokens than there are": file(header.replace(b'"n_tokens": 20', b'"n_tokens": 21'), state),
        "no number of tokens": file(header.replace(b'"n_tokens": 20', b'"n_tokens": -1'), state),
        "far more than the context": file(header.replace(b'"n_tokens": 20', b'"n_tokens": 999999999'), state),
        "a header longer than the file": file(header, state, 2**32 - 1),
        "a state cut short": file(header, state[:-4]),
        "an id outside the vocabulary": file(header, b"\xff\xff\xff\x7f" + state[4:]),
        "no JSON": file(b"[" * n, state),
    }
    with gpt2c.load(model_folder("odd")) as model, model.session() as session:
        session.feed([1, 2])
        for what, data in lies.items():
            saved.write_bytes(data)
            with pytest.raises(gpt2c.ModelFileError):
                session.load(saved)
            assert session.ids == [1, 2], what


def test_what_cannot_be_read_or_written_is_a_line(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    with gpt2c.load(model_folder("odd")) as model, model.session() as session:
        session.feed(IDS)
        with pytest.raises(gpt2c.ModelNotFoundError, match="does not exist"):
            session.load(tmp_path / "none")
        with pytest.raises(gpt2c.ModelFileError, match="is not a regular file"):
            session.load(tmp_path)
        with pytest.raises(gpt2c.ModelFileError, match="is not a regular file"):
            session.save(tmp_path)
        with pytest.raises(gpt2c.ModelFileError, match="cannot be written: No such file or directory"):
            session.save(tmp_path / "no" / "state")
        assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(
    saved: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with gpt2c.load(model_folder("odd")) as model, model.session() as session:
        session.feed([1])
        with pytest.raises(gpt2c.ModelFileError, match="cannot be written: No space left on device"):
            session.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
