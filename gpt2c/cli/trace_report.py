"""Print a trace as tables, or write it for trace viewers (chrome://tracing, Perfetto)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..generation.continuation import Completion
from ..trace import Feed, Operation, Trace
from .terminal import columns

TokenText = Callable[[int], str]
Span = tuple[str, int, int, dict[str, Any]]  # name, begin and end in ns, details


def lines(trace: Trace, completion: Completion, text_of: TokenText, level: int) -> Iterator[str]:
    """Yield the lines of the report.

    Level 1: how the time to the first token is divided, the time of each operation, and the most probable
    tokens at each step (at each pass if a draft guesses, because a pass then computes several tokens).
    Level 2 adds shapes and bytes of the operations.
    """
    if not trace.feeds:
        return
    yield _first_token(trace, completion)
    yield from _operations(trace, level)
    if completion.timings.drafted:
        yield "pass by pass: ms, number of tokens, and the most probable tokens after the last of them"
        for n, feed in enumerate(trace.feeds, 1):
            yield f"{n:5} {feed.ms:9.3f}  {feed.n_ids:12} <- {_best(feed, text_of)}"
        return
    yield "token by token: ms, the token, and the most probable tokens at that step"
    for n, (feed, chosen) in enumerate(zip(trace.feeds, completion.ids, strict=False), 1):
        yield f"{n:5} {feed.ms:9.3f}  {text_of(chosen)!r:12} <- {_best(feed, text_of)}"


def _best(feed: Feed, text_of: TokenText) -> str:
    return "  ".join(f"{text_of(i)!r} {p:.3f}" for i, p in feed.best)


def _first_token(trace: Trace, completion: Completion) -> str:
    prompt, ttft = trace.feeds[0], completion.timings.ttft_ms
    session = sum(end - begin for begin, end in trace.sessions[:1]) / 1e6
    remaining = ttft - session - prompt.ms
    return (
        f"first token after {ttft:.3f} ms: {session:.3f} to make a session, {prompt.ms:.3f} for a prompt of "
        f"{prompt.n_ids} tokens, {remaining:.3f} to choose the token and to record the trace"
    )


# ---- Operations ----


def _operations(trace: Trace, level: int) -> Iterator[str]:
    prompt, tokens = trace.feeds[:1], trace.feeds[1:]
    if not prompt[0].operations:
        yield "only the native backend records the time of single operations"
        return
    header = ["operation", "prompt ms", "share", "token ms", "share"]
    if level > 1:
        header += ["rows per token", "shape", "MB", "GB/s"]
    names = list(dict.fromkeys(op.name for feed in trace.feeds for op in feed.operations))
    rows = [header]
    for name in names:
        rows.append([name, *_time(prompt, name), *_time(tokens, name)])
        if level > 1:
            rows[-1] += _size([op for feed in tokens or prompt for op in feed.operations if op.name == name])
    rows.append(["outside operations", *_outside(prompt), *_outside(tokens)])
    rows.append(["all", *_total(prompt), *_total(tokens)])
    yield from columns(rows)


def _mean_ms(feeds: Sequence[Feed], name: str | None = None) -> float:
    """Return the mean time per feed in the operations of that name; None means in all operations."""
    spent = sum(
        op.end_ns - op.begin_ns for feed in feeds for op in feed.operations if name in (None, op.name)
    )
    return spent / 1e6 / len(feeds)


def _time(feeds: Sequence[Feed], name: str) -> list[str]:
    if not feeds:
        return ["", ""]
    ms = _mean_ms(feeds, name)
    return [f"{ms:.3f}", f"{ms / _mean_feed_ms(feeds):.0%}"]


def _outside(feeds: Sequence[Feed]) -> list[str]:
    if not feeds:
        return ["", ""]
    ms = _mean_feed_ms(feeds) - _mean_ms(feeds)
    return [f"{ms:.3f}", f"{ms / _mean_feed_ms(feeds):.0%}"]


def _total(feeds: Sequence[Feed]) -> list[str]:
    return [f"{_mean_feed_ms(feeds):.3f}", "100%"] if feeds else ["", ""]


def _mean_feed_ms(feeds: Sequence[Feed]) -> float:
    return sum(feed.ms for feed in feeds) / len(feeds)


def _size(operations: Sequence[Operation]) -> list[str]:
    """Return the cells for operations of one name: rows and shape of the last one, MB per feed, GB/s."""
    last = operations[-1]
    n_bytes = sum(op.n_bytes for op in operations)
    ns = sum(op.end_ns - op.begin_ns for op in operations)
    n_feeds = sum(1 for op in operations if op.layer == last.layer)
    return [
        str(last.rows),
        f"{last.n_in} -> {last.n_out}",
        f"{n_bytes / n_feeds / 1e6:.3f}",
        f"{n_bytes / ns:.1f}" if ns else "",
    ]


# ---- For a trace viewer ----


def chrome_trace(trace: Trace, completion: Completion, text_of: TokenText) -> str:
    """Return JSON in the Trace Event Format: complete events ("X"), times in microseconds from the start."""
    spans: list[Span] = [("session", begin, end, {}) for begin, end in trace.sessions]
    is_token_by_token = not completion.timings.drafted
    for n, feed in enumerate(trace.feeds):
        later = f"token {n}" if is_token_by_token else f"pass {n}, tokens: {feed.n_ids}"
        name = f"prompt of {feed.n_ids}" if n == 0 else later
        best = {f"{text_of(i)!r} ({i})": round(p, 6) for i, p in feed.best}
        details: dict[str, Any] = {"n_past": feed.n_past, "n_ids": feed.n_ids, "best": best}
        if is_token_by_token and n < len(completion.ids):
            details["chosen"] = text_of(completion.ids[n])
        spans.append((name, feed.begin_ns, feed.end_ns, details))
        spans += [_operation_span(op) for op in feed.operations]
    spans += _between(trace.feeds)
    origin = min((begin for _, begin, _, _ in spans), default=0)
    named = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "gpt2c"}}
    events: list[dict[str, Any]] = [named]
    for name, begin, end, details in sorted(spans, key=lambda span: (span[1], -span[2])):
        times = {"ts": (begin - origin) / 1e3, "dur": (end - begin) / 1e3}
        events.append({"name": name, "ph": "X", "pid": 1, "tid": 1, **times, "args": details})
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}) + "\n"


def _operation_span(op: Operation) -> Span:
    details: dict[str, Any] = {"rows": op.rows, "shape": f"{op.n_in} -> {op.n_out}", "bytes": op.n_bytes}
    if op.layer >= 0:
        details["layer"] = op.layer
    return op.name, op.begin_ns, op.end_ns, details


def _between(feeds: Iterable[Feed]) -> list[Span]:
    """Return the spans between feeds, in which a token is chosen and becomes text."""
    return [("choose, decode", before.end_ns, after.begin_ns, {}) for before, after in pairwise(feeds)]
