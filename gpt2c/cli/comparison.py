"""`--compare`: run one prompt on every backend and preset, each in its own process; print a sorted table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from .. import backends
from ..backends import Choices
from ..checkpoints.checkpoint import load_checkpoint
from ..checkpoints.hub import resolve_model
from ..errors import ContextLengthError, Gpt2cError, OptionError, TokenError
from ..text.tokenizer import Tokenizer
from .comparison_worker import Request, Result, logits_of
from .terminal import columns

TIE = 1e-3
"""If the two best logits are closer than this, either may win, because backends sum in different orders."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Row:
    """The row of a backend. Its fields after `reason` are None unless the status is "ok".

    reason: why the backend is missing or failed, or where its text first differs from the reference's, and
    how close the choice was there. load_s: time until the model is ready, the backend's own imports included.
    peak_mb: the peak memory of its process, in MB (10^6 bytes). same_text: whether the text is that of the
    reference, the first backend that ran.
    """

    backend: str
    status: Status
    reason: str = ""
    text: str | None = None
    tokens_per_s: float | None = None
    ms_per_token: float | None = None
    ttft_ms: float | None = None
    load_s: float | None = None
    peak_mb: float | None = None
    same_text: bool | None = None


@dataclass(frozen=True)
class Comparison:
    """The results of all backends.

    rows: the fastest first, those that did not run last. reference: the backend with whose text and logits
    the others are compared. logit_differences: {backend: the largest absolute difference of the logits after
    the prompt}.
    """

    prompt: str
    reference: str
    rows: list[Row]
    logit_differences: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--compare --json` prints."""
        return {"prompt": self.prompt, "rows": [asdict(row) for row in self.rows]}


class Progress(Protocol):
    """Is called before and after each backend runs."""

    def begin(self, backend: str) -> None: ...
    def end(self, row: Row) -> None: ...


def compare(
    model: str | None,
    prompt: str,
    max_new_tokens: int,
    choices: Choices,
    progress: Progress,
    names: Sequence[str] | None = None,
) -> Comparison:
    """Generate greedy text with every backend, one after another, and compare.

    choices: opts, weights, isa and binding apply to the row `native`, threads to all. names: the backends to
    run; None means all. For a model without a vocabulary, the bytes of the prompt are used as token ids.

    Raises the errors of a bad model, prompt or choice. An error of one backend is reported in its row; if no
    backend runs, Gpt2cError is raised.
    """
    backends.loader("native", choices)  # raises if the choices are invalid
    path = resolve_model(model)
    ids = _prompt_ids(path, prompt, max_new_tokens)
    results: dict[str, Result] = {}
    rows: dict[str, Row] = {}
    for backend in backends.names() if names is None else names:
        progress.begin(backend)
        request = Request(str(path), backend, _choices_of(backend, choices), ids, max_new_tokens)
        rows[backend], result = _row(request, choices.threads)
        if result is not None:
            results[backend] = result
        progress.end(rows[backend])
    if not results:
        raise Gpt2cError(
            "no backend ran: " + "; ".join(f"{row.backend}: {row.reason}" for row in rows.values())
        )
    reference = next(iter(results))
    native = Request(str(path), reference, _choices_of(reference, choices), ids, 0)
    judged = {
        name: _judged(row, results, native, choices.threads) if name in results else row
        for name, row in rows.items()
    }
    expected = logits_of(results[reference])
    differences = {name: float(np.abs(logits_of(r) - expected).max()) for name, r in results.items()}
    fastest_first = sorted(judged.values(), key=lambda row: (row.status != "ok", -(row.tokens_per_s or 0)))
    return Comparison(prompt, reference, fastest_first, differences)


def _prompt_ids(path: Path, prompt: str, max_new_tokens: int) -> list[int]:
    if max_new_tokens < 1:
        raise OptionError(f"max_new_tokens must be at least 1 to compare, not {max_new_tokens}")
    with load_checkpoint(path) as checkpoint:
        config = checkpoint.config
        try:
            ids = Tokenizer(checkpoint.read_vocabulary(), config).encode(prompt)
        except FileNotFoundError:
            ids = [byte % config.n_vocab for byte in prompt.encode()]
    if not ids:
        raise TokenError("the prompt is empty: at least one token is needed")
    if len(ids) > config.n_ctx:
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens, the model's context holds {config.n_ctx}"
        )
    return ids


def _choices_of(backend: str, choices: Choices) -> dict[str, Any]:
    """Return the arguments to load a row's model with.

    c_naive stays on one thread. Libraries get the number of threads from environment variables.
    """
    if backend == "native":
        return {**asdict(choices), "opts": _as_list(choices.opts)}
    return {"threads": choices.threads} if "threads" in backends.PRESETS.get(backend, ()) else {}


def _as_list(opts: Any) -> Any:
    return opts if isinstance(opts, str) else list(opts)


# ---- One backend ----


def _row(request: Request, threads: int | None) -> tuple[Row, Result | None]:
    status, answer = _ask(request, threads)
    if status != "ok":
        return Row(request.backend, status, answer), None
    result = Result(**answer)
    per_token = result.ms_per_token
    return (
        Row(
            request.backend,
            status,
            text=result.text,
            tokens_per_s=round(1e3 / per_token, 2) if per_token else 0.0,
            ms_per_token=round(per_token, 4),
            ttft_ms=round(result.ttft_ms, 3),
            load_s=round(result.load_s, 4),
            peak_mb=round(result.peak_mb, 1),
        ),
        result,
    )


def _ask(request: Request, threads: int | None) -> tuple[Status, Any]:
    """Run a request in a worker process; return its answer, or ("failed", how it ended)."""
    environment = dict(os.environ)
    if threads is not None:
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    # The worker imports gpt2c from the same place as this process.
    start = f"import sys; sys.path[:] = {sys.path!r}; from gpt2c.cli.comparison_worker import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start],
        input=json.dumps(asdict(request)),
        env=environment,
        capture_output=True,
        text=True,
    )
    try:
        [(status, answer)] = json.loads(done.stdout).items()
    except ValueError:
        return "failed", _how_it_ended(done)
    return status, answer


def _how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        how = f"killed by {signal.Signals(-done.returncode).name}"
    else:
        how = f"ended with status {done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"{how}: {lines[-1][:200]}" if lines else how


# ---- The same text? ----


def _judged(row: Row, results: dict[str, Result], reference: Request, threads: int | None) -> Row:
    """Return the row with `same_text` and, where the texts differ, how close the choice was there."""
    expected, found = results[reference.backend].ids, results[row.backend].ids
    if found == expected:
        return replace(row, same_text=True)
    n_same = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        min(len(expected), len(found)),
    )
    fed = [*reference.prompt_ids, *expected[:n_same]]
    status, answer = _ask(replace(reference, prompt_ids=fed), threads)
    if status != "ok":
        return replace(row, same_text=False, reason=f"differs at new token {n_same + 1}")
    second, best = np.sort(logits_of(Result(**answer)))[-2:]
    verdict = "a tie" if best - second < TIE else "no tie"
    reason = (
        f"{verdict}: differs at new token {n_same + 1}, where {reference.backend}'s two best logits are "
        f"{best - second:.2g} apart"
    )
    return replace(row, same_text=False, reason=reason)


# ---- Output ----

_COLUMNS = ("backend", "tok/s", "ms/token", "TTFT ms", "load s", "peak MB", "logit diff", "same text")


def as_table(done: Comparison) -> str:
    """Return the rows as a table, with the reasons below."""
    table = columns([_COLUMNS, *(_cells(row, done) for row in done.rows)])
    reasons = (f"{row.backend}: {row.reason}" for row in done.rows if row.reason)
    return "\n".join([*table, *reasons])


def _cells(row: Row, done: Comparison) -> tuple[str, ...]:
    if row.status != "ok":
        return row.backend, row.status
    same = "yes" if row.same_text else "tie" if row.reason.startswith("a tie") else "no"
    return (
        row.backend,
        f"{row.tokens_per_s:.1f}",
        f"{row.ms_per_token:.2f}",
        f"{row.ttft_ms:.1f}",
        f"{row.load_s:.2f}",
        f"{row.peak_mb:.0f}",
        "reference" if row.backend == done.reference else f"{done.logit_differences[row.backend]:.1e}",
        same,
    )


class Silence:
    """Shows no progress."""

    def begin(self, backend: str) -> None:
        pass

    def end(self, row: Row) -> None:
        pass


class Lines:
    """Shows progress as one line on standard error for each backend that has run."""

    def __init__(self, n: int) -> None:
        self._n, self._done = n, 0

    def begin(self, backend: str) -> None:
        pass

    def end(self, row: Row) -> None:
        self._done += 1
        print(f"gpt2c: {self._done} of {self._n}: {_outcome(row)}", file=sys.stderr)


def _outcome(row: Row) -> str:
    what = f"{row.tokens_per_s:.1f} tokens/s" if row.status == "ok" else f"{row.status}: {row.reason}"
    return f"{row.backend}: {what}"


class Bar:
    """Shows progress as a bar that rich draws on a terminal."""

    def __init__(self, n: int, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=n)

    def begin(self, backend: str) -> None:
        self._bar.update(self._task, description=backend)

    def end(self, row: Row) -> None:
        self._bar.console.print(f"gpt2c: {_outcome(row)}", markup=False, highlight=False)
        self._bar.advance(self._task)


@contextmanager
def progress_display(n: int, quiet: bool = False) -> Iterator[Progress]:
    """Show progress while the context is open. n: the number of backends.

    It is a bar if standard error is a terminal and rich is installed (the extra `progress`), else lines.
    """
    if quiet:
        yield Silence()
        return
    try:
        from rich.console import Console
        from rich.progress import Progress as RichProgress
    except ImportError:
        yield Lines(n)
        return
    if not sys.stderr.isatty():
        yield Lines(n)
        return
    with RichProgress(console=Console(stderr=True), transient=True) as bar:
        yield Bar(n, bar)
