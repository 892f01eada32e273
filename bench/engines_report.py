"""gpt2c beside other engines, GPT-2's 124M shape, one pair at a time: writes results/engines.*.

    $PEERS_DIR/venv/bin/python bench/engines_report.py           # 7 minutes on an idle machine
    $PEERS_DIR/venv/bin/python bench/engines_report.py --quick   # a round of the first pair; prints

bench/peers/setup.sh makes that environment, with the other engines and their models; gpt2c must be installed
in it or in PYTHONPATH. Each pair is measured by bench/peers/bench.py: both engines loaded, each in a process
of its own, and asked in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

from gpt2c._machine import usable_cores

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench" / "peers" / "bench.py"
NAMES = {
    "ctranslate2": "CTranslate2",
    "llamacpp": "llama.cpp",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch-compile": "torch.compile",
}
WHAT = {
    "decode": "decode, a token",
    "decode900": "decode at 900 tokens, a token",
    "prefill": "prefill of 512",
    "batch32": "32 sequences, a token of one",
}


@dataclass(frozen=True)
class Pair:
    """Two engines as bench.py names them, `engine:precision`, and what they are compared in.

    theirs: the fastest other engine of that precision that was found, for these figures.
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


def ask(*arguments: str) -> dict[str, Any]:
    """The record that bench.py prints in its last line. RuntimeError with its last words if there is none."""
    run = subprocess.run(
        [sys.executable, str(BENCH), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0 or not lines:
        said = (run.stderr.strip() or "nothing").splitlines()[-1]
        raise RuntimeError(f"bench.py {' '.join(arguments)} ended with {run.returncode}: {said}")
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def timed(pairs: Iterable[Pair], rounds: int) -> Iterator[dict[str, Any]]:
    """A record of each figure of each pair."""
    for pair in pairs:
        names = f"gpt2c:{pair.ours}", pair.theirs
        flags = ["--threads", str(pair.threads), "--rounds", str(rounds), "--what", ",".join(pair.whats)]
        print(" ".join([*names, *flags]), file=sys.stderr)
        found = ask("--ratio", *names, *flags)
        about = {"ours": pair.ours, "theirs": pair.theirs, "threads": pair.threads}
        yield from ({**about, "what": what, **found[what]} for what in pair.whats)


def loaded(rounds: int) -> Iterator[dict[str, Any]]:
    """A record of each pair's memory and loading, each engine several times in turn."""
    for ours, theirs in MEMORY:
        print(f"memory of {ours} and {theirs}", file=sys.stderr)
        taken: dict[str, list[dict[str, Any]]] = {f"gpt2c:{ours}": [], theirs: []}
        for _ in range(rounds):
            for name, records in taken.items():
                engine, precision = name.split(":")
                records.append(ask("--engine", engine, "--precision", precision, "--threads", "2", "--quick"))
        peak, start = (
            [harness.Spread.of(map(figure, records)) for records in taken.values()]
            for figure in (lambda r: r["peak_rss_mb"], lambda r: r["import_s"] + r["load_s"])
        )
        yield {"ours": ours, "theirs": theirs, "peak_mb": peak, "start_s": start}


def name_of(spec: str) -> str:
    engine, precision = spec.split(":")
    return f"{NAMES[engine]} {precision}"


def page(record: dict[str, Any]) -> str:
    """Markdown of a record."""
    times = [
        (
            f"{WHAT[r['what']]}{', one thread' if r['threads'] == 1 else ''}",
            r["ours"],
            name_of(r["theirs"]),
            f"{r['a_ms']:.3g}",
            f"{r['b_ms']:.3g}",
            f"{r['a_over_b']:.2f}",
            "{0:.2f}..{2:.2f}".format(*r["pairs_min_median_max"]),
        )
        for r in record["times"]
    ]
    memory = [
        (
            r["ours"],
            name_of(r["theirs"]),
            *(f"{spread.median:.0f}" for spread in r["peak_mb"]),
            f"{r['peak_mb'][0].median / r['peak_mb'][1].median:.2f}",
            *(f"{spread.median:.2f}" for spread in r["start_s"]),
        )
        for r in record["memory"]
    ]
    remarks = [
        "Below 1 gpt2c takes less. The other is, for each line, the fastest found for that figure in that "
        "precision among transformers, torch.compile, CTranslate2, llama.cpp, ONNX Runtime and OpenVINO.",
        f"Both are asked in turn, {record['rounds']} times: medians, the ratio of the medians, and the least "
        "and the most of the pairs' ratios, which say how far to trust it.",
        "kv16: K and V in half precision.",
        *record["origin"].lines(),
    ]
    times_header = ("", "gpt2c", "the other", "gpt2c, ms", "the other, ms", "ratio", "pairs")
    memory_header = ("gpt2c", "the other", "gpt2c, MiB", "the other, MiB", "ratio", "gpt2c, s", "other, s")
    tables = [harness.markdown_table(times_header, times, left=3)]
    if memory:
        tables.append(harness.markdown_table(memory_header, memory, left=2))
        remarks.insert(
            2,
            "Memory: peak of the process behind a context of 900 tokens; seconds: import and load. "
            f"Medians of {record['memory_rounds']} runs, in turn.",
        )
    return "\n\n".join(["# Beside other engines", *tables, harness.bullets(remarks)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one pair, once; prints")
    args = parser.parse_args()
    if usable_cores() < 2:
        parser.error("these figures are for two threads, and this process may use one core")
    rounds, memory_rounds = (1, 0) if args.quick else (5, 3)
    origin = harness.Origin.here(sys.argv[1:], ROOT, "python bench/engines_report.py")
    try:
        times = list(timed(PAIRS[:1] if args.quick else PAIRS, rounds))
        memory = [] if args.quick else list(loaded(memory_rounds))
    except RuntimeError as error:
        print(f"engines_report: {error}", file=sys.stderr)
        return 1
    record = {"origin": origin, "rounds": rounds, "memory_rounds": memory_rounds}
    record |= {"times": times, "memory": memory}
    if args.quick:
        print(page(record))
    else:
        harness.write_results(ROOT / "bench" / "results", "engines", record, page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
