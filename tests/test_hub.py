"""Names of models: folders, files, hub ids. Nothing here reaches the network."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from references import optional

from gpt2c.checkpoints.hub import EMBEDDED_MODEL, resolve_model
from gpt2c.errors import BackendUnavailable, ModelFileError, ModelNotFoundError

Download = Callable[..., str]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run where no folder happens to be called gpt2, and with no hub client unless a test brings one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Download], None]:
    """Puts a stand-in for huggingface_hub.snapshot_download in place."""

    def install(download: Download) -> None:
        module = types.ModuleType("huggingface_hub")
        module.snapshot_download = download  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)

    return install


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def not_found(model: str | os.PathLike[str]) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_none_is_the_embedded_model() -> None:
    assert resolve_model(None) == resolve_model() == EMBEDDED_MODEL
    assert EMBEDDED_MODEL.name == "assets"


def test_the_embedded_model_has_a_name_too_unless_something_here_is_called_so(empty_folder: Path) -> None:
    assert resolve_model("embedded") == EMBEDDED_MODEL
    not_found(Path("embedded"))
    make_model(empty_folder / "embedded")
    assert resolve_model("embedded") == Path("embedded")


def test_a_folder_is_taken_as_it_is_even_if_it_looks_like_a_hub_id(empty_folder: Path) -> None:
    make_model(empty_folder / "gpt2")
    assert resolve_model("gpt2") == Path("gpt2")
    assert resolve_model(Path("gpt2")) == Path("gpt2")
    assert resolve_model(empty_folder) == empty_folder


def test_a_safetensors_file_needs_its_config_next_to_it(empty_folder: Path) -> None:
    file = make_model(empty_folder / "m") / "model.safetensors"
    assert resolve_model(file) == resolve_model(str(file)) == file
    (empty_folder / "m" / "config.json").unlink()
    assert not_found(file) == f"'{file}' has no config.json next to it"


def test_another_file_is_refused(empty_folder: Path) -> None:
    (empty_folder / "weights.h5").write_bytes(b"")
    with pytest.raises(
        ModelFileError, match=r"^'weights.h5' is neither a folder nor a \.safetensors, .* file$"
    ):
        resolve_model("weights.h5")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "./gpt2",
        "/no/where",
        "../gpt2",
        "a/b/c",
        "a b",
        "model.safetensors",
        "gpt2\n",
        "x\0y",
        "ü",
        "a/.b",
        "x" * 97,
        "x" * 5000,
    ],
)
def test_what_cannot_be_a_hub_id_is_a_path_that_is_not_there(name: str) -> None:
    assert not_found(name).endswith("there is no such folder or file")


def test_a_path_object_is_never_a_hub_id() -> None:
    assert not_found(Path("gpt2")) == "no model at 'gpt2': there is no such folder or file"


def test_without_the_hub_package_the_message_says_what_to_install() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        resolve_model("gpt2")
    assert str(caught.value) == (
        "'gpt2' is not a folder; to fetch it from the Hugging Face hub install the extra: "
        "pip install 'gpt2c[hub]'"
    )
    assert isinstance(caught.value, ImportError)


def test_a_hub_id_is_fetched_with_the_files_that_a_model_needs(
    empty_folder: Path, hub: Callable[[Download], None]
) -> None:
    folder = make_model(empty_folder / "cache")
    calls = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(folder)

    hub(download)
    assert resolve_model("org/name") == folder
    [(name, options)] = calls
    assert name == "org/name"
    assert options["local_files_only"] is False
    assert set(options["allow_patterns"]) == {  # type: ignore[call-overload]
        "config.json",
        "*.safetensors",
        "model.safetensors.index.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "tokenizer.json",
    }


def test_without_the_network_the_cached_copy_serves_and_a_warning_says_so(
    empty_folder: Path, hub: Callable[[Download], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model(empty_folder / "cache")

    def download(name: str, *, local_files_only: bool, **options: object) -> str:
        if not local_files_only:
            raise ConnectionError("no route\nto host")
        return str(folder)

    hub(download)
    with caplog.at_level(logging.WARNING, "gpt2c"):
        assert resolve_model("gpt2") == folder
    assert caplog.messages == ["gpt2: loaded from the local cache, because ConnectionError: no route"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "LocalEntryNotFoundError",
            "the hub cannot be reached (is the network down, or HF_HUB_OFFLINE set?)",
        ),
        ("OfflineModeIsEnabled", "the hub cannot be reached (is the network down, or HF_HUB_OFFLINE set?)"),
        ("RepositoryNotFoundError", "the hub has no such model, or shows it only to users who are logged in"),
        ("GatedRepoError", "its owner gives access on request"),
        ("HFValidationError", "the name is not valid on the hub"),
        ("SomethingNew", "SomethingNew: words"),
    ],
)
def test_what_went_wrong_on_the_hub_is_one_line(
    hub: Callable[[Download], None], error: str, reason: str
) -> None:
    def download(name: str, **options: object) -> str:
        raise type(error, (Exception,), {})("words\nand a page more")

    hub(download)
    expected = f"'org/name' is not a folder, and cannot be fetched from the Hugging Face hub: {reason}"
    assert not_found("org/name").startswith(expected)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_copy_is_not_taken_for_a_model(
    empty_folder: Path, hub: Callable[[Download], None], missing: str
) -> None:
    folder = make_model(empty_folder / "cache")
    (folder / missing).unlink()
    hub(lambda name, **options: str(folder))
    assert f"has no {missing.replace('model', '*')}; the model has none" in not_found("org/name")


def run_offline(code: str, home: Path) -> str:
    """With the real hub client, in a new process because it reads its settings when imported."""
    optional("huggingface_hub")
    root = Path(__file__).resolve().parent.parent
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("HF_HUB_CACHE", None)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=home, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_real_client_offline_gives_one_line(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    code = (
        "from gpt2c.checkpoints.hub import resolve_model\n"
        "from gpt2c.errors import ModelNotFoundError\n"
        "try: resolve_model('gpt2')\n"
        "except ModelNotFoundError as e: print(e)\n"
    )
    printed = run_offline(code, empty_folder)
    assert printed == (
        "'gpt2' is not a folder, and cannot be fetched from the Hugging Face hub: the hub cannot be reached "
        "(is the network down, or HF_HUB_OFFLINE set?) and the local cache does not have it; fetch it once "
        "while online, or give a folder"
    )


def test_the_real_client_offline_finds_its_cache_whose_files_are_links(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    revision = "0123456789" * 4
    repository = empty_folder / "hub" / "models--org--name"
    blobs = make_model(repository / "blobs")
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    code = "from gpt2c.checkpoints.hub import resolve_model; print(resolve_model('org/name'))"
    assert Path(run_offline(code, empty_folder)).resolve() == snapshot.resolve()
