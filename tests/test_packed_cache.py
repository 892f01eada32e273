"""The cache of packed files: the same bits, never a stale or a damaged file, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import gpt2c
from gpt2c import options
from gpt2c.backends import packed_cache
from gpt2c.cli import main as cli

IDS = [3, 1, 4, 1, 5]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, not there yet, that takes small models too."""
    monkeypatch.setenv("GPT2C_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "MIN_BYTES", 0)
    monkeypatch.setattr(packed_cache, "_warned", set())
    return tmp_path / "cache"


@pytest.fixture
def model(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model that the test may change."""
    return Path(shutil.copytree(model_folder("tiny"), tmp_path / "model"))


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A test that expects a warning says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def logits(folder: Path, **settings: Any) -> np.ndarray:
    with gpt2c.load(folder, **settings) as model:
        return model.logits(IDS)


def the_file(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def load_unbuilt(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: Any) -> np.ndarray:
    """The logits of a load that must find a packed file."""

    def refuse(*_: object) -> None:
        raise AssertionError("the model was built")

    with monkeypatch.context() as patch:
        patch.setattr("gpt2c.backends.native._build", refuse)
        return logits(folder, **settings)


# ---- What it is for ----


def test_the_second_load_maps_the_file_and_gives_the_same_bits(
    cache: Path, model: Path, binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2C_CACHE", "off")
    expected = logits(model, binding=binding)
    monkeypatch.setenv("GPT2C_CACHE", str(cache))
    with gpt2c.load(model, binding=binding) as first:
        assert is_mapped(the_file(cache))  # the first process shares its pages too
        assert np.array_equal(first.logits(IDS), expected)
    assert not is_mapped(the_file(cache))
    for other in ("cython", "cffi"):
        assert np.array_equal(load_unbuilt(monkeypatch, model, binding=other), expected)


def test_the_rest_of_a_plan_shares_the_file(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(model)
    for settings in (
        {"opts": "aligned,unembed,head_screen"},
        {"threads": 1},
        {"opts": "all,gelu_table"},
        {"isa": "unroll"},
    ):
        found = load_unbuilt(monkeypatch, model, **settings)
        assert np.allclose(found, expected, atol=0.1)
    assert the_file(cache)


def test_a_mapped_model_has_next_to_no_memory_of_its_own(cache: Path, tmp_path: Path) -> None:
    tool = Path(__file__).parent.parent / "tools" / "random_model.py"
    shape = "L2-H4-E512-V8000-C64"  # 41 MB
    subprocess.run([sys.executable, tool, shape, "-o", tmp_path / "middle"], check=True)
    code = (
        "import re, gpt2c\n"
        "gpt2c.backends.packed_cache.MIN_BYTES = 0\n"
        "def dirty():\n"
        "    return int(re.search(r'Private_Dirty: +(\\d+)', open('/proc/self/smaps_rollup').read())[1])\n"
        "before = dirty()\n"
        f"model = gpt2c.load({str(tmp_path / 'middle')!r}, threads=1)\n"
        "model.logits([1, 2, 3])\n"
        "print(dirty() - before)\n"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 8_000  # kB


def test_every_shard_is_part_of_the_key(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = safetensors.numpy.load_file(model / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, model / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (model / "model.safetensors").unlink()
    expected = logits(model)
    assert np.array_equal(load_unbuilt(monkeypatch, model), expected)
    os.utime(model / "b.safetensors", ns=(1, 1))
    with pytest.raises(AssertionError, match="was built"):
        load_unbuilt(monkeypatch, model)


# ---- A changed checkpoint ----


def touch(model: Path) -> None:
    os.utime(model / "model.safetensors", ns=(10**18, 10**18))


def rewrite(model: Path, metadata: dict[str, str], scale: float = 1.0) -> None:
    """Another header or other weights, and the time set back to what it was."""
    path = model / "model.safetensors"
    time_ns = path.stat().st_mtime_ns
    tensors = safetensors.numpy.load_file(path)
    tensors = {name: tensor * np.float32(scale) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(tensors, path, metadata=metadata or None)
    os.utime(path, ns=(time_ns, time_ns))


def train_on(model: Path) -> None:
    rewrite(model, {}, scale=0.5)


def change_header(model: Path) -> None:
    rewrite(model, {"made": "again"})


def change_config(model: Path) -> None:
    path = model / "config.json"
    path.write_text(path.read_text().replace("{", '{"layer_norm_epsilon": 1e-3, ', 1))


@pytest.mark.parametrize("change", [touch, train_on, change_header, change_config])
def test_a_changed_checkpoint_takes_the_place_of_its_old_file(
    change: Callable[[Path], None], cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(model)
    old = the_file(cache)
    change(model)
    found = logits(model)
    assert the_file(cache) != old
    monkeypatch.setenv("GPT2C_CACHE", "off")
    assert np.array_equal(found, logits(model))


def test_each_model_and_weight_format_has_a_file_of_its_own(
    cache: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    for folder in (model, other):
        for weights in options.WEIGHTS:
            expected = logits(folder, weights=weights)
            assert np.array_equal(load_unbuilt(monkeypatch, folder, weights=weights), expected)
    assert len(list(cache.iterdir())) == 2 * len(options.WEIGHTS)


def test_another_format_version_is_another_key(
    cache: Path, model: Path, binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(model, binding=binding)
    old = the_file(cache)
    native = gpt2c.bindings.load(binding)
    version = native.packed_version()
    monkeypatch.setattr(native, "packed_version", lambda: version + 1)
    logits(model, binding=binding)
    assert the_file(cache) != old


# ---- What is not cached ----


@pytest.mark.parametrize("opts", ["none", "kv,unroll"])
def test_row_major_weights_are_not_cached(opts: str, cache: Path, model: Path) -> None:
    logits(model, opts=opts)
    assert not cache.exists()


def test_small_models_are_not_cached(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("GPT2C_CACHE", str(cache))
    logits(model)
    gpt2c.load().close()
    assert not cache.exists()


def test_off_is_off(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2C_CACHE", "off")
    monkeypatch.chdir(cache.parent)
    logits(model)
    assert not cache.exists() and not Path("off").exists()


# ---- Where it is ----


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GPT2C_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"GPT2C_CACHE": "", "XDG_CACHE_HOME": "/b"}, Path("/b/gpt2c")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache/gpt2c"),
        ({}, Path.home() / ".cache/gpt2c"),
        ({"GPT2C_CACHE": "here"}, Path.cwd() / "here"),
        ({"GPT2C_CACHE": "off", "XDG_CACHE_HOME": "/b"}, None),
    ],
)
def test_the_environment_names_the_folder(environ: dict[str, str], expected: Path | None) -> None:
    assert packed_cache.cache_folder(environ) == expected


def test_the_folder_is_made_for_its_owner_alone(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2C_CACHE", str(cache / "deeper"))
    logits(model)
    assert (cache / "deeper").stat().st_mode & 0o777 == 0o700
    assert the_file(cache / "deeper").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(mode: int, cache: Path, model: Path) -> None:
    cache.mkdir()
    cache.chmod(mode)
    with pytest.warns(RuntimeWarning, match="is not used: others may write to it .chmod") as caught:
        logits(model)
        logits(model)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert not list(cache.iterdir())


def test_a_folder_of_another_user_is_not_used(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(model)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.warns(RuntimeWarning, match="is not used: it belongs to another user"):
        logits(model)
    assert not is_mapped(the_file(cache))


def test_a_file_in_the_folders_place_is_not_used(cache: Path, model: Path) -> None:
    cache.write_text("mine")
    with pytest.warns(RuntimeWarning, match="is not used: it is not a folder"):
        logits(model)
    assert cache.read_text() == "mine"


# ---- Damage ----


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [lambda path: flip(path, 30), lambda path: os.truncate(path, 4096), lambda path: os.truncate(path, 0)],
    ids=["flipped", "cut", "empty"],
)
def test_a_damaged_file_warns_once_and_is_rebuilt(
    damage: Callable[[Path], None], cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(model)
    path = the_file(cache)
    whole = path.read_bytes()
    damage(path)
    with pytest.warns(RuntimeWarning, match=rf"{path}: .* a damaged one; rebuilt") as caught:
        assert np.array_equal(logits(model), expected)
        assert np.array_equal(logits(model), expected)
    assert len(caught) == 1
    assert the_file(cache).read_bytes() == whole


def test_a_folder_in_the_files_place_is_left_alone(cache: Path, model: Path) -> None:
    expected = logits(model)
    path = the_file(cache)
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning) as caught:
        for _ in range(2):
            assert np.array_equal(logits(model), expected)
    assert len(caught) == 1 and path.is_dir()


def test_info_verify_finds_the_bad_file(
    cache: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits(model)
    good = the_file(cache)
    logits(Path(shutil.copytree(model, tmp_path / "other")))
    (bad,) = set(cache.iterdir()) - {good}
    assert cli.main(["info", "--verify", "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert f"good         {bad}" in out
    size = good.stat().st_size
    assert f"cache        on, {cache}: 2 packed files, {2 * size:,} bytes" in out
    flip(bad, size - 5)
    logits(tmp_path / "other")  # only verifying reads all of it
    assert cli.main(["info", "--verify", "--model", str(model)]) == 1
    out, err = capsys.readouterr()
    assert re.search(rf"^good +{good}$", out, re.M) and re.search(rf"^BAD +{bad}: .*damaged", out, re.M)
    assert err == (
        "gpt2c: error: bad packed files in the cache: 1; delete them, and the next load rebuilds them\n"
    )


def test_info_says_that_nothing_can_be_put_into_the_cache(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    able = os.access
    writable = {cache.parent: False}
    monkeypatch.setattr(os, "access", lambda path, mode: writable.get(Path(path), able(path, mode)))
    assert cli.main(["info", "--opts", "none"]) == 0
    assert f"\ncache        read-only, {cache}: 0 packed files, 0 bytes\n" in capsys.readouterr().out
    cache.mkdir()
    assert cli.main(["info", "--opts", "none"]) == 0
    assert f"\ncache        on, {cache}: 0 packed files, 0 bytes\n" in capsys.readouterr().out


def test_info_says_that_the_cache_is_off(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2C_CACHE", "off")
    assert cli.main(["info", "--verify", "--model", str(model)]) == 0
    assert "\ncache        off (GPT2C_CACHE=off)\n" in capsys.readouterr().out
    monkeypatch.setenv("GPT2C_CACHE", str(cache))
    cache.mkdir()
    cache.chmod(0o777)
    warnings.simplefilter("default")
    assert cli.main(["info", "--model", str(model)]) == 0
    out, err = capsys.readouterr()
    assert f"\ncache        off: {cache}: others may write to it (chmod 755" in out
    assert err.startswith(f"gpt2c: the cache '{cache}' is not used: others may write to it")


# ---- Nowhere to write ----


def test_a_folder_that_cannot_be_made_is_only_logged(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (cache.parent / "plain").write_text("mine")
    monkeypatch.setenv("GPT2C_CACHE", str(cache.parent / "plain" / "cache"))
    with caplog.at_level(logging.DEBUG, "gpt2c"):
        logits(model)
    assert "no packed file in" in caplog.text and "Not a directory" in caplog.text


WITHOUT_SPACE = """
import logging, resource, sys
import gpt2c
logging.basicConfig(level=logging.DEBUG)
gpt2c.backends.packed_cache.MIN_BYTES = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print(gpt2c.load(sys.argv[1]).generate([1, 2, 3], 5).ids)
"""


def run_without_space(model: Path) -> str:
    """A load in a process whose writes end after 20,000 bytes, as on a full disk; what it logged."""
    run = subprocess.run([sys.executable, "-c", WITHOUT_SPACE, model], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    return run.stderr


def test_a_write_that_fails_half_way_leaves_nothing(cache: Path, model: Path) -> None:
    assert "no packed file in" in run_without_space(model)
    assert list(cache.iterdir()) == []


def test_where_nothing_can_be_written_what_is_there_still_serves(cache: Path, model: Path) -> None:
    logits(model)
    old = the_file(cache)
    assert run_without_space(model) == ""
    touch(model)
    assert "no packed file in" in run_without_space(model)
    assert the_file(cache) == old


def test_what_a_killed_process_left_is_swept_in_time(cache: Path, model: Path) -> None:
    cache.mkdir(mode=0o700)
    old, new, other = (cache / name for name in ("a.packed.1.tmp", "b.packed.2.tmp", "notes"))
    for path in (old, new, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    logits(model)
    assert not old.exists() and new.exists() and other.exists()


# ---- Races ----

RACER = """
import sys, time
import gpt2c
gpt2c.backends.packed_cache.MIN_BYTES = 0
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
print(gpt2c.load(sys.argv[1]).generate([1, 2, 3], 5).ids)
"""


def test_processes_that_race_to_build_leave_one_good_file(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = str(time.time() + 2)
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACER, model, start],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, outputs
    assert len(set(outputs)) == 1
    gpt2c.bindings.load("cffi").packed_info(os.fsencode(the_file(cache)), True)
    load_unbuilt(monkeypatch, model)


def test_threads_that_race_to_build_leave_one_good_file(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(logits(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(found[0], one) for one in found)
    gpt2c.bindings.load("cffi").packed_info(os.fsencode(the_file(cache)), True)
    load_unbuilt(monkeypatch, model)
