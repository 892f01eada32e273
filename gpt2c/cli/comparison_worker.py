"""Measures one backend in its own process: reads a request as JSON, writes a result as JSON.

comparison.py starts it. In its own process, peak memory and load time are those of this backend alone, its
libraries share no threads with those of another, and a crash ends only this measurement.
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
    """A prompt to run on one backend.

    choices: keyword arguments of `gpt2c.load` in addition to model and backend. max_new_tokens: 0 computes
    only the logits after the prompt.
    """

    model: str
    backend: str
    choices: dict[str, Any]
    prompt_ids: list[int]
    max_new_tokens: int


@dataclass(frozen=True)
class Result:
    """What a request gave.

    load_s: load time, the backend's own imports included. peak_mb: peak memory of the process in MB (10^6
    bytes), mapped files included. logits: those after the prompt, float32 in base64.
    """

    load_s: float
    text: str
    ids: list[int]
    ttft_ms: float
    ms_per_token: float
    peak_mb: float
    logits: str


def measure(request: Request) -> Result:
    """Generate greedily and measure, after a short run that is not counted.

    The first calls start threads, allocate buffers and compile code.
    """
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
    """Return the logits of a result: float32 [n_vocab]."""
    return np.frombuffer(base64.b64decode(result.logits), np.float32)


def peak_memory() -> int:
    """Return the peak memory of this process, in bytes.

    On Linux it is VmHWM, because ru_maxrss starts with the memory that the parent process had at the fork.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Read a Request from standard input; write {"ok": Result}, {"missing": reason} or {"failed": reason}.

    The answer goes to standard output, and output of libraries to standard error.
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
    except Exception as error:  # a library may raise anything; it becomes the reason of the row
        answer = {"failed": f"{type(error).__name__}: {error}"}
    with out:
        json.dump(answer, out)
