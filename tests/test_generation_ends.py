"""A generation that is closed, cancelled, interrupted or shared: the model survives every way out."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest
from processes import INSTALLED, python
from scripted import text_of

import gpt2c
from gpt2c import bindings
from gpt2c.errors import ClosedError, SessionBusyError

PROMPT = "Once upon a time"
NO_HANG = 60  # seconds; far beyond what any of these takes
LONG_PROMPT = np.arange(500, dtype=np.int32)


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


@pytest.fixture
def slow(binding):
    """The embedded model with every optimization off: a long prompt takes seconds."""
    with gpt2c.load(opts="none", binding=binding) as loaded:
        yield loaded


def test_closing_the_stream_stops_it_at_once_and_frees_its_session(binding):
    native = bindings.load(binding)
    with gpt2c.load(binding=binding) as model:
        expected = model.generate(PROMPT, 5)
        gc.collect()  # of other tests
        before = native.memory()[0]
        with model.stream(PROMPT, 400) as stream:
            next(stream)
            assert native.memory()[0] > before
        assert native.memory()[0] == before
        assert list(stream) == []
        assert stream.completion is None
        stream.close()
        for _ in model.stream(PROMPT, 400):
            break  # a stream that is merely dropped gives its memory back too
        assert native.memory()[0] == before
        assert model.generate(PROMPT, 5).ids == expected.ids


def test_a_stream_that_was_never_begun_can_be_closed(model):
    stream = model.stream(PROMPT)
    stream.close()
    assert list(stream) == []


def run_and_cancel(model, work, ready):
    """Run work() in a thread, cancel from this one once `ready` is set; the thread has ended then."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(NO_HANG)
    deadline = time.monotonic() + NO_HANG
    while thread.is_alive() and time.monotonic() < deadline:
        model.cancel()
        thread.join(0.01)
    assert not thread.is_alive()


def test_cancel_from_another_thread_ends_a_long_prompt_with_an_empty_completion(slow):
    ready, results = threading.Event(), []

    def work():
        ready.set()
        results.append(slow.generate(LONG_PROMPT, 5))

    run_and_cancel(slow, work, ready)
    [completion] = results
    assert (completion.text, completion.ids, completion.finish_reason) == ("", [], "cancelled")
    assert completion.timings.forward_passes == 0
    assert slow.generate([1, 2, 3], 1).finish_reason == "length"


def test_cancel_keeps_the_text_so_far(slow):
    ready, streams, pieces = threading.Event(), [], []

    def work():
        streams.append(slow.stream(PROMPT, 400))
        for piece in streams[0]:
            pieces.append(piece)
            if len(pieces) == 3:
                ready.set()

    run_and_cancel(slow, work, ready)
    completion = streams[0].completion
    assert completion.finish_reason == "cancelled"
    assert 3 <= len(completion.ids) < 400
    assert completion.text == "".join(pieces) == text_of(slow.tokenizer, completion.ids)


def test_cancel_between_two_tokens_is_noticed_too(model):
    stream = model.stream(PROMPT, 20)
    first = next(stream)
    model.cancel()
    assert list(stream) == []
    assert stream.completion.finish_reason == "cancelled"
    assert stream.completion.text == first


def test_cancel_when_nothing_runs_does_nothing(model):
    expected = model.generate(PROMPT, 3).ids
    model.cancel()
    assert model.generate(PROMPT, 3).ids == expected


@pytest.fixture
def ctrl_c_soon():
    """Ctrl-C, a moment after it is asked for; not at all if the test is over by then."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    yield timer
    timer.cancel()
    timer.join()


def test_ctrl_c_ends_a_long_prompt_and_the_session_is_as_before(slow, ctrl_c_soon):
    with slow.session() as session:
        expected = session.feed([5, 6, 7]).copy()
        session.rewind(2)
        began = time.thread_time()  # the processor's time: another process's work does not count
        ctrl_c_soon.start()
        with pytest.raises(KeyboardInterrupt):
            session.feed(LONG_PROMPT)
        assert time.thread_time() - began < 0.3 + 1
        assert session.n_past == 2
        np.testing.assert_array_equal(session.feed([7]), expected)


def test_ctrl_c_ends_a_generation_and_the_model_stays_usable(slow, ctrl_c_soon):
    expected = slow.generate([1, 2, 3], 2).ids
    ctrl_c_soon.start()
    with pytest.raises(KeyboardInterrupt):
        slow.generate(LONG_PROMPT, 5)
    assert slow.generate([1, 2, 3], 2).ids == expected


def test_greedy_generation_imports_no_random_numbers_checksums_or_temporary_files(tmp_path):
    """Which would more than double the memory that the package takes on top of NumPy."""
    code = (
        "import sys, numpy\n"
        "before = set(sys.modules)  # which of them NumPy brings depends on its version\n"
        "import gpt2c\n"
        "gpt2c.load().generate([1, 2, 3], 3)\n"
        "found = {'numpy.random', 'hashlib', 'tempfile', 'shutil', 'random', 'tiktoken'} & set(sys.modules)\n"
        "print(sorted(found - before))\n"
    )
    done = python("-c", code, path=INSTALLED, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_generation_imports_nothing_once_it_has_begun(tmp_path):
    """A Ctrl-C that comes while an extension module is imported can be lost."""
    code = (
        "import sys, gpt2c\n"
        "stream = gpt2c.load().stream('The sea', 3, temperature=1.0, top_k=5, top_p=0.9, seed=0)\n"
        "before = set(sys.modules)\n"
        "list(stream)\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = python("-c", code, path=INSTALLED, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---- Threads ----


def test_a_second_thread_in_one_session_is_refused_and_the_first_is_not_disturbed(slow):
    with slow.session() as session:
        session.feed([1])
        errors = []

        def work():
            try:
                session.feed(LONG_PROMPT)
            except gpt2c.CancelledError as error:
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        with pytest.raises(SessionBusyError):
            while thread.is_alive():
                session.rewind(1)  # does nothing until the other thread is inside
        with pytest.raises(SessionBusyError):
            session.feed([2])
        for about in ("rows", "separate_passes", "screened"):
            with pytest.raises(SessionBusyError):
                getattr(session, about)
        assert session.n_past == 1
        while thread.is_alive():
            session.cancel()
            thread.join(0.01)
        assert len(errors) == 1
        assert session.n_past == 1


def test_many_threads_on_one_model_get_the_answers_that_each_would_get_alone(binding):
    with gpt2c.load(binding=binding) as model:
        prompts = [f"{word} was" for word in ("He", "She", "It", "There", "What", "The ship")]
        expected = [model.generate(prompt, 6) for prompt in prompts]
        found = [None] * len(prompts)

        def work(i):
            found[i] = [model.generate(prompts[i], 6) for _ in range(2)]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(NO_HANG)
        for alone, together in zip(expected, found, strict=True):
            assert [(c.text, c.ids) for c in together] == [(alone.text, alone.ids)] * 2


# ---- After close ----


def test_a_closed_model_says_so(binding):
    model = gpt2c.load(binding=binding)
    begun = model.stream(PROMPT, 5)
    first = next(begun)
    session = model.session()
    session.feed([1])
    not_begun = model.stream(PROMPT, 5)
    model.close()
    model.close()
    calls = [
        lambda: model.generate(PROMPT),
        lambda: model.generate([1], 0),
        lambda: next(not_begun),
        lambda: model.logits([1]),
        lambda: model.session(),
        lambda: model.weight_bytes,
    ]
    for call in calls:
        with pytest.raises(ClosedError) as caught:
            call()
        assert str(caught.value) == "the model is closed"
    # What runs already runs to its end.
    assert first + "".join(begun) == begun.completion.text
    assert session.feed([2]).shape == (model.config.n_vocab,)
    session.close()
    session.close()
    for call in (lambda: session.feed([1]), lambda: session.n_past, lambda: session.rewind(0)):
        with pytest.raises(ClosedError) as caught:
            call()
        assert str(caught.value) == "the session is closed"
    session.cancel()
