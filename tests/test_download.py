"""`gpt2c download`, by the real hub client from a stand-in for the hub on the loopback address."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, StandIn, running
from other_formats import torch_or_skip, torch_state
from processes import INSTALLED, NO_HANG
from references import optional

import gpt2c
from gpt2c.checkpoints.hub import EMBEDDED_MODEL

optional("huggingface_hub")

MIB = 1 << 20


@pytest.fixture
def hub() -> Iterator[StandIn]:
    """The embedded model as org/small, the first answer for its weights cut short."""
    with running(StandIn(EMBEDDED_MODEL, "org/small", cut=("model.safetensors",))) as hub:
        yield hub


def command(*argv: str, home: Path, url: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A gpt2c command in a new process, because the client reads its settings when imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": url, "PYTHONPATH": str(INSTALLED), **more}
    # A proxy of this machine has no business on the loopback address.
    environment.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    return subprocess.run(
        [sys.executable, "-m", "gpt2c", *argv],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=NO_HANG,
    )


def test_a_download_resumes_what_was_cut_short_and_works_offline_afterwards(
    hub: StandIn, tmp_path: Path
) -> None:
    done = command("download", "org/small", home=tmp_path, url=hub.url)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / "hub" / "models--org--small" / "snapshots" / COMMIT
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        assert (folder / name).read_bytes() == (EMBEDDED_MODEL / name).read_bytes()
    assert not (folder / "README.md").exists()
    assert "100%" in done.stderr

    fetched = [
        asked for how, path, asked in hub.requests if how == "GET" and path.endswith("model.safetensors")
    ]
    assert len(fetched) == 2
    whole, rest = fetched
    assert whole == ""
    first = int(rest.removeprefix("bytes=").rstrip("-").split("-")[0])
    assert MIB < first < (EMBEDDED_MODEL / "model.safetensors").stat().st_size

    n_requests = len(hub.requests)
    run = (
        "run",
        "--model",
        "org/small",
        "--prompt",
        "The sea",
        "--max-new-tokens",
        "5",
        "--temperature",
        "0",
    )
    offline = command(*run, home=tmp_path, url=hub.url, HF_HUB_OFFLINE="1")
    with gpt2c.load() as model:
        assert offline.stdout == "The sea" + model.generate("The sea", 5).text + "\n"
    assert len(hub.requests) == n_requests


def test_a_second_download_fetches_no_file_again(hub: StandIn, tmp_path: Path) -> None:
    hub.cut.clear()
    first = command("download", "org/small", home=tmp_path, url=hub.url)
    hub.requests.clear()
    second = command("download", "org/small", home=tmp_path, url=hub.url)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert not [path for how, path, _ in hub.requests if "/resolve/" in path and how == "GET"]


def test_without_the_hub_the_copy_in_the_cache_serves(hub: StandIn, tmp_path: Path) -> None:
    first = command("download", "org/small", home=tmp_path, url=hub.url)
    nowhere = "http://127.0.0.1:9"  # the port of "discard": nothing answers
    again = command("download", "org/small", home=tmp_path, url=nowhere)
    assert (again.returncode, again.stdout) == (0, first.stdout)


def test_a_model_that_the_hub_does_not_have_is_one_line(hub: StandIn, tmp_path: Path) -> None:
    done = command("download", "org/other", home=tmp_path, url=hub.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "gpt2c: error: 'org/other' is not a folder, and cannot be fetched from the Hugging Face hub: "
        "the hub has no such model, or shows it only to users who are logged in\n"
    )


@pytest.mark.parametrize("name", ["./gpt2", "a/b/c", "", "a b"])
def test_what_is_no_hub_id_is_not_requested(name: str, hub: StandIn, tmp_path: Path) -> None:
    done = command("download", name, home=tmp_path, url=hub.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gpt2c: error: {name!r} is not a hub id (such as 'gpt2' or 'org/name')\n"
    assert not hub.requests


def test_a_model_without_safetensors_comes_as_pytorch_model(tmp_path: Path) -> None:
    torch = torch_or_skip()
    served = tmp_path / "served"
    served.mkdir()
    for name in ("config.json", "vocab.json", "merges.txt"):
        shutil.copy(EMBEDDED_MODEL / name, served)
    torch.save(torch_state(EMBEDDED_MODEL), served / "pytorch_model.bin")
    (served / "flax_model.msgpack").write_bytes(b"not wanted")
    with running(StandIn(served, "old")) as hub:
        done = command("download", "old", home=tmp_path, url=hub.url)
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in Path(done.stdout.strip()).iterdir())
    assert found == ["config.json", "merges.txt", "pytorch_model.bin", "vocab.json"]
