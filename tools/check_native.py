"""Build the C programs that use the core under sanitizers and for other machines, and run them.

    python tools/check_native.py            all checks
    python tools/check_native.py asan       only those named
    python tools/check_native.py --list

Every check runs a small random model (native/examples/generate.c) with all instruction sets that it can, with
one thread and three, with all switches and none, with K and V in floats and in halves, with the prompt whole
and in chunks. All must print the same ids as gpt2c does from Python. Then several threads use sessions of one
model at once, in shared passes too, and must find what one thread finds alone (tests/native/sessions.c). Then
each kernel is held to its error bound and the row contract (tests/native/check_kernels/), for other machines
too, where the tests in tests/kernels/ cannot run; `aarch64_asan` does only that. `objects` instead
disassembles the core: only kernel sets that need CPU features may have instructions above the baseline of
x86-64.

Needs gcc; `baseline` and those for aarch64 need Debian's qemu-user and gcc-aarch64-linux-gnu. A check whose
programs are missing fails: nothing is skipped in silence.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import native_build

import gpt2c

SHAPE = "L3-H5-E40-V131-C96-I72"
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
N_NEW = 24
AARCH64_LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian puts them
SANITIZE = ["-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]


Ids = dict[str, str]
"""What must be printed, by model and how K and V are kept."""


class CheckFailed(Exception):
    """A program is missing, did not build, or printed something else."""


class Programs(NamedTuple):
    generate: Path
    sessions: Path
    check_kernels: Path


def call(command: list[str], **environment: str) -> str:
    """Standard output; CheckFailed when the program is missing or fails, with the end of what it said."""
    if shutil.which(command[0]) is None:
        raise CheckFailed(f"{command[0]} is not installed")
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=native_build.ROOT, env=environment or None
    )
    if run.returncode != 0:
        said = (run.stdout + run.stderr)[-3000:]
        raise CheckFailed(f"{' '.join(command[:4])} ...: exit {run.returncode}\n{said}")
    return run.stdout


def object_path(base: Path, name: str, source: str) -> Path:
    return base / f"{name}-{source.replace('/', '-')}.o"


def build(base: Path, name: str, compiler: str, machine: str, extra: list[str]) -> Programs:
    """Compile the core and the programs."""
    include = [f"-I{folder}" for folder in native_build.INCLUDE_DIRS]

    def compile_one(source: str, flags: list[str]) -> str:
        made = str(object_path(base, name, source))
        call([compiler, *flags, *extra, *include, "-c", source, "-o", made])
        return made

    def link(program: str, sources: list[str]) -> Path:
        target = base / f"{name}-{program}"
        own = native_build.compile_all(compile_one, [(sources, native_build.FLAGS)])
        call([compiler, *extra, *own, *core, "-lm", "-lpthread", "-o", str(target)])
        return target

    core = native_build.compile_all(compile_one, native_build.groups(machine))
    folder = native_build.ROOT / "tests/native/check_kernels"
    sources = sorted(path.relative_to(native_build.ROOT).as_posix() for path in folder.glob("*.c"))
    return Programs(
        generate=link("generate", ["native/examples/generate.c"]),
        sessions=link("sessions", ["tests/native/sessions.c"]),
        check_kernels=link("check_kernels", sources),
    )


def compare(
    programs: Programs, base: Path, expected: Ids, isas: list[str], emulator: Sequence[str] = ()
) -> int:
    """Run every combination, and the kernels; returns how many runs there were."""
    n = 0
    # A model with the head's compact copy needs its switch on.
    plans = [("model", 63, False), ("model", 0, False), ("model", 21, False), ("screen", 63, False)]
    plans += [("model", 63, True), ("model", 21, True), ("q8", 63, False), ("q4", 21, False)]
    for isa, threads, (file, switches, kv_f16), chunk in itertools.product(isas, (1, 3), plans, (0, 7)):
        model = base / f"{file}.packed"
        flags = ["-n", str(N_NEW), "-i", isa, "-t", str(threads), "-s", str(switches)]
        flags += ["-c", str(chunk)] if chunk else []
        flags += ["-k"] if kv_f16 else []
        out = call([*emulator, str(programs.generate), *flags, str(model), *map(str, PROMPT)])
        if out.strip() != expected[_key(file, kv_f16)]:
            how = f"{file}, {isa}, {threads} threads, switches {switches}, chunk {chunk}, kv_f16 {kv_f16}"
            raise CheckFailed(f"{how}: {out!r}")
        n += 1
    return n + check_sessions(programs, base, isas, emulator) + check_kernels(programs, isas, emulator)


def check_sessions(programs: Programs, base: Path, isas: list[str], emulator: Sequence[str]) -> int:
    """Three callers of one model, for every instruction set, with a pool of one thread and of three."""
    n = 0
    for isa, threads, file in itertools.product(isas, (1, 3), ("screen", "q8")):
        flags = ["-i", isa, "-t", str(threads), "-c", "3", str(base / f"{file}.packed")]
        out = call([*emulator, str(programs.sessions), *flags])
        if out.strip() != "33 agreed, 0 wrong":
            raise CheckFailed(f"{file}, {isa}, {threads} threads: {out!r}")
        n += 1
    return n


def check_kernels(
    programs: Programs, isas: list[str], emulator: Sequence[str] = (), **environment: str
) -> int:
    """Hold the kernels of these instruction sets, and no others, to their bounds and the row contract."""
    report = call([*emulator, str(programs.check_kernels)], **environment)
    seen = list(dict.fromkeys(line.split()[0] for line in report.splitlines()))
    if seen != isas:
        raise CheckFailed(f"kernels of {seen} were checked, not of {isas}")
    return 1


def make_model(base: Path) -> Ids:
    """A packed random model in `base`; the ids that it must give."""
    from random_model import write_random_model

    write_random_model(base / "model", SHAPE, seed=5)
    expected = {}
    files = {"model": "aligned", "screen": "aligned,unembed,head_screen", "q8": "q8", "q4": "q4"}
    for name, opts in files.items():
        with gpt2c.load(base / "model", opts=opts) as model:
            model.save_packed(base / f"{name}.packed", b"")
        for kv_f16 in (False, True):
            plan = f"{opts},kv_f16" if kv_f16 else opts
            with gpt2c.load(base / "model", opts=plan, isa="ref", threads=1) as model:
                ids = model.generate(PROMPT, max_new_tokens=N_NEW).ids
                expected[_key(name, kv_f16)] = " ".join(map(str, ids))
    return expected


def _key(file: str, kv_f16: bool) -> str:
    return f"{file}, kv_f16" if kv_f16 else file


def supported() -> list[str]:
    names: list[str] = gpt2c.build_info()["isas_supported"]
    return names


def sanitizer(flags: str) -> Callable[[Path, Ids], int]:
    def check(base: Path, expected: Ids) -> int:
        programs = build(base, "sanitized", "gcc", platform.machine(), [*SANITIZE, f"-fsanitize={flags}"])
        return compare(programs, base, expected, supported())

    return check


def x86_baseline(base: Path, expected: Ids) -> int:
    """An x86-64 CPU without AVX: no instruction set above the portable ones may be chosen, or needed."""
    programs = build(base, "baseline", "gcc", "x86_64", [])
    emulator = ["qemu-x86_64", "-cpu", "Nehalem"]
    n = compare(programs, base, expected, native_build.portable_isas(), emulator)
    command = [*emulator, str(programs.generate), "-n", str(N_NEW), str(base / "model.packed")]
    automatic = call([*command, *map(str, PROMPT)])
    if automatic.strip() != expected["model"]:
        raise CheckFailed(f"chosen by itself: {automatic!r}")
    return n + 1


def aarch64(base: Path, expected: Ids) -> int:
    """NEON, under an emulator."""
    programs = build(base, "aarch64", "aarch64-linux-gnu-gcc", "aarch64", ["-static"])
    isas = [name for name, _ in native_build.isa_rows("aarch64")]
    return compare(programs, base, expected, isas, ["qemu-aarch64", "-cpu", "max"])


def aarch64_asan(base: Path, expected: Ids) -> int:
    """Its kernels with sanitizers; the emulator cannot look for leaks."""
    flags = [*SANITIZE, "-fsanitize=address,undefined,float-cast-overflow"]
    programs = build(base, "aarch64_asan", "aarch64-linux-gnu-gcc", "aarch64", flags)
    isas = [name for name, _ in native_build.isa_rows("aarch64")]
    emulator = ["qemu-aarch64", "-cpu", "max", "-L", AARCH64_LIBRARIES]
    return check_kernels(programs, isas, emulator, ASAN_OPTIONS="detect_leaks=0")


def baseline_sources() -> list[str]:
    """All of the core that every x86-64 CPU may come to run: what is compiled without -m flags."""
    groups = native_build.groups("x86_64")
    return [path for paths, flags in groups if not any(f.startswith("-m") for f in flags) for path in paths]


def above_baseline(path: Path) -> str | None:
    """The first instruction of an object that needs more than SSE2: VEX or EVEX ones, and their registers."""
    listing = call(["objdump", "-d", "--no-show-raw-insn", str(path)])
    found = re.search(r"\n.*(?:%[yz]mm|\tv[a-z]\w* .*%xmm|%k[0-7]\b).*", listing)
    return found[0].strip() if found else None


def objects(base: Path, expected: Ids) -> int:
    """No object outside the kernel sets that need CPU features has instructions above the baseline."""
    build(base, "objects", "gcc", "x86_64", [])
    sources = baseline_sources()
    for source in sources:
        found = above_baseline(object_path(base, "objects", source))
        if found:
            raise CheckFailed(f"{source}: {found}")
    return len(sources)


CHECKS: dict[str, Callable[[Path, Ids], int]] = {
    "asan": sanitizer("address"),
    "ubsan": sanitizer("undefined,float-cast-overflow"),
    "tsan": sanitizer("thread"),
    "objects": objects,
    "baseline": x86_baseline,
    "aarch64": aarch64,
    "aarch64_asan": aarch64_asan,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"default: all of {', '.join(CHECKS)}")
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    args = parser.parse_args()
    if args.list:
        print("\n".join(CHECKS))
        return 0
    unknown = [name for name in args.checks if name not in CHECKS]
    if unknown:
        parser.error(f"unknown check {unknown[0]!r} (there are: {', '.join(CHECKS)})")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = make_model(Path(folder))
        for name in args.checks or CHECKS:
            try:
                print(f"{name:<12} {CHECKS[name](Path(folder), expected):>4} runs agree", flush=True)
            except CheckFailed as error:
                failed += 1
                print(f"{name:<12} FAILED: {error}", flush=True)
    print(f"native: {len(args.checks or CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
