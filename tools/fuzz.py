"""Fuzz the loaders, the tokenizer, packed files and the C API, guided by coverage.

    python tools/fuzz.py                        every target, 20 seconds each
    python tools/fuzz.py core --seconds 600     one of them for longer
    python tools/fuzz.py --list

`loader` and `tokenizer` are Python and need Atheris (the extra `fuzz`); `packed` and `core` are C and
need clang with its libFuzzer (Debian: clang), and run under AddressSanitizer and UBSan. They start from the
corpus in tests/fuzz/corpus; what they find on the way goes to a folder that is forgotten. An input that
fails is kept in the working directory, and its reproduction is that target with the file as argument.

`--seed-corpus` writes the corpus anew.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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


def build(target: str, base: Path) -> Path:
    """The core and one fuzz target by clang."""
    if shutil.which("clang") is None:
        raise SystemExit("clang is not installed (Debian: apt install clang)")
    include = [f"-I{folder}" for folder in native_build.INCLUDE_DIRS]
    objects = []
    for sources, flags in native_build.groups(platform.machine()):
        for source in sources:
            made = base / (source.replace("/", "-") + ".o")
            # Over the unrolled loops of SIMD kernels, more than one sanitizer takes clang minutes a file.
            is_simd = source.count("/") == 3 and source.split("/")[2] not in ("ref", "unroll")
            extra = ["-O1", "-fsanitize=address"] if is_simd else [*SANITIZE, "-fsanitize=fuzzer-no-link"]
            command = ["clang", *flags, *extra, *include, "-c", source]
            subprocess.run([*command, "-o", str(made)], check=True, cwd=native_build.ROOT)
            objects.append(str(made))
    program = base / target
    source = str(FUZZ / f"fuzz_{target}.c")
    parts = [*SANITIZE, "-fsanitize=fuzzer", *include, source, *objects, "-lm", "-lpthread"]
    subprocess.run(["clang", "-std=c99", *parts, "-o", str(program)], check=True, cwd=native_build.ROOT)
    return program


def fuzz(target: str, seconds: int, base: Path) -> bool:
    """Run one target; prints a line with its counts. False: it found something."""
    script = [sys.executable, str(FUZZ / f"fuzz_{target}.py")]
    command = [str(build(target, base))] if target in C else script
    found = base / f"found-{target}"
    found.mkdir()
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(native_build.ROOT), os.environ.get("PYTHONPATH", "")]),
        "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=512",
    }
    run = subprocess.run(
        [*command, *limits, str(found), str(FUZZ / "corpus" / target)],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    said = run.stdout + run.stderr
    runs = re.findall(r"stat::number_of_executed_units: +(\d+)", said)
    covered = re.findall(r"cov: (\d+)", said)
    if run.returncode != 0 or not runs:
        print(said[-4000:], file=sys.stderr)
        print(f"{target:<10} FAILED with exit {run.returncode}", flush=True)
        return False
    print(
        f"{target:<10} {int(runs[-1]):>10,} runs in {seconds} s, {covered[-1]} edges, no failure", flush=True
    )
    return True


def write_corpus() -> None:
    """Small good files of every kind, and programs for `core`: what fuzzing starts from."""
    sys.path[:0] = [str(native_build.ROOT), str(native_build.ROOT / "tests")]
    import json

    from other_formats import write_gguf, write_llmc
    from random_model import write_random_model

    import gpt2c

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
        for name, (kind, data) in loader.items():
            (corpus / "loader" / name).write_bytes(bytes([kind]) + data)
        for opts in ("none", "aligned", "aligned,unembed,head_screen", "aligned,bf16"):
            with gpt2c.load(base / "m", opts=opts) as model:
                model.save_packed(corpus / "packed" / opts.replace(",", "-"), b"k")
    from gpt2c import bpe

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
    # create, set_all, freeze, open a session, feed five ids, all outputs; then the same with switches off
    for name, switches, aligned in (("all", 63, 1), ("none", 0, 0), ("batch", 63, 1)):
        config = bytes([1, 1, 7, 15, 30, 50, 0, 0, switches, 0, 0, aligned, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
        feed = bytes([12, 0, 5, 1, 2, 3, 4, 5, 15])
        calls = bytes([0]) + config + bytes([2]) + bytes(34) + bytes([3, 4, 0, 4, 1]) + feed
        calls += bytes([5, 4, 1, 2, 3, 4, 2, 0, 2, 1, 2, 3]) if name == "batch" else feed + bytes([8, 0, 2])
        (corpus / "core" / name).write_bytes(calls + bytes([6, 3, 20, 40, 0, 1, 2, 3, 4, 5, 0, 2, 1, 1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {', '.join(PYTHON + C)}")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (default: 20)")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    parser.add_argument("--seed-corpus", action="store_true", help="write tests/fuzz/corpus anew")
    args = parser.parse_args()
    if args.list:
        print("\n".join(PYTHON + C))
        return 0
    if args.seed_corpus:
        write_corpus()
        return 0
    unknown = [name for name in args.targets if name not in PYTHON + C]
    if unknown:
        parser.error(f"unknown target {unknown[0]!r} (there are: {', '.join(PYTHON + C)})")
    with tempfile.TemporaryDirectory() as folder:
        good = [fuzz(target, args.seconds, Path(folder)) for target in args.targets or PYTHON + C]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
