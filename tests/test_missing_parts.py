"""What is missing from an installation or a machine is named in one line, and the rest works without it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from processes import INSTALLED, RUN, python
from references import optional

from gpt2c import bindings

ROOT = Path(__file__).resolve().parent.parent

# ---- Bindings ----


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package, for bindings to be taken out of; the function makes it with some missing."""

    def copy(*missing):
        where = tmp_path_factory.mktemp("package")
        ignored = shutil.ignore_patterns("__pycache__", "assets", "*.so")
        shutil.copytree(INSTALLED / "gpt2c", where / "gpt2c", ignore=ignored)
        for name in {*bindings.NAMES} - {*missing}:  # in a checkout they may be where pip put them
            compiled = importlib.util.find_spec(f"gpt2c.bindings._{name}").origin
            shutil.copy(compiled, where / "gpt2c" / "bindings")
        (where / "gpt2c" / "assets").symlink_to(INSTALLED / "gpt2c" / "assets")
        return where

    return copy


NO_CYTHON = "the cython binding is not built: No module named 'gpt2c.bindings._cython'"


def no_cffi(path):
    where = path / "gpt2c" / "bindings" / "__init__.py"
    return f"the cffi binding is not built: cannot import name '_cffi' from 'gpt2c.bindings' ({where})"


def test_without_cythons_file_cffi_does_the_work_and_says_so_once(package, tmp_path):
    path = package("cython")
    both = python(*RUN, path=INSTALLED, cwd=tmp_path)
    done = python(*RUN, path=path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, both.stdout)
    note, plan, _ = done.stderr.splitlines()
    assert note == f"gpt2c: {NO_CYTHON}; using the cffi binding"
    assert plan.endswith(" binding=cffi")
    code = (
        "import warnings, gpt2c\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    texts = {gpt2c.load().generate('The sea', 3).text for _ in range(3)}\n"
        "assert len(texts) == 1\n"
        "assert gpt2c.build_info()['bindings'] == ['cffi']\n"
        "for w in caught: print(w.category.__name__, w.message)\n"
    )
    done = python("-c", code, path=path, cwd=tmp_path)
    expected = f"RuntimeWarning gpt2c: {NO_CYTHON}; using the cffi binding\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_without_cffis_file_cython_does_the_work_without_a_word(package, tmp_path):
    path = package("cffi")
    both = python(*RUN, path=INSTALLED, cwd=tmp_path)
    done = python(*RUN, path=path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, both.stdout)
    assert done.stderr.splitlines()[0] == both.stderr.splitlines()[0]
    done = python("-c", "import gpt2c; print(gpt2c.build_info()['bindings'])", path=path, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("['cython']\n", "")


def test_the_package_imports_and_has_its_version_without_any_binding(package, tmp_path):
    code = "import sys, gpt2c; print(gpt2c.__version__, [m for m in sys.modules if 'bindings._c' in m])"
    expected = f"{bindings.select().version()} []\n"
    for path in (INSTALLED, package(*bindings.NAMES)):  # where there are bindings, none is loaded for it
        done = python("-c", code, path=path, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


@pytest.mark.parametrize("named", ["argument", "environment"])
@pytest.mark.parametrize("missing", ["cython", "cffi"])
def test_a_binding_that_is_not_built_is_an_error_when_it_is_asked_for(package, tmp_path, missing, named):
    path = package(missing)
    line = NO_CYTHON if missing == "cython" else no_cffi(path)
    if named == "argument":
        done = python(*RUN, "--binding", missing, path=path, cwd=tmp_path)
    else:
        done = python(*RUN, path=path, cwd=tmp_path, GPT2C_BINDING=missing)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"gpt2c: error: {line}\n")


def test_without_any_binding_there_is_one_line(package, tmp_path):
    path = package("cython", "cffi")
    done = python(*RUN, path=path, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"gpt2c: error: {no_cffi(path)}\n")


def test_without_the_evaluation_harness_its_command_is_one_line(tmp_path):
    (tmp_path / "lm_eval.py").write_text("raise ImportError('no harness')\n")
    done = python("-m", "gpt2c.evaluation", "--tasks", "x", path=INSTALLED, cwd=tmp_path)
    line = "gpt2c.evaluation needs lm_eval (pip install 'gpt2c[eval]'): no harness"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"gpt2c: error: {line}\n")


# ---- Building ----


@pytest.fixture
def source_tree(tmp_path):
    """A copy of what setup.py needs, without anything that was built."""
    for needed in ("setuptools", "Cython"):
        optional(needed)
    where = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "assets", "*.so", "_cffi.c", "_cython.c")
    for name in ("gpt2c", "native", "include", "tools"):
        shutil.copytree(ROOT / name, where / name, ignore=ignored)
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, where)
    shutil.copy(ROOT / "LICENSE", where)
    return where


def build(source_tree, **environment):
    done = python("setup.py", "build_ext", path="", cwd=source_tree, **{"GPT2C_BUILD": "cffi", **environment})
    assert not list(source_tree.rglob("*.so"))
    return done


def test_without_a_c_compiler_the_build_ends_in_one_line(source_tree):
    done = build(source_tree, CC="/nowhere/cc")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("gpt2c: no working C compiler (Debian: apt install gcc): ")
    assert "/nowhere/cc" in line


def test_without_pythons_headers_the_build_ends_in_one_line(source_tree, tmp_path):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import sysconfig\n"
        "real = sysconfig.get_path\n"
        "def elsewhere(name, *more, **options):\n"
        "    return '/nowhere' if 'include' in name else real(name, *more, **options)\n"
        "sysconfig.get_path = elsewhere\n"
    )
    done = build(source_tree, PYTHONPATH=str(hook))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "gpt2c: Python.h is missing; install Python's headers (Debian: apt install python3-dev)"
    )
