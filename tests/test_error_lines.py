"""Every error that a user can run into: its exact line on standard error, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from models import write_model
from processes import INSTALLED, NO_HANG, RUN, python
from references import NEEDS_DEV_FULL, optional

from gpt2c import bindings
from gpt2c.cli import main as cli
from gpt2c.cli import run
from gpt2c.options import MAX_THREADS, OPTIONS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new working directory with a good model in `m`, for a test to spoil. The hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    for package in ("huggingface_hub", "torch", "gguf"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("GPT2C_ISA", "GPT2C_BINDING", "GPT2C_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return write_model(tmp_path / "m", "tiny")


@pytest.fixture
def error_of(capsys):
    """(exit status, standard error) of a command that fails before it prints anything else."""

    def call(argv, main=run.main):
        try:
            status = main(argv)
        except SystemExit as end:  # how argparse ends
            status = end.code
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return call


# ---- Ways to spoil a model ----


def config(**changes):
    """Changes fields of config.json; None takes one out."""

    def spoil(folder):
        fields = {**json.loads((folder / "config.json").read_text()), **changes}
        kept = {key: value for key, value in fields.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return spoil


def config_text(text):
    return lambda folder: (folder / "config.json").write_bytes(text)


def without(name):
    return lambda folder: (folder / name).unlink()


def tensors(change):
    """Lets `change` do something to the dict of arrays."""

    def spoil(folder):
        arrays = safetensors.numpy.load_file(folder / "model.safetensors")
        change(arrays)
        safetensors.numpy.save_file(arrays, folder / "model.safetensors")

    return spoil


def blob(change):
    """Replaces the file by change(its bytes)."""

    def spoil(folder):
        file = folder / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return spoil


def header(change):
    """Lets `change` do something to the header of the safetensors file, and leaves the data alone."""

    def lie(data):
        n = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + n])
        change(entries)
        text = json.dumps(entries).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + n :]

    return blob(lie)


def entry(name, **changes):
    return header(lambda entries: entries[name].update(changes))


def shifted(by):
    """Makes the second tensor of the data begin earlier or later than the first one ends."""

    def change(entries):
        by_place = sorted(
            (e for k, e in entries.items() if k != "__metadata__"), key=lambda e: e["data_offsets"]
        )
        by_place[1]["data_offsets"] = [place + by for place in by_place[1]["data_offsets"]]

    return header(change)


def old_format(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


M = ["--model", "m"]
FILE = "model.safetensors"
ST = f"{FILE}: "
BIAS = f"{ST}tensor 'ln_f.bias'"
SECOND = f"{ST}tensor 'h.0.attn.c_attn.weight'"
CFG = "config.json: "
NO_JSON = "is not JSON: Expecting property name enclosed in double quotes"

# What is wrong: (how the model is spoilt, the command's arguments, the line after "gpt2c: error: ")
MODELS = {
    # What is there
    "no folder": (None, ["--model", "./nowhere"], "no model at './nowhere': there is no such folder or file"),
    "no file": (
        None,
        ["--model", f"m/x/{FILE}"],
        f"no model at 'm/x/{FILE}': there is no such folder or file",
    ),
    "another file": (
        None,
        ["--model", "m/config.json"],
        "'m/config.json' is neither a folder nor a .safetensors, .bin, .pt, .pth or .gguf file",
    ),
    "no weights": (
        without(FILE),
        M,
        f"no {FILE} in 'm' (nor {FILE}.index.json, pytorch_model.bin, pytorch_model.bin.index.json, ckpt.pt)",
    ),
    "no pickle": (
        old_format,
        M,
        "pytorch_model.bin: torch is needed to read it: pip install 'gpt2c[torch]'",
    ),
    "no config": (without("config.json"), M, "'m/config.json' does not exist"),
    "no config next to a file": (
        without("config.json"),
        ["--model", f"m/{FILE}"],
        f"'m/{FILE}' has no config.json next to it",
    ),
    "no vocabulary": (None, M, "m/vocab.json: no such file, and no tokenizer.json next to it"),
    # The file of weights
    "empty file": (blob(lambda data: b""), M, ST + "is too short for a safetensors file (0 bytes)"),
    "bytes at the end": (
        blob(lambda data: data + b"0123456"),
        M,
        ST + "7 bytes follow the last tensor",
    ),
    "an absurd header": (
        blob(lambda data: b"\xff" * 8 + data[8:]),
        M,
        ST + "is not a safetensors file, or damaged: its header claims 18446744073709551615 bytes "
        "(at most 100000000)",
    ),
    "a git-lfs pointer": (
        blob(lambda data: b"version https://git-lfs.github.com/spec/v1\n"),
        M,
        ST + "is a Git LFS pointer, not the weights; run 'git lfs pull' in its folder",
    ),
    "another kind of file": (
        blob(lambda data: b"\4\0\0\0\0\0\0\0PK\3\4"),
        M,
        ST + "is not a safetensors file: its header is not a JSON object",
    ),
    "a header that is not JSON": (
        blob(lambda data: b"\4\0\0\0\0\0\0\0{a:1"),
        M,
        ST + f"header: {NO_JSON} (line 1, column 2)",
    ),
    "a dtype that is none": (entry("ln_f.bias", dtype="F33"), M, BIAS + ": unknown dtype 'F33'"),
    "a negative shape": (
        entry("ln_f.bias", shape=[-32]),
        M,
        BIAS + ": shape must be a list of whole numbers, not [-32]",
    ),
    "a shape of another size": (
        entry("ln_f.bias", shape=[33]),
        M,
        BIAS + ": F32 of shape [33] needs 132 bytes, data_offsets give 128",
    ),
    "an overflowing shape": (
        entry("ln_f.bias", shape=[2**32, 2**32]),
        M,
        BIAS
        + ": F32 of shape [4294967296, 4294967296] needs 73786976294838206464 bytes, data_offsets give 128",
    ),
    "a range backwards": (
        entry("ln_f.bias", data_offsets=[128, 0]),
        M,
        BIAS + ": data_offsets [128, 0] are not a range",
    ),
    "an entry that is none": (
        header(lambda entries: entries.update({"ln_f.bias": 5})),
        M,
        BIAS + ": its entry must be an object, not 5",
    ),
    "an overlap": (shifted(-4), M, SECOND + ": overlaps the tensor before it"),
    "a hole": (shifted(4), M, SECOND + ": follows a hole in the data"),
    # The tensors
    "a tensor missing": (
        tensors(lambda t: t.pop("h.1.mlp.c_fc.bias")),
        M,
        ST + "tensor 'h.1.mlp.c_fc.bias' is missing",
    ),
    "a dtype not supported": (
        tensors(lambda t: t.update({"ln_f.bias": np.zeros(32)})),
        M,
        BIAS + " has dtype F64 (F32, F16, BF16 are supported)",
    ),
    "another shape": (
        tensors(lambda t: t.update({"wpe.weight": np.zeros((64, 32), "f4")})),
        M,
        ST + "tensor 'wpe.weight' has shape [64, 32], but the config needs [128, 32]",
    ),
    "a layer too many": (
        config(n_layer=1),
        M,
        ST + "tensor 'h.1.attn.c_attn.bias': the config has only 1 layers",
    ),
    "an adapter": (
        tensors(lambda t: t.update({"h.0.lora": np.zeros(3, "f4")})),
        M,
        ST + "tensor 'h.0.lora' is not part of a GPT-2 that gpt2c runs",
    ),
    "a separate head": (
        tensors(lambda t: t.update({"lm_head.weight": -t["wte.weight"]})),
        M,
        ST + "tensor 'lm_head.weight' differs from 'wte.weight', to which the config ties it",
    ),
    # The config
    "bad JSON": (config_text(b'{"n_layer": 2,'), M, CFG + NO_JSON + " (line 1, column 15)"),
    "not UTF-8": (config_text(b'{"n_layer": "\xff"}'), M, CFG + "is not UTF-8 text (byte 13)"),
    "no object": (config_text(b"[1]"), M, CFG + "must hold a JSON object, not [1]"),
    "a key twice": (config_text(b'{"n_layer": 2, "n_layer": 3}'), M, CFG + "the key 'n_layer' appears twice"),
    "bert": (config(model_type="bert"), M, CFG + "model_type 'bert' is not supported (gpt2 is)"),
    "another activation": (
        config(activation_function="silu"),
        M,
        CFG + "activation_function 'silu' is not supported (gelu_new, gelu_pytorch_tanh, gelu, relu are)",
    ),
    "cross attention": (
        config(add_cross_attention=True),
        M,
        CFG + "add_cross_attention true is not supported (false is)",
    ),
    "scaled somehow": (
        config(scale_attn_by_inverse_layer_idx=2),
        M,
        CFG + "scale_attn_by_inverse_layer_idx 2 is not supported (false, true are)",
    ),
    "untied, and no head": (
        config(tie_word_embeddings=False),
        M,
        ST + "tensor 'lm_head.weight' is missing",
    ),
    "no n_layer": (config(n_layer=None), M, CFG + "n_layer is missing"),
    "half a layer": (config(n_layer=1.5), M, CFG + "n_layer must be a whole number, not 1.5"),
    "too many layers": (config(n_layer=10**9), M, CFG + "n_layer 1000000000 is outside 1 to 1024"),
    "uneven heads": (config(n_head=5), M, CFG + "n_embd 32 is not a multiple of n_head 5"),
}


@pytest.mark.parametrize("spoil, argv, line", MODELS.values(), ids=MODELS)
def test_a_model_that_is_no_good_is_named_in_one_line(folder, error_of, spoil, argv, line):
    if spoil is not None:
        spoil(folder)
    assert error_of(argv) == (1, f"gpt2c: error: {line}\n")


def test_a_model_that_is_cut_short_is_named_with_the_lengths(folder, error_of):
    file = folder / FILE
    data = file.read_bytes()
    n, n_header = len(data), int.from_bytes(data[:8], "little")
    by_place = json.loads(data[8 : 8 + n_header])
    last = max(
        (key for key in by_place if key != "__metadata__"), key=lambda key: by_place[key]["data_offsets"]
    )
    for kept, line in [
        (n - 10, f"is truncated: tensor '{last}' ends at byte {n}, the file at {n - 10}"),
        (100, f"is truncated: the header has {n_header} bytes, the file 100"),
        (5, "is too short for a safetensors file (5 bytes)"),
    ]:
        file.write_bytes(data[:kept])
        assert error_of(M) == (1, f"gpt2c: error: {FILE}: {line}\n")


def test_info_says_the_same_of_a_model_that_is_no_good(folder, error_of):
    without("config.json")(folder)
    status, err = error_of(["info", "--model", "m"], cli.main)
    assert (status, err) == (1, "gpt2c: error: 'm/config.json' does not exist\n")


OPTION_LINES = {
    # 2: a bad flag, option or number
    "max_new_tokens": (["--max-new-tokens", "-1"], 2, "max_new_tokens must be an integer >= 0, not -1"),
    "temperature below 0": (["--temperature", "-0.5"], 2, "temperature must be >= 0, not -0.5"),
    "temperature nan": (["--temperature", "nan"], 2, "temperature must be >= 0, not nan"),
    "temperature inf": (["--temperature", "inf"], 2, "temperature must be >= 0, not inf"),
    "top_p": (["--top-p", "2"], 2, "top_p must be in (0, 1], not 2.0"),
    "top_p 0": (["--top-p", "0"], 2, "top_p must be in (0, 1], not 0.0"),
    "top_k": (["--top-k", "-3"], 2, "top_k must be an integer >= 0 (0: off), not -3"),
    "min_p": (["--min-p", "1.5"], 2, "min_p must be in [0, 1], not 1.5"),
    "repetition_penalty": (
        ["--repetition-penalty", "0"],
        2,
        "repetition_penalty must be > 0 (1: off), not 0.0",
    ),
    "seed": (["--seed", "-1"], 2, "seed must be an integer >= 0, not -1"),
    "stop": (["--stop", "x", ""], 2, "a stop string must not be empty"),
    "unknown option": (["--opts", "kv,lineer"], 2, "unknown option 'lineer' (did you mean 'linear'?)"),
    "option like no other": (["--opts", "kv,xyzzy"], 2, "unknown option 'xyzzy'"),
    "empty option": (["--opts", "kv,"], 2, "unknown option ''"),
    "option twice": (["--opts", "kv,linear,kv"], 2, "option 'kv' is given twice"),
    "threads": (["--threads", "0"], 2, f"threads must be an integer from 1 to {MAX_THREADS}, not '0'"),
    "two numbers of threads": (
        ["--opts", "threads=2", "--threads", "3"],
        2,
        "two values for threads: '2' in the options and '3'",
    ),
    "a value where there is none": (["--opts", "kv=3"], 2, "option 'kv' takes no value"),
    "no value where there is one": (["--opts", "simd="], 2, "option 'simd' needs a value after '='"),
    "none and more": (["--opts", "kv,none"], 2, "'none' cannot be combined with other options"),
    "unknown binding": (
        ["--binding", "ctypes"],
        2,
        "unknown binding 'ctypes' (choose from auto, cython, cffi)",
    ),
    "a word too many": (["Hello"], 2, "unexpected argument 'Hello': give a prompt with --prompt"),
    "unknown flag": (["--temprature", "3"], 2, "unrecognized arguments: --temprature (see --help)"),
    "no number": (["--seed", "x"], 2, "argument --seed: invalid int value: 'x' (see --help)"),
    "no value": (["--prompt"], 2, "argument --prompt: expected one argument (see --help)"),
    "two prompts": (
        ["--prompt", "a", "--prompt-file", "b"],
        2,
        "argument --prompt-file: not allowed with argument --prompt (see --help)",
    ),
    # 1: all else
    "empty prompt": (["--prompt", ""], 1, "the prompt is empty: at least one token is needed"),
    "empty prompt file": (
        ["--prompt-file", os.devnull],
        1,
        "the prompt is empty: at least one token is needed",
    ),
    "no prompt file": (
        ["--prompt-file", "nowhere.txt"],
        1,
        "prompt file 'nowhere.txt' cannot be read: No such file or directory",
    ),
    "a folder as prompt file": (["--prompt-file", "m"], 1, "prompt file 'm' cannot be read: Is a directory"),
    "a prompt too long": (
        ["--prompt", "a " * 600],
        1,
        "the prompt has 601 tokens, the model's context holds 512",
    ),
    "no hub extra": (
        ["--model", "gpt2"],
        1,
        "'gpt2' is not a folder; to fetch it from the Hugging Face hub install the extra: "
        "pip install 'gpt2c[hub]'",
    ),
}


@pytest.mark.parametrize("argv, status, line", OPTION_LINES.values(), ids=OPTION_LINES)
def test_what_makes_no_sense_is_named_in_one_line(folder, error_of, argv, status, line):
    assert error_of(argv) == (status, f"gpt2c: error: {line}\n")
    assert error_of(["run", *argv], cli.main) == (status, f"gpt2c: error: {line}\n")


def test_a_misspelled_option_is_answered_with_the_nearest_one(folder, error_of):
    for option in OPTIONS:
        line = f"gpt2c: error: unknown option '{option.name}x' (did you mean '{option.name}'?)\n"
        assert error_of(["--opts", f"{option.name}x"]) == (2, line)


# ---- Instruction sets and bindings ----


def test_an_unknown_instruction_set_is_answered_with_all_that_there_are(folder, error_of, monkeypatch):
    known = ", ".join(name for name, _, _ in bindings.select().isas())
    line = "gpt2c: error: unknown instruction set 'mmx'{} (choose from auto, {})\n"
    assert error_of(["--isa", "mmx"]) == (2, line.format("", known))
    monkeypatch.setenv("GPT2C_ISA", "mmx")
    assert error_of([]) == (2, line.format(" from GPT2C_ISA", known))


def test_an_instruction_set_of_another_machine_is_refused(folder, error_of, monkeypatch, binding):
    isas = [("ref", True, True), ("unroll", True, True), ("far", True, False)]
    monkeypatch.setattr(bindings.load(binding), "isas", lambda: isas)
    status, err = error_of(["--isa", "far", "--binding", binding])
    assert (status, err) == (2, "gpt2c: error: this machine cannot run 'far' (choose from ref, unroll)\n")
    monkeypatch.setenv("GPT2C_ISA", "far")
    _, err = error_of(["--binding", binding])
    assert err == "gpt2c: error: this machine cannot run 'far' from GPT2C_ISA (choose from ref, unroll)\n"


def test_what_is_wrong_in_the_environment_is_refused_by_the_name_of_its_variable(
    folder, error_of, monkeypatch
):
    monkeypatch.setenv("GPT2C_BINDING", "ctypes")
    line = "gpt2c: error: unknown binding 'ctypes' from GPT2C_BINDING (choose from auto, cython, cffi)\n"
    assert error_of([]) == (2, line)
    monkeypatch.delenv("GPT2C_BINDING")
    monkeypatch.setenv("GPT2C_THREADS", "many")
    line = "gpt2c: error: GPT2C_THREADS must be an integer from 1 to 1024, not 'many'\n"
    assert error_of([]) == (2, line)


# ---- The world outside ----


def test_the_process_says_no_more_than_the_line(tmp_path):
    """The tables above run inside this process; here is one with its beginning and its end."""
    for argv, status, line in [
        (["--opts", "kv,lineer"], 2, "unknown option 'lineer' (did you mean 'linear'?)"),
        (["--model", "./nowhere"], 1, "no model at './nowhere': there is no such folder or file"),
    ]:
        done = python("-m", "gpt2c.run", *argv, path=INSTALLED, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", f"gpt2c: error: {line}\n")


def test_offline_a_model_that_was_never_fetched_is_one_line(tmp_path):
    optional("huggingface_hub")
    argv = ["-m", "gpt2c.run", "--model", "gpt2"]
    done = python(*argv, path=INSTALLED, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "gpt2c: error: 'gpt2' is not a folder, and cannot be fetched from the Hugging Face hub: the hub "
        "cannot be reached (is the network down, or HF_HUB_OFFLINE set?) and the local cache does not have "
        "it; fetch it once while online, or give a folder\n"
    )


@NEEDS_DEV_FULL
@pytest.mark.parametrize("argv", [["--json"], []], ids=["json", "text"])
def test_output_that_cannot_be_written_is_an_error(tmp_path, argv):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *RUN, *argv],
            env={**os.environ, "PYTHONPATH": str(INSTALLED)},
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=NO_HANG,
        )
    assert done.returncode == 1
    plan, line = done.stderr.splitlines()
    assert plan.startswith("gpt2c: ")
    assert line == "gpt2c: error: No space left on device"
