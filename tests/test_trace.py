"""Tracing: what is recorded is what ran, and looking changes nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models import CONFIGS, PROMPTS
from test_reference import oracle

import gpt2c
from gpt2c import bindings
from gpt2c.bindings import cffi_binding
from gpt2c.cli import run
from gpt2c.trace import _EVENT, _MAX_PER_LAYER, Feed, Trace

Folder = Callable[[str], Path]

FUSED = ["ln_1", "qkv", "attention", "attn_proj", "ln_2", "mlp_fc", "mlp_proj"]
SEPARATE = [*FUSED[:4], "residual", "ln_2", "mlp_fc", "gelu", "mlp_proj", "residual"]
N_LAYER = CONFIGS["tiny"]["n_layer"]


def traced(folder: Path, ids: list[int], n_new: int = 4, **settings: object) -> Trace:
    with gpt2c.load(folder, **settings) as model, model.trace() as trace:
        model.generate(ids, n_new)
    return trace


def shape(feed: Feed) -> list[tuple[object, ...]]:
    """All of a feed but its times."""
    return [(op.name, op.layer, op.rows, op.n_in, op.n_out, op.n_bytes) for op in feed.operations]


# ---- What is recorded ----


@pytest.mark.parametrize(("opts", "in_layer"), [("all", FUSED), ("none", SEPARATE), ("kv,unroll", SEPARATE)])
def test_every_operation_is_there_in_its_order(
    opts: str, in_layer: list[str], binding: str, model_folder: Folder
) -> None:
    trace = traced(model_folder("tiny"), PROMPTS["tiny"][1], opts=opts, binding=binding)
    expected = [("embed", -1)]
    for layer in range(N_LAYER):
        expected += [(name, layer) for name in in_layer]
    expected += [("ln_f", -1), ("head", -1)]
    assert len(trace.feeds) == 4 and len(trace.sessions) == 1
    for feed in trace.feeds:
        assert [(op.name, op.layer) for op in feed.operations] == expected


def test_a_trace_has_space_for_every_operation(model_folder: Folder) -> None:
    for feed in traced(model_folder("tiny"), PROMPTS["tiny"][1], opts="none").feeds:
        n_per_layer = Counter((op.name, op.layer) for op in feed.operations)
        assert max(n_per_layer.values()) == _MAX_PER_LAYER


def test_times_follow_one_another_inside_their_feed(binding: str, model_folder: Folder) -> None:
    trace = traced(model_folder("tiny"), [1, 2, 3], binding=binding)
    end = trace.sessions[0][1]
    for feed in trace.feeds:
        assert end <= feed.begin_ns < feed.end_ns
        end = feed.begin_ns
        for op in feed.operations:
            assert end <= op.begin_ns <= op.end_ns
            end = op.end_ns
        assert end <= feed.end_ns
        end = feed.end_ns


def test_rows_are_those_that_the_switches_leave(model_folder: Folder) -> None:
    ids = PROMPTS["tiny"][1]
    for opts, expected in (("all", 1), ("none", len(ids) + 3)):
        last = traced(model_folder("tiny"), ids, opts=opts).feeds[-1]
        assert {op.rows for op in last.operations} == {expected}
        assert (last.n_past, last.n_ids) == (len(ids) + 2, 1)


def test_bytes_are_weights_and_activations_each_once(model_folder: Folder) -> None:
    feed = traced(model_folder("tiny"), [1, 2, 3], opts="kv,aligned").feeds[-1]
    d, n_vocab, rows, n = 32, 128, 6, 6
    found = {op.name: op for op in feed.operations}
    assert found["qkv"].n_bytes == 4 * (d * 3 * d + 3 * d + 1 * (d + 3 * d))
    assert found["mlp_fc"].n_bytes == 4 * (d * 4 * d + 4 * d + rows * (d + 4 * d))
    assert found["attention"].n_bytes == 4 * (2 * (n + 1) * d + 4 * d)
    assert found["attention"].n_in == n
    assert found["residual"].n_bytes == 4 * 3 * rows * d
    assert found["head"].n_bytes == 4 * (n_vocab * d + rows * (d + n_vocab))


def test_a_format_and_the_screen_show_in_the_bytes() -> None:
    def head(opts: str) -> float:
        with gpt2c.load(opts=opts) as model, model.session() as session:
            events = np.zeros(200, _EVENT)
            native = session._open()
            native.trace(events.view(np.uint8))
            session.feed_greedy([5])
            return float(events["n_bytes"][native.traced() - 1])

    whole = head("kv,unembed,aligned")
    assert 0.49 < head("kv,unembed,bf16") / whole < 0.51
    assert 0.25 < head("kv,unembed,head_screen") / whole < 0.5


def test_both_bindings_record_the_same(model_folder: Folder) -> None:
    folder = model_folder("odd")
    a, b = (traced(folder, [3, 4], binding=name, threads=1) for name in bindings.NAMES)
    assert [shape(feed) for feed in a.feeds] == [shape(feed) for feed in b.feeds]
    assert [feed.best for feed in a.feeds] == [feed.best for feed in b.feeds]


def test_the_best_tokens_have_the_oracles_probabilities(model_folder: Folder) -> None:
    folder, ids = model_folder("odd"), PROMPTS["odd"][2]
    [best] = [feed.best for feed in traced(folder, ids, 1).feeds]
    logits = oracle(folder, ids)[-1]
    exp = np.exp(logits - logits.max())
    assert [i for i, _ in best] == np.argsort(-logits)[:5].tolist()
    np.testing.assert_allclose([p for _, p in best], np.sort(exp / exp.sum())[:-6:-1], rtol=1e-4)


def test_without_the_best_tokens_nothing_more_is_computed() -> None:
    with gpt2c.load() as model, model.trace(n_best=0) as trace, model.session() as session:
        session.feed_greedy([5, 6])
        assert session.screened[0] == 1, "the whole head was not needed"
    assert trace.feeds[0].best == [] and trace.feeds[0].operations


def test_a_prompt_of_several_chunks_is_one_feed(model_folder: Folder) -> None:
    with gpt2c.load() as model, model.trace() as trace, model.session() as session:
        session.feed_all(list(range(300)))
    [feed] = trace.feeds
    assert [op.rows for op in feed.operations if op.name == "qkv" and op.layer == 0] == [256, 44]


def test_another_backend_has_feeds_and_no_operations(model_folder: Folder) -> None:
    folder = model_folder("tiny")
    ours, theirs = traced(folder, [1, 2]), traced(folder, [1, 2], backend="numpy")
    assert [(f.n_past, f.n_ids) for f in theirs.feeds] == [(f.n_past, f.n_ids) for f in ours.feeds]
    assert [[i for i, _ in f.best] for f in theirs.feeds] == [[i for i, _ in f.best] for f in ours.feeds]
    assert all(feed.operations == [] for feed in theirs.feeds)


# ---- Looking changes nothing ----


@pytest.mark.parametrize("opts", ["all", "none"])
def test_ids_and_logits_are_the_same_to_the_bit(opts: str, binding: str, model_folder: Folder) -> None:
    folder, ids = model_folder("odd"), PROMPTS["odd"][2]
    with gpt2c.load(folder, opts=opts, binding=binding) as model:
        plain, logits = model.generate(ids, 20).ids, model.logits(ids)
        with model.trace():
            assert model.generate(ids, 20).ids == plain
            np.testing.assert_array_equal(model.logits(ids), logits)
        with model.session() as session:
            session.feed(ids)
            assert session._open().traced() == 0


def test_one_trace_at_a_time() -> None:
    with gpt2c.load() as model:
        with model.trace(), pytest.raises(gpt2c.OptionError, match="already"), model.trace():
            pass
        with model.trace() as trace:
            model.generate("The sea", 1)
        assert len(trace.feeds) == 1


def test_a_trace_may_end_while_another_thread_makes_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpt2c.load() as model:
        binding, tracing = model._handle.runtime, model.trace()
        trace = tracing.__enter__()

        class EndsTheTrace:
            @staticmethod
            def Session(native: object) -> object:
                tracing.__exit__(None, None, None)
                return binding.Session(native)

        monkeypatch.setattr(model._handle, "runtime", EndsTheTrace)
        with model.session() as session:
            session.feed([1])
        assert (len(trace.sessions), len(trace.feeds)) == (1, 0)


@pytest.mark.parametrize("n_best", [-1, 1.5, None])
def test_an_invalid_number_of_best_tokens_is_refused(n_best: object) -> None:
    with gpt2c.load() as model:
        with pytest.raises(gpt2c.OptionError, match="n_best must be an integer >= 0"), model.trace(n_best):
            pass
        with model.trace():
            pass


def test_a_session_is_recorded_as_long_as_the_trace_lasts(binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        model.cache_prompts(1)
        before = model.generate([1, 2, 3], 3)
        with model.trace() as trace:
            after = model.generate([*before.prompt_ids, *before.ids], 2)
        assert after.timings.reused_tokens > 0
        assert [(feed.n_past, feed.n_ids) for feed in trace.feeds] == [(5, 1), (6, 1)]
        model.generate([*after.prompt_ids, *after.ids], 2)
        assert len(trace.feeds) == 2


# ---- The C call ----


def test_events_beyond_the_room_are_counted_and_not_written(binding: str) -> None:
    with gpt2c.load(binding=binding) as model, model.session() as session:
        native = session._open()
        events = np.full(10, -7, np.int64).repeat(7).view(_EVENT)
        native.trace(events[:4].view(np.uint8))
        session.feed([1])
        assert native.traced() == 3 + model.config.n_layer * len(FUSED)
        assert (events["op"][:4] >= 0).all() and (events.view(np.int64)[28:] == -7).all()
        native.trace(None)
        assert native.traced() == 0
        session.feed([2])
        assert native.traced() == 0


def test_a_batch_is_in_the_events_of_its_first_session(binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        sessions = [model._handle.runtime.Session(model._handle.loaded) for _ in range(3)]
        events = np.zeros(200, _EVENT)
        sessions[0].trace(events.view(np.uint8))
        model._handle.runtime.batch_feed(
            sessions, np.arange(6, dtype=np.int32), np.array([1, 2, 3], np.uintp)
        )
        n = sessions[0].traced()
        assert n == 2 + model.config.n_layer * len(FUSED), "no logits were asked for"
        assert (events["rows"][:n] == 6).all()
        assert sessions[1].traced() == 0


def test_wrong_arguments_are_refused() -> None:
    ffi, lib = cffi_binding.ffi, cffi_binding.lib
    with gpt2c.load(binding="cffi") as model, model.session() as session:
        handle, event = session._open().handle, ffi.new("gpt2c_trace_event *")
        for arguments in ((ffi.NULL, event, 1), (handle, event, 0), (handle, ffi.NULL, 1)):
            assert lib.gpt2c_session_trace(*arguments) == lib.GPT2C_STATUS_INVALID_ARGUMENT
        assert lib.gpt2c_session_traced(handle, ffi.NULL) == lib.GPT2C_STATUS_INVALID_ARGUMENT
        assert lib.gpt2c_session_traced(ffi.NULL, ffi.new("size_t *")) == lib.GPT2C_STATUS_INVALID_ARGUMENT
    n = lib.GPT2C_TRACED_OP_COUNT
    assert lib.gpt2c_traced_op_name(n) == lib.gpt2c_traced_op_name(-1) == ffi.NULL


# ---- The command ----


def test_the_report_has_a_line_for_each_operation_and_token(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--json", "--prompt", "The sea", "--max-new-tokens", "4"]
    reports = {}
    for level in ("0", "1", "2"):
        assert run.main([*argv, "--trace", level]) == 0
        out, err = capsys.readouterr()
        found = json.loads(out)
        lines = [line.removeprefix("trace: ") for line in err.splitlines() if line.startswith("trace: ")]
        reports[level] = [line.split() for line in lines]
    assert reports["0"] == []
    names = [words[0] for words in reports["1"]]
    assert names[:2] == ["first", "operation"]
    for name in ("embed", *FUSED, "ln_f", "head", "outside", "all"):
        assert names.count(name) == 1
    assert names[-4:] == ["1", "2", "3", "4"]
    with gpt2c.load() as model:
        for words, token in zip(reports["1"][-4:], found["ids"], strict=True):
            assert model.tokenizer.decode([token]).strip() in " ".join(words[2:])
    assert "shape" in reports["2"][1] and "GB/s" in reports["2"][1]


def test_a_pass_that_checks_guesses_is_reported_as_one_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace.json"
    argv = ["--prompt", "the cat sat. the cat sat. the cat", "--max-new-tokens", "20", "--temperature", "0"]
    guesses = ["--draft", "ngram", "--num-assistant-tokens", "3", "--trace", "1", "--trace-file", str(file)]
    assert run.main([*argv, *guesses]) == 0
    err = capsys.readouterr().err
    guessed = re.search(r"of (\d+) guesses right, (\d+) passes for 20 tokens", err)
    n_guessed, n_passes = int(guessed[1]), int(guessed[2])
    told = err.partition("trace: pass by pass: ")[2].splitlines()[1:]
    assert [int(line.split()[1]) for line in told] == list(range(1, n_passes + 1))
    n_ran = [int(line.split()[3]) for line in told]
    assert sum(n_ran[1:]) == n_passes - 1 + n_guessed > n_passes - 1
    spans = [event for event in json.loads(file.read_text())["traceEvents"] if "n_ids" in event["args"]]
    assert [span["args"]["n_ids"] for span in spans] == n_ran
    assert not any("chosen" in span["args"] for span in spans)
    assert spans[1]["name"] == f"pass 1, tokens: {n_ran[1]}"


def test_the_file_is_what_trace_viewers_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.json"
    assert run.main(["--trace-file", str(file), "--prompt", "The sea", "--max-new-tokens", "3"]) == 0
    assert "trace: " not in capsys.readouterr().err
    found = json.loads(file.read_text())
    spans = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert {"name", "ph", "pid", "tid", "ts", "dur", "args"} == set(spans[0])
    assert min(span["ts"] for span in spans) == 0 and all(span["dur"] >= 0 for span in spans)
    feeds = [span for span in spans if span["name"].startswith(("prompt", "token"))]
    assert [span["name"] for span in feeds] == ["prompt of 2", "token 1", "token 2"]
    heads = [span for span in spans if span["name"] == "head"]
    for feed, head in zip(feeds, heads, strict=True):
        assert feed["ts"] <= head["ts"] <= head["ts"] + head["dur"] <= feed["ts"] + feed["dur"] + 0.001
        assert len(feed["args"]["best"]) == 5 and "chosen" in feed["args"]
    assert list(tmp_path.iterdir()) == [file], "nothing else is left"


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--trace", "3"], 2),
        (["--trace", "much"], 2),
        (["--trace-file", "no/such/folder/t.json"], 1),
        (["--trace-file", "."], 1),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    argv: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert run.main(argv) == status
    except SystemExit as end:
        assert end.code == status
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
