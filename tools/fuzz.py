"""Fuzz the loaders, the tokenizer, packed files and the C API, guided by coverage.

    python tools/fuzz.py                        every target, 20 seconds of CPU time each
    python tools/fuzz.py core --seconds 600     one target, for longer
    python tools/fuzz.py --seed 1               try the same inputs each time, in the same order
    python tools/fuzz.py --record               also write the counts to docs/fuzzing.md
    python tools/fuzz.py --list                 print the names of the targets
    python tools/fuzz.py --seed-corpus          rewrite tests/fuzz/corpus

`loader` and `tokenizer` are Python and need Atheris (the extra `fuzz`). `packed` and `core` are C, need clang
with its libFuzzer (Debian: clang), and run under AddressSanitizer and UBSan. All start from the corpus in
tests/fuzz/corpus; the inputs that they add to it go to a temporary folder. An input that fails is saved in
the working directory and printed. To reproduce the failure, run the same target with that file as argument.
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import native_build

FUZZ = native_build.ROOT / "tests" / "fuzz"
PYTHON, C = ("loader", "tokenizer"), ("packed", "core")
SANITIZE = [
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
INCLUDE = [f"-I{folder}" for folder in native_build.INCLUDE_DIRS]
LIBRARIES = ["-lm", "-lpthread"]
RESULT = native_build.ROOT / "docs" / "fuzzing.md"
HEAD = [
    "# Fuzzing, counted",
    "",
    "This page records long fuzzing runs after the last fix. [models.md](models.md#fuzzing) describes the",
    "targets. `python tools/fuzz.py TARGET --seconds N --record` wrote each row on x86-64, on a machine that",
    "did other work too: the time is processor time. The edges are those of the code that the target",
    "reached.",
    "",
    "| target | runs | time | edges | failures |",
    "|---|---|---|---|---|",
]


class Counts(NamedTuple):
    """runs: inputs that were tried; seconds: CPU time; edges: branches that were reached."""

    runs: int
    seconds: int
    edges: int


def compile_core(base: Path) -> list[str]:
    """Compile the C core with clang and sanitizers; returns the objects' paths.

    To save minutes of compile time, the sanitizer's checks are calls instead of inline code, and SIMD
    kernels, which are unrolled, have no checks of alignment and pointer overflow.
    """
    if shutil.which("clang") is None:
        raise SystemExit("clang is not installed (Debian: apt install clang)")
    portable = native_build.portable_isas()
    calls = ["-fsanitize=fuzzer-no-link", "-mllvm", "-asan-instrumentation-with-call-threshold=0"]

    def compile_one(source: str, flags: list[str]) -> str:
        output = str(base / (source.replace("/", "-") + ".o"))
        is_simd = source.startswith("native/kernels/") and source.split("/")[2] not in portable
        omitted = ["-fno-sanitize=alignment,pointer-overflow"] if is_simd else []
        command = ["clang", *flags, *SANITIZE, *omitted, *calls, *INCLUDE, "-c", source, "-o", output]
        subprocess.run(command, check=True, cwd=native_build.ROOT)
        return output

    return native_build.compile_all(compile_one, native_build.groups(platform.machine()))


def build(targets: list[str], base: Path) -> dict[str, list[str]]:
    """Build the targets in C; returns the command that runs each target."""
    commands = {name: [sys.executable, str(FUZZ / f"fuzz_{name}.py")] for name in targets if name in PYTHON}
    in_c = [name for name in targets if name in C]
    core = compile_core(base) if in_c else []
    for name in in_c:
        commands[name] = [str(base / name)]
        parts = [*SANITIZE, "-fsanitize=fuzzer", *INCLUDE, str(FUZZ / f"fuzz_{name}.c"), *core, *LIBRARIES]
        subprocess.run(
            ["clang", "-std=c99", *parts, "-o", *commands[name]], check=True, cwd=native_build.ROOT
        )
    return commands


def cpu_seconds() -> float:
    """CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fuzz(target: str, command: list[str], seconds: int, seed: int, base: Path) -> Counts | None:
    """Run a target for `seconds` of CPU time and print its counts. Returns None if an input failed.

    seed: the seed of the inputs; 0: a different one at each call.
    """
    found = base / f"found-{target}"
    found.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(native_build.ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONHASHSEED": "0",
        "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=512",
    }
    # Limits of time are wall-clock time, in which the process may also wait for a core.
    limits = ["-timeout=300", "-rss_limit_mb=2048", "-print_final_stats=1"]
    runs = edges = 0
    begin = cpu_seconds()
    while (remaining := seconds - (cpu_seconds() - begin)) > 0:
        run = subprocess.run(
            [
                *command,
                *limits,
                f"-max_total_time={max(5, round(remaining))}",
                f"-seed={seed}",
                str(found),
                str(FUZZ / "corpus" / target),
            ],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
        output = run.stdout + run.stderr
        executed = re.findall(r"stat::number_of_executed_units: +(\d+)", output)
        covered = re.findall(r"cov: (\d+)", output)
        if run.returncode != 0 or not executed or not covered:
            print(failure_report(output), file=sys.stderr)
            print(f"{target:<10} FAILED with exit {run.returncode}", flush=True)
            return None
        seed += seed > 0
        runs += int(executed[-1])
        edges = max(edges, int(covered[-1]))
    counts = Counts(runs, round(cpu_seconds() - begin), edges)
    print(
        f"{target:<10} {counts.runs:>10,} runs in {counts.seconds} s of CPU time, "
        f"{counts.edges:,} edges, no failure",
        flush=True,
    )
    return counts


def failure_report(output: str) -> str:
    """A fuzzer's output without its progress: the traceback or the sanitizer's report, and the input."""
    lines = [line for line in output.splitlines() if not re.match(r"#\d+\s", line)]
    saved = re.search(r"Test unit written to (\S+)", output)
    if saved and Path(saved[1]).exists():
        lines.append("the input in base64: " + base64.b64encode(Path(saved[1]).read_bytes()).decode())
    return "\n".join(lines)[-16000:]


def record(target: str, counts: Counts) -> None:
    """Write a target's row of the table in docs/fuzzing.md; the rows of other targets stay."""
    rows = {}
    if RESULT.exists():
        lines = RESULT.read_text().splitlines()
        rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    rows[target] = f"| `{target}` | {counts.runs:,} | {counts.seconds:,} s | {counts.edges:,} | none |"
    RESULT.write_text("\n".join([*HEAD, *(rows[name] for name in PYTHON + C if name in rows)]) + "\n")


def write_corpus() -> None:
    """Write the inputs that fuzzing starts from: small valid files of every kind, and programs for `core`."""
    sys.path[:0] = [str(native_build.ROOT), str(native_build.ROOT / "tests")]
    import json

    from other_formats import write_gguf, write_llmc
    from random_model import write_random_model

    import gpt2c
    from gpt2c.checkpoints.checkpoint import load_checkpoint
    from gpt2c.quantization.write import write_quantized
    from gpt2c.text import bpe

    corpus = FUZZ / "corpus"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_random_model(base / "m", "L1-H2-E4-V5-C3", seed=1)
        fields = json.loads((base / "m" / "config.json").read_text())
        weights = (base / "m" / "model.safetensors").read_bytes()
        write_llmc(base / "x.bin", base / "m", padded=2)
        write_gguf(base / "x.gguf", base / "m")
        write_gguf(base / "q.gguf", base / "m", "BF16")
        n = int.from_bytes(weights[:8], "little")
        names = [name for name in json.loads(weights[8 : 8 + n]) if name != "__metadata__"]
        index = {"weight_map": dict.fromkeys(names, "a.safetensors")}
        loader = {
            "safetensors": (0, weights),
            "config": (1, json.dumps(fields).encode()),
            "gguf": (2, (base / "x.gguf").read_bytes()),
            "gguf_bf16": (2, (base / "q.gguf").read_bytes()),
            "llmc": (3, (base / "x.bin").read_bytes()),
            "index": (4, json.dumps(index).encode()),
        }
        for kind, format in ((5, "q8"), (6, "q4")):
            with load_checkpoint(base / "m") as checkpoint:
                write_quantized(checkpoint, base / format, format)
            loader[format] = (kind, (base / format / "model.safetensors").read_bytes())
        for name, (kind, data) in loader.items():
            (corpus / "loader" / name).write_bytes(bytes([kind]) + data)
        for opts in ("none", "aligned", "aligned,unembed,head_screen", "aligned,bf16", "q8", "q4"):
            with gpt2c.load(base / "m", opts=opts) as model:
                model.save_packed(corpus / "packed" / opts.replace(",", "-"), b"k")
    ids = {char: id for id, char in enumerate([*bpe.CHAR_TO_BYTE, "th", "the"])}
    files = [json.dumps(ids, ensure_ascii=False).encode(), b"#version: 0.2\nt h\nth e\n", b""]
    (corpus / "tokenizer" / "files").write_bytes(b"\0" + b"\0".join(files))
    whole = {
        "model": {"type": "BPE", "vocab": ids, "merges": ["t h", ["th", "e"]]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "added_tokens": [{"id": len(ids), "content": "<|endoftext|>"}],
    }
    text = json.dumps(whole, ensure_ascii=False).encode()
    (corpus / "tokenizer" / "tokenizer_json").write_bytes(b"\0\0\0" + text)
    (corpus / "tokenizer" / "merges").write_bytes(b"\1" + bytes(range(60, 130)) + "the sea  \n ü 12".encode())
    write_programs(corpus / "core")


def write_programs(folder: Path) -> None:
    """Write the inputs of `core`: sequences of calls, encoded as fuzz_core.c reads them."""

    def config(switches: int, aligned: int, format: int) -> bytes:
        return bytes([1, 1, 7, 15, 30, 50, 0, 0, switches, 0, 0, aligned, format, 1]) + bytes(8)

    def feed(session: int) -> bytes:
        return bytes([12, session, 5, 1, 2, 3, 4, 5, 31])

    def ready(switches: int, aligned: int, format: int = 0, between: bytes = b"") -> bytes:
        """Create a model, set all tensors, do `between`, freeze, open two sessions and feed the first one."""
        create = bytes([0]) + config(switches, aligned, format) + bytes([2]) + bytes(34)
        return create + between + bytes([3, 4, 0, 4, 1]) + feed(0)

    rewind, batch = bytes([8, 0, 2]), bytes([5, 4, 1, 2, 3, 4, 2, 0, 2, 1, 2, 3])
    operations = bytes([6, 3, 20, 40, 0, 1, 2, 3, 4, 5, 0, 2, 1, 1])
    move_state, copy, watch = bytes([13, 1, 0, 1, 0, 0, 0]), bytes([13, 0, 1, 0, 3]), bytes([15, 0, 20, 4])
    packed, stored = bytes([14, 1, 63, 0, 1]), bytes([14, 0, 0, 0, 0, 5, 0])
    programs = {
        "all": ready(63, 1) + feed(0) + rewind + operations,
        "none": ready(0, 0) + feed(0) + rewind + operations,
        "batch": ready(63, 1) + batch + operations,
        "state": ready(63, 1) + move_state + feed(1) + copy + feed(1) + watch + feed(0),
        "packed": ready(63, 1) + packed + bytes([4, 2]) + feed(2),
        "q8": ready(63, 1, 2, stored) + feed(1),
        "q4": ready(63, 1, 3, stored) + feed(1),
    }
    for name, program in programs.items():
        (folder / name).write_bytes(program)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {', '.join(PYTHON + C)}")
    parser.add_argument(
        "--seconds", type=int, default=20, help="CPU time per target, in seconds (default: 20)"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the inputs (default: a different one each time)"
    )
    parser.add_argument("--record", action="store_true", help="write the counts to docs/fuzzing.md")
    parser.add_argument("--seed-corpus", action="store_true", help="rewrite tests/fuzz/corpus")
    args = parser.parse_args()
    if args.list:
        print("\n".join(PYTHON + C))
        return 0
    if args.seed_corpus:
        write_corpus()
        return 0
    unknown = [name for name in args.targets if name not in PYTHON + C]
    if unknown:
        parser.error(f"unknown target {unknown[0]!r} (choose from {', '.join(PYTHON + C)})")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for target, command in build(args.targets or [*PYTHON, *C], Path(folder)).items():
            counts = fuzz(target, command, args.seconds, args.seed, Path(folder))
            good &= counts is not None
            if counts is not None and args.record:
                record(target, counts)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
