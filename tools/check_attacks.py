"""Run the attacks and the failing allocations under AddressSanitizer, with both bindings.

    python tools/check_attacks.py [PYTEST ARGUMENT ...]
    python tools/check_attacks.py --record          and write the counts to docs/attacks.md

Builds the package into a folder that is forgotten, the core and both extensions with -fsanitize=address, and
runs tests/attacks and tests/test_injection.py with it. Needs gcc. Leaks are not looked for here, since
Python itself has some at its end: the core's own are counted by the tests, and found by check_native.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/attacks", "tests/test_injection.py"]
RESULT = ROOT / "docs" / "attacks.md"
HEAD = [
    "# Attacks and failing allocations, counted",
    "",
    "This page records how many hostile files and failing allocations the tests cover, and how many of those",
    "tests failed. `python tools/check_attacks.py --record` wrote it. The core and both bindings ran under",
    "AddressSanitizer. A failing allocation is counted once per scenario and binding.",
    "",
    "| tests | run | failed | allocations that failed |",
    "|---|---|---|---|",
]


def path_of(library: str) -> str:
    """Where gcc has a library."""
    command = ["gcc", f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def count(report: Path) -> list[str]:
    """A line of the table for each file of tests, from pytest's own report in XML."""
    rows: dict[str, list[int]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        row = rows.setdefault(case.attrib["classname"].split(".")[-1], [0, 0, 0])
        row[0] += case.find("skipped") is None
        row[1] += case.find("failure") is not None or case.find("error") is not None
        allocations = case.iterfind("properties/property[@name='allocations']")
        row[2] += sum(int(found.attrib["value"]) for found in allocations)
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    return [
        f"| {name} | {n:,} | {failed} | {allocations:,} |" for name, (n, failed, allocations) in rows.items()
    ]


def build(package: Path, objects: Path) -> None:
    """The package, core and extensions with AddressSanitizer."""
    command = [sys.executable, "setup.py", "-q", "build"]
    subprocess.run(
        [*command, "--build-lib", str(package), "--build-temp", str(objects)],
        env={
            **os.environ,
            "CFLAGS": "-fsanitize=address -g -fno-omit-frame-pointer",
            "LDFLAGS": "-fsanitize=address",
        },
        cwd=ROOT,
        check=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="All other arguments are pytest's.", allow_abbrev=False
    )
    parser.add_argument("--record", action="store_true", help="write the counts to docs/attacks.md")
    args, arguments = parser.parse_known_args()
    # libstdc++ beside it, or AddressSanitizer does not find what throws exceptions in other people's C++.
    libraries = " ".join(map(path_of, ("libasan.so", "libstdc++.so.6")))
    with tempfile.TemporaryDirectory() as folder:
        package, report = Path(folder) / "package", Path(folder) / "report.xml"
        build(package, Path(folder) / "objects")
        environment = {
            **os.environ,
            "PYTHONPATH": str(package),
            "LD_PRELOAD": libraries,
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        }
        found = [sys.executable, "-c", "import gpt2c; print(gpt2c.__file__)"]
        where = subprocess.run(found, env=environment, cwd=folder, capture_output=True, text=True, check=True)
        if not where.stdout.startswith(str(package)):
            raise SystemExit(f"another gpt2c is in the way: {where.stdout.strip()}")
        tests = [str(ROOT / test) for test in TESTS]
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        status = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments, *tests],
            env=environment,
            cwd=folder,  # from the root, the checkout's package would be imported
        ).returncode
        if args.record:
            RESULT.write_text("\n".join([*HEAD, *count(report)]) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
