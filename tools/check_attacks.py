"""Run the attacks and the failing allocations under AddressSanitizer, with both bindings.

    python tools/check_attacks.py [PYTEST ARGUMENT ...]

Builds the package into a folder that is forgotten, the core and both extensions with -fsanitize=address, and
runs tests/attacks and tests/test_injection.py with it. Needs gcc. Leaks are not looked for here, since
Python itself has some at its end: the core's own are counted by the tests, and found by check_native.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/attacks", "tests/test_injection.py"]


def path_of(library: str) -> str:
    """Where gcc has a library."""
    command = ["gcc", f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    # libstdc++ beside it, or AddressSanitizer does not find what throws exceptions in other people's C++.
    libraries = " ".join(map(path_of, ("libasan.so", "libstdc++.so.6")))
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "package"
        command = [
            "setup.py",
            "-q",
            "build",
            "--build-lib",
            str(package),
            "--build-temp",
            f"{folder}/objects",
        ]
        flags = "-fsanitize=address -g -fno-omit-frame-pointer"
        subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "CFLAGS": flags, "LDFLAGS": "-fsanitize=address"},
            cwd=ROOT,
            check=True,
        )
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
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:], *tests],
            env=environment,
            cwd=folder,  # from the root, the checkout's package would be imported
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
