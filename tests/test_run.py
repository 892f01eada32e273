"""The command line: what it prints where, and with which exit status it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2c
from gpt2c.cli import arguments, run
from gpt2c.cli import main as cli

INSTALLED = Path(gpt2c.__file__).resolve().parent.parent  # the package that this process tests
NO_HANG = 60  # seconds; far beyond what any of these takes

JSON_KEYS = ["text", "ids", "prompt_ids", "finish_reason", "ttft_ms", "ms_per_token", "tokens_per_s", "plan"]


@pytest.fixture
def gpt2c_run(capsys):
    """Calls the command in this process: (exit status, standard output, standard error)."""

    def call(*argv, main=run.main):
        try:
            status = main(argv)
        except SystemExit as end:  # how argparse ends
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def generated(gpt2c_run):
    """The object that --json prints."""

    def call(*argv):
        status, out, _ = gpt2c_run("--json", *argv)
        assert status == 0
        return json.loads(out)

    return call


def environment(**changes):
    return {**os.environ, "PYTHONPATH": str(INSTALLED), **changes}


def command(*argv, module="gpt2c.run", cwd, **options):
    """The command in a new process."""
    options = {"env": environment(), "capture_output": True, "timeout": NO_HANG, **options}
    return subprocess.run([sys.executable, "-m", module, *argv], cwd=cwd, **options)


def typed(monkeypatch, data):
    """Makes `data` the standard input of this process."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- What it prints ----


def test_standard_output_is_the_prompt_and_the_continuation(gpt2c_run, generated):
    text = generated("--prompt", "The sea", "--max-new-tokens", "6")["text"]
    status, out, _ = gpt2c_run("--prompt", "The sea", "--max-new-tokens", "6")
    assert (status, out) == (0, f"The sea{text}\n")


def test_standard_error_is_the_plan_and_the_speed(gpt2c_run):
    _, _, err = gpt2c_run("--max-new-tokens", "6", "--binding", "cffi", "--opts", "kv,unembed")
    plan, speed = err.splitlines()
    with gpt2c.load(binding="cffi", opts="kv,unembed") as model:
        assert plan == f"gpt2c: {model.plan} binding=cffi"
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"gpt2c: \d+ \+ 6 tokens, finish: length, TTFT {number} ms, {number} ms/token, {number} tokens/s",
        speed,
    )


def test_json_is_one_object_with_exactly_the_documented_keys(gpt2c_run):
    status, out, err = gpt2c_run("--json", "--prompt", "The sea", "--max-new-tokens", "4")
    assert status == 0
    assert out.count("\n") == 1 and out.endswith("\n")
    found = json.loads(out)
    assert list(found) == JSON_KEYS
    assert found["finish_reason"] == "length"
    assert len(found["ids"]) == 4
    assert found["ttft_ms"] > 0 and found["ms_per_token"] > 0 and found["tokens_per_s"] > 0
    with gpt2c.load() as model:
        assert found["text"] == model.tokenizer.decode(found["ids"])
        assert found["prompt_ids"] == model.tokenizer.encode("The sea")
        assert found["plan"] == str(model.plan)
    assert err.startswith(f"gpt2c: {found['plan']} binding=")


def test_json_survives_any_terminal(tmp_path):
    """Text that the terminal's encoding cannot hold arrives all the same."""
    argv = [
        "--json",
        "--prompt",
        "“Señor” 日本",
        "--max-new-tokens",
        "12",
        "--temperature",
        "9",
        "--top-k",
        "0",
    ]
    found = [
        json.loads(command(*argv, cwd=tmp_path, env=environment(PYTHONIOENCODING=encoding)).stdout)
        for encoding in ("utf-8", "ascii")
    ]
    assert found[0]["text"] == found[1]["text"]
    assert not found[0]["text"].isascii()


def test_zero_tokens_print_the_prompt_alone(gpt2c_run):
    status, out, _ = gpt2c_run("--prompt", "The sea", "--max-new-tokens", "0")
    assert (status, out) == (0, "The sea\n")


def test_the_text_is_the_same_every_time_and_another_with_another_seed(generated):
    def text(*argv):
        return generated("--max-new-tokens", "12", *argv)["text"]

    assert text() == text() == text("--seed", "0")
    assert text("--seed", "1") != text()


def test_the_defaults_are_temperature_08_top_k_40_seed_0_and_50_tokens(generated):
    with gpt2c.load() as model:
        expected = model.generate(arguments.DEFAULT_PROMPT, temperature=0.8, top_k=40, seed=0)
        assert generated()["ids"] == expected.ids
    assert len(expected.ids) == 50


def test_temperature_0_is_greedy(generated):
    with gpt2c.load() as model:
        expected = model.generate("The sea", 8)
    assert (
        generated("--prompt", "The sea", "--max-new-tokens", "8", "--temperature", "0")["ids"] == expected.ids
    )


def test_every_number_reaches_the_sampler(generated):
    flags = {
        "temperature": 1.7,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.4,
        "seed": 11,
    }
    argv = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with gpt2c.load() as model:
        expected = model.generate("The sea", 10, **flags)
    assert generated("--prompt", "The sea", "--max-new-tokens", "10", *argv)["ids"] == expected.ids


def test_the_bindings_write_the_same_text(generated, binding):
    argv = ["--prompt", "The sea", "--max-new-tokens", "10"]
    assert generated(*argv, "--binding", binding)["text"] == generated(*argv)["text"]


def test_every_instruction_set_of_this_machine_runs(generated):
    for isa in gpt2c.build_info()["isas_supported"]:
        found = generated("--max-new-tokens", "2", "--isa", isa)
        assert f"isa={isa}" in found["plan"].split()


def test_stop_strings_end_the_text(generated):
    whole = generated("--prompt", "The sea", "--max-new-tokens", "20", "--temperature", "0")["text"]
    first, second = whole[9:12], whole[4:6]
    for argv in (["--stop", first, second], ["--stop", first, "--stop", second]):
        found = generated("--prompt", "The sea", "--max-new-tokens", "20", "--temperature", "0", *argv)
        assert found["text"] == min(whole.split(first)[0], whole.split(second)[0], key=len)
        assert found["finish_reason"] == "stop"


# ---- Where the prompt comes from ----


def test_a_prompt_comes_from_a_file_or_standard_input_to_the_byte(gpt2c_run, monkeypatch, tmp_path):
    prompt = "Ein Märchen,\r\n  “so”\n"
    file = tmp_path / "prompt.txt"
    file.write_bytes(prompt.encode())
    for source in (["--prompt", prompt], ["--prompt-file", str(file)], ["--prompt-file", "-"], ["-"]):
        typed(monkeypatch, prompt.encode())
        status, out, _ = gpt2c_run("--max-new-tokens", "0", *source)
        assert (status, out) == (0, prompt + "\n")


def test_a_prompt_that_is_not_utf8_is_repaired_with_a_note(gpt2c_run, monkeypatch, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"caf\xe9 and")
    typed(monkeypatch, b"caf\xe9 and")
    argument = os.fsdecode(b"caf\xe9 and")  # what Python makes of such an argument
    for source in (["--prompt-file", str(file)], ["-"], ["--prompt", argument]):
        status, out, err = gpt2c_run("--max-new-tokens", "0", *source)
        assert (status, out) == (0, "caf\ufffd and\n")
        assert err.splitlines()[0] == "gpt2c: the prompt is not valid UTF-8; invalid bytes were replaced"


def test_the_real_standard_input_and_output_carry_bytes(tmp_path):
    done = command("-", "--max-new-tokens", "0", input="né\r\n".encode(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "né\r\n\n".encode())


# ---- Exit statuses ----


@pytest.mark.parametrize("main", [run.main, cli.main])
def test_version_and_help_end_well(gpt2c_run, main):
    assert gpt2c_run("--version", main=main) == (0, f"gpt2c {gpt2c.__version__}\n", "")
    status, out, err = gpt2c_run("--help", main=main)
    assert (status, err) == (0, "")
    assert out.startswith("usage: ")


@pytest.mark.parametrize("argv", [[], *([name] for name in cli.COMMANDS)], ids=lambda argv: "".join(argv))
def test_help_says_what_a_command_does_and_names_every_option_that_it_takes(gpt2c_run, argv):
    _, out, _ = gpt2c_run(*argv, "--help", main=cli.main if argv else run.main)
    _, description, _ = out.split("\n\n", 2)
    assert re.fullmatch(r"[A-Z].*\.", description, re.DOTALL)
    assert ("--opts" in out) == (argv not in (["quantize"], ["convert"], ["download"]))
    lists_options = not argv or argv[0] in ("run", "chat", "compare")
    for option in gpt2c.OPTIONS:
        assert bool(re.search(rf"^  {option.name} +\S", out, re.MULTILINE)) == lists_options


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--max-new-tokens", "0"], 0),
        (["--no-such-flag"], 2),
        (["--max-new-tokens", "many"], 2),
        (["--opts", "nonsense"], 2),
        (["--temperature", "-1"], 2),
        (["--model", "./nowhere"], 1),
        (["--prompt", ""], 1),
    ],
)
def test_the_exit_status_of_the_process(tmp_path, argv, status):
    done = command(*argv, cwd=tmp_path, text=True)
    assert done.returncode == status
    if status:
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_no_crash(tmp_path, closed):
    """As a shell does with `<&-`, `>&-` and `2>&-`."""
    number = ["stdin", "stdout", "stderr"].index(closed)
    argv = ["-"] if closed == "stdin" else ["--json", "--max-new-tokens", "2"]
    close = [sys.executable, "-c", f"import os, sys; os.close({number}); os.execv(sys.argv[1], sys.argv[1:])"]
    done = subprocess.run(
        [*close, sys.executable, "-m", "gpt2c.run", *argv],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        timeout=NO_HANG,
        text=True,
    )
    assert done.returncode == (1 if closed == "stdin" else 0)
    assert "Traceback" not in done.stderr
    if closed == "stdin":
        assert done.stderr == "gpt2c: error: the prompt is empty: at least one token is needed\n"
    elif closed == "stdout":
        assert done.stdout == ""
    else:
        assert list(json.loads(done.stdout)) == JSON_KEYS


# ---- Interrupted ----


def start(*argv, cwd, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [sys.executable, "-m", "gpt2c.run", *argv], env=environment(), cwd=cwd, text=True, **options
    )


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_reader_that_goes_away_ends_it_without_a_word(tmp_path, both):
    """As with `| head -c 5` and `2>&1 | head -c 5`."""
    stderr = subprocess.STDOUT if both else subprocess.PIPE
    with start("--max-new-tokens", "400", "--prompt", "The sea", cwd=tmp_path, stderr=stderr) as process:
        assert process.stdout.read(5) == ("gpt2c" if both else "The s")
        process.stdout.close()
        assert process.wait(NO_HANG) == 1
        if not both:
            [plan] = process.stderr.read().splitlines()
            assert plan.startswith("gpt2c: ")


@pytest.mark.parametrize("streaming", [False, True], ids=["in a long prompt", "while it writes"])
def test_ctrl_c_ends_it_in_one_line(tmp_path, binding, streaming):
    words = 3 if streaming else 150
    prompt = "the sea and " * words
    argv = ["--opts", "none", "--binding", binding, "--prompt", prompt, "--max-new-tokens", "450"]
    with start(*argv, cwd=tmp_path) as process:
        assert process.stderr.readline().startswith("gpt2c: ")
        process.stdout.read(len(prompt) + (10 if streaming else 0))  # the work has begun
        process.send_signal(signal.SIGINT)
        assert process.wait(NO_HANG) == 1
        assert process.stderr.read().split("\n") == ["", "gpt2c: interrupted", ""]


# ---- The gpt2c command ----


def test_the_gpt2c_command_runs_as_gpt2c_run_does(gpt2c_run):
    argv = ["--prompt", "The sea", "--max-new-tokens", "6"]
    status, out, _ = gpt2c_run("run", *argv, main=cli.main)
    assert (status, out) == gpt2c_run(*argv)[:2]


def test_info_says_what_is_installed_and_what_the_model_is(gpt2c_run, binding):
    status, out, err = gpt2c_run("info", "--binding", binding, main=cli.main)
    assert (status, err) == (0, "")
    found = dict(line.split(None, 1) for line in out.splitlines())
    assert found["gpt2c"] == gpt2c.__version__
    assert found["binding"].startswith(f"{binding} (built: ")
    for isa in gpt2c.build_info()["isas_compiled"]:
        assert isa in found["isa"]
    assert found["model"] == "embedded"
    assert found["shape"] == "n_layer=8 n_head=4 n_embd=256 n_inner=1024 n_ctx=512 n_vocab=8192"
    assert found["parameters"] == "8,546,816"
    assert found["plan"].startswith("opts=")


def test_info_of_another_model(gpt2c_run, model_folder):
    status, out, _ = gpt2c_run("info", "--model", str(model_folder("tiny")), main=cli.main)
    assert status == 0
    assert f"model        {model_folder('tiny')}\n" in out
    assert "n_ctx=128" in out


def test_python_m_gpt2c_is_the_gpt2c_command(tmp_path):
    done = command("run", "--max-new-tokens", "0", module="gpt2c", cwd=tmp_path, text=True)
    assert (done.returncode, done.stdout) == (0, arguments.DEFAULT_PROMPT + "\n")
    assert command("info", module="gpt2c", cwd=tmp_path).returncode == 0
    done = command(module="gpt2c", cwd=tmp_path, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: gpt2c ")
    for argv in (["dance"], ["run", "--no-such-flag"]):
        done = command(*argv, module="gpt2c", cwd=tmp_path, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"gpt2c: error: .*\(see --help\)\n", done.stderr)


# ---- Drafts, and a context that is full ----


def test_a_draft_gives_the_same_text_and_says_how_its_guesses_held(gpt2c_run, tmp_path):
    plain = gpt2c_run("--max-new-tokens", "40")
    embedded = str(Path(gpt2c.__file__).parent / "assets")
    for draft in (["ngram"], [embedded], [embedded, "--num-assistant-tokens", "3"]):
        status, out, err = gpt2c_run("--max-new-tokens", "40", "--draft", *draft)
        assert (status, out) == plain[:2]
        assert re.search(r"^gpt2c: \d+ of \d+ guesses right, \d+ passes for 40 tokens$", err, re.MULTILINE)


def test_a_context_that_slides_goes_on_and_says_what_was_dropped(gpt2c_run):
    status, _, err = gpt2c_run("--max-new-tokens", "600", "--overflow", "slide", "--temperature", "0")
    assert status == 0
    assert "gpt2c: 5 + 600 tokens, finish: length" in err
    assert "gpt2c: the context was full: 257 tokens were dropped\n" in err


def test_the_settings_of_transformers_are_flags_too(generated):
    plain = generated("--temperature", "0", "--max-new-tokens", "40")
    other = generated("--temperature", "0", "--max-new-tokens", "40", "--no-repeat-ngram-size", "2")
    pairs = list(zip(other["ids"], other["ids"][1:], strict=False))
    assert len(set(pairs)) == len(pairs)
    assert other["ids"] != plain["ids"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--overflow", "wrap"], "overflow must be 'error' or 'slide', not 'wrap'"),
        (["--num-assistant-tokens", "0"], "num_assistant_tokens must be an integer from 1 to 64, not 0"),
        (["--num-assistant-tokens", "4"], "num_assistant_tokens needs a draft, and none is given"),
        (["--min-new-tokens", "-1"], "min_new_tokens must be an integer >= 0, not -1"),
    ],
)
def test_settings_out_of_their_range_are_a_line_and_status_2(gpt2c_run, argv, line):
    assert gpt2c_run(*argv) == (2, "", f"gpt2c: error: {line}\n")
