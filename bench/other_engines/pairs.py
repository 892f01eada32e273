"""The pairs of engines that are compared, and their measurements by bench/peers/bench.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from shared import harness
from shared.checkout import ROOT

BENCH = ROOT / "bench" / "peers" / "bench.py"


@dataclass(frozen=True)
class Pair:
    """Two engines, written `engine:precision` as for bench.py, and the figures in which they are compared.

    theirs: the fastest other engine that was found for these figures at that precision.
    """

    ours: str
    theirs: str
    whats: tuple[str, ...]
    threads: int = 2


PAIRS = (
    Pair("f32", "ctranslate2:f32", ("decode",)),
    Pair("f32", "torch-compile:f32", ("decode",), 1),
    Pair("f32", "openvino:f32", ("decode900",)),
    Pair("f32", "onnxruntime:f32", ("prefill", "batch32")),
    Pair("bf16", "llamacpp:f16", ("decode", "decode900")),
    Pair("bf16", "openvino:bf16", ("prefill", "batch32")),
    Pair("q8", "llamacpp:q8_0", ("decode",)),
    Pair("q8-kv16", "onnxruntime:int8dyn", ("decode900",)),
    Pair("q8", "onnxruntime:int8dyn", ("prefill", "batch32")),
    Pair("q4-kv16", "llamacpp:q4_0", ("decode", "decode900")),
    Pair("q4", "openvino:int4", ("prefill", "batch32")),
)
MEMORY = (("f32", "llamacpp:f32"), ("q8-kv16", "llamacpp:q8_0"), ("q4-kv16", "llamacpp:q4_0"))


def run_bench(*arguments: str) -> dict[str, Any]:
    """The record in the last line that bench.py prints. RuntimeError, with its message, if it prints none."""
    run = subprocess.run(
        [sys.executable, str(BENCH), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0 or not lines:
        message = (run.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"bench.py {' '.join(arguments)} ended with status {run.returncode}: {message}")
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def timed(pairs: Iterable[Pair], rounds: int) -> Iterator[dict[str, Any]]:
    """Measure each figure of each pair; yields a record for each."""
    for pair in pairs:
        names = f"gpt2c:{pair.ours}", pair.theirs
        flags = ["--threads", str(pair.threads), "--rounds", str(rounds), "--what", ",".join(pair.whats)]
        print(" ".join([*names, *flags]), file=sys.stderr)
        found = run_bench("--ratio", *names, *flags)
        pair_fields = {"ours": pair.ours, "theirs": pair.theirs, "threads": pair.threads}
        yield from ({**pair_fields, "what": what, **found[what]} for what in pair.whats)


def loaded(rounds: int) -> Iterator[dict[str, Any]]:
    """Measure memory and loading of each pair, both engines alternately; yields a record for each pair."""
    for ours, theirs in MEMORY:
        print(f"memory of {ours} and {theirs}", file=sys.stderr)
        taken: dict[str, list[dict[str, Any]]] = {f"gpt2c:{ours}": [], theirs: []}
        for _ in range(rounds):
            for name, records in taken.items():
                engine, precision = name.split(":")
                records.append(
                    run_bench("--engine", engine, "--precision", precision, "--threads", "2", "--quick")
                )
        peak, start = (
            [harness.Spread.of(map(figure, records)) for records in taken.values()]
            for figure in (lambda r: r["peak_rss_mb"], lambda r: r["import_s"] + r["load_s"])
        )
        yield {"ours": ours, "theirs": theirs, "peak_mb": peak, "start_s": start}
