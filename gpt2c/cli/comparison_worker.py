"""One engine measured in a process of its own: a request as JSON in, a result as JSON out.

comparison.py starts it. Its own process, so that peak memory and load time are that engine's, its
libraries share no threads with another's, and a crash is one row of a table.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

WARM_UP_TOKENS = 2


@dataclass(frozen=True)
class Request:
    """prompt_ids run on an engine.

    choices: keyword arguments of `gpt2c.load` beside model and backend. max_new_tokens: 0 for only the
    logits behind the prompt.
    """

    model: str
    backend: str
    choices: dict[str, Any]
    prompt_ids: list[int]
    max_new_tokens: int


@dataclass(frozen=True)
class Result:
    """load_s: the engine's own imports included; peak_mb: the most memory the process held, in MB (10^6
    bytes), mapped files included; logits: behind the prompt, float32 in base64.
    """

    load_s: float
    text: str
    ids: list[int]
    ttft_ms: float
    ms_per_token: float
    peak_mb: float
    logits: str


def measure(request: Request) -> Result:
    """Greedy, after a short run that is not counted: first calls build threads, buffers and code."""
    began = perf_counter()
    from ..model import load

    with load(request.model, backend=request.backend, **request.choices) as model:
        load_s = perf_counter() - began
        model.generate(request.prompt_ids, min(WARM_UP_TOKENS, request.max_new_tokens))
        completion = model.generate(request.prompt_ids, request.max_new_tokens)
        peak_mb = peak_memory() / 1e6
        with model.session() as session:
            logits = session.feed(request.prompt_ids)
    return Result(
        load_s=load_s,
        text=completion.text,
        ids=completion.ids,
        ttft_ms=completion.timings.ttft_ms,
        ms_per_token=completion.timings.ms_per_token,
        peak_mb=peak_mb,
        logits=base64.b64encode(logits.tobytes()).decode(),
    )


def logits_of(result: Result) -> np.ndarray:
    """The logits [n_vocab] that a result carries."""
    return np.frombuffer(base64.b64decode(result.logits), np.float32)


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once.

    On Linux from VmHWM, because ru_maxrss begins with what the parent held when it started this one.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Standard input holds a Request; standard output gets {"ok": Result}, {"missing": why} or
    {"failed": why}, and nothing that a library prints.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = Request(**json.load(sys.stdin))
    from ..errors import BackendUnavailable

    answer: dict[str, Any]
    try:
        answer = {"ok": asdict(measure(request))}
    except BackendUnavailable as error:
        answer = {"missing": str(error)}
    except Exception as error:  # whatever an engine's library raises is that row's reason
        answer = {"failed": f"{type(error).__name__}: {error}"}
    with out:
        json.dump(answer, out)
