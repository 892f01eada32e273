"""`--compare`: a row for every backend, whether it runs or not, and every row is true."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from other_formats import write_gguf
from references import optional
from test_backends import EVERY, ROUNDING
from test_reference import oracle

import gpt2c
from gpt2c import backends
from gpt2c.backends import Choices
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.cli import comparison as compare_module
from gpt2c.cli import main as cli
from gpt2c.cli import run
from gpt2c.cli.comparison import Comparison, Row, as_table, compare
from gpt2c.cli.comparison_worker import Request, Result, logits_of, measure

KEYS = [
    "backend",
    "status",
    "reason",
    "text",
    "tokens_per_s",
    "ms_per_token",
    "ttft_ms",
    "load_s",
    "peak_mb",
    "same_text",
]
NUMBERS = KEYS[4:9]


class Silent:
    """No progress, but a record of it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, backend: str) -> None:
        self.told.append(f"begin {backend}")

    def end(self, row: Row) -> None:
        self.told.append(f"end {row.backend}")


def compared(*names: str, n: int = 4, **settings: object) -> Comparison:
    arguments = {"model": None, "prompt": "The sea", "choices": Choices(), "progress": Silent(), **settings}
    return compare(max_new_tokens=n, names=names, **arguments)


# ---- What the rows say ----


def test_the_subcommand_is_the_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "names", lambda: ("native", "c_kv"))
    for main, argv in ((run.main, ["--compare", "--temperature", "0"]), (cli.main, ["compare"])):
        assert main([*argv, "--prompt", "The sea", "--max-new-tokens", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3 and {line.split()[0] for line in lines[1:]} == {"native", "c_kv"}


def test_the_json_has_a_row_for_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--compare", "--json", "--prompt", "The sea", "--max-new-tokens", "3"]
    assert run.main(argv) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    found = json.loads(out)
    assert list(found) == ["prompt", "rows"] and found["prompt"] == "The sea"
    assert sorted(row["backend"] for row in found["rows"]) == sorted(backends.names())
    assert all(list(row) == KEYS for row in found["rows"])
    with gpt2c.load() as model:
        expected = model.generate("The sea", 3).text
    installed = {parameter.values[0] for parameter in EVERY if not parameter.marks[0].args[0]}
    for row in found["rows"]:
        if row["backend"] in installed:
            assert row["status"] == "ok" and (row["text"] == expected) == row["same_text"]
            assert row["same_text"] or row["backend"] in ROUNDING or row["reason"].startswith("a tie")
            assert all(row[key] > 0 for key in NUMBERS)
        else:
            assert row["status"] == "missing" and "pip install" in row["reason"]
            assert all(row[key] is None for key in ["text", *NUMBERS, "same_text"])
    assert len(err.splitlines()) == len(found["rows"]), "a line of progress each"


def test_rows_are_sorted_by_speed_and_those_that_did_not_run_come_last() -> None:
    done = compared("c_naive", "native", "numpy", n=20)
    speeds = [row.tokens_per_s for row in done.rows]
    assert speeds == sorted(speeds, reverse=True)
    assert done.rows[-1].backend == "c_naive"
    assert done.reference == "c_naive", "the first that ran"
    assert set(done.logit_differences) == {"c_naive", "native", "numpy"}
    assert 0 < done.logit_differences["numpy"] < 1e-4


def test_the_table_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    lines = as_table(compared("native", "numpy")).splitlines()
    assert lines[0].split("  ")[0] == "backend" and lines[0].endswith("logit diff  same text")
    assert {line.split()[0] for line in lines[1:]} == {"native", "numpy"}
    assert all(line.endswith("yes") for line in lines[1:])


def test_a_prompt_is_read_with_the_vocabulary_of_the_weight_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", EMBEDDED_MODEL, vocabulary=True)
    with gpt2c.load() as model:
        expected = model.generate("The sea", 4).text
    assert compared("native", model=str(tmp_path / "model.gguf")).rows[0].text == expected


def test_progress_is_reported_before_and_after_each() -> None:
    silent = Silent()
    compared("native", "numpy", progress=silent)
    assert silent.told == ["begin native", "end native", "begin numpy", "end numpy"]


class Terminal(io.StringIO):
    """A standard error that is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_lines_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    optional("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with compare_module.progress_display(2) as progress:
        progress.begin("native")
        progress.end(Row("native", "ok", tokens_per_s=12.0))
        progress.begin("torch")
        progress.end(Row("torch", "failed", "killed by [SIGABRT]"))
    shown = terminal.getvalue()
    assert "gpt2c: native: 12.0 tokens/s" in shown and "gpt2c: torch: failed: killed by [SIGABRT]" in shown
    assert "\x1b[" in shown, "something was drawn"


def test_without_rich_or_a_terminal_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with compare_module.progress_display(1) as progress:
        progress.begin("native")
        progress.end(Row("native", "missing", "not here"))
    assert capsys.readouterr().err == "gpt2c: 1 of 1: native: missing: not here\n"


def test_a_backend_runs_in_a_new_process_and_only_its_memory_counts() -> None:
    ballast = np.ones(300 << 20, np.uint8)  # of this process, which starts the others
    [row] = compared("numpy").rows
    assert row.peak_mb is not None and 35 < row.peak_mb < ballast.nbytes / 1e6


def test_threads_reach_every_backend_and_other_flags_the_native_row_only() -> None:
    choices = Choices(opts="kv", isa="ref", threads=3, binding="cffi")
    options = {name: compare_module._choices_of(name, choices) for name in backends.names()}
    assert options["native"] == {
        "weights": None,
        "opts": "kv",
        "threads": 3,
        "isa": "ref",
        "binding": "cffi",
    }
    assert options["c_simd"] == options["c_kv2"] == {"threads": 3}
    assert options["c_naive"] == options["numpy"] == {}
    assert compared("native", choices=choices).rows[0].status == "ok"


def test_a_model_without_a_vocabulary_is_fed_the_prompts_bytes(model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("tiny")
    done = compared("native", "numpy", model=str(folder))
    assert [row.same_text for row in done.rows] == [True, True]
    assert {row.text for row in done.rows} == {""}
    ids = list(b"The sea")
    result = measure(Request(str(folder), "numpy", {}, ids, 2))
    assert np.abs(logits_of(result) - oracle(folder, ids)[-1]).max() < 1e-4


# ---- Where texts part ----


def judged(monkeypatch: pytest.MonkeyPatch, tie: float) -> Row:
    monkeypatch.setattr(compare_module, "TIE", tie)
    ids = [5, 7, 9]

    def result(new: list[int]) -> Result:
        return Result(0, "", new, 0, 0, 0, "")

    results = {"native": result(ids), "numpy": result([5, 7, 8])}
    reference = Request("", "native", {}, [1], 0)

    def logits_after(request: Request, threads: int | None) -> tuple[str, dict[str, object]]:
        assert request.prompt_ids == [1, 5, 7]
        return "ok", measure(
            Request(str(gpt2c.checkpoints.hub.EMBEDDED_MODEL), "native", {}, [1, 5, 7], 0)
        ).__dict__

    monkeypatch.setattr(compare_module, "_ask", logits_after)
    return compare_module._judged(Row("numpy", "ok"), results, reference, None)


def test_a_first_difference_between_logits_that_are_close_is_a_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    row = judged(monkeypatch, tie=1e9)
    assert row.same_text is False
    assert row.reason.startswith("a tie: differs at new token 3, where native's two best logits are ")


def test_a_first_difference_elsewhere_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    row = judged(monkeypatch, tie=0.0)
    assert row.same_text is False
    assert row.reason.startswith("no tie: differs at new token 3")


# ---- Engines that do not run ----


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("raise ImportError('no such library')", "missing", "no such library"),
        ("import os; os.abort()", "failed", "killed by SIGABRT"),
        ("import sys; print('out of luck', file=sys.stderr); sys.exit(7)", "failed", "status 7: out of luck"),
        ("raise RuntimeError('wrong driver')", "failed", "RuntimeError: wrong driver"),
        ("print('a library that chats')\nraise ImportError('and fails')", "missing", "and fails"),
    ],
)
def test_a_backend_that_does_not_run_is_a_row_with_its_reason(
    code: str, status: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    done = compared("native", "torch")
    good, bad = done.rows
    assert (good.backend, good.status, good.same_text) == ("native", "ok", True)
    assert (bad.backend, bad.status, bad.text, bad.tokens_per_s) == ("torch", status, None, None)
    assert reason in bad.reason and "\n" not in bad.reason
    table = as_table(done).splitlines()
    assert table[2].split() == ["torch", status]
    assert reason in table[3]


def test_when_none_runs_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no such library')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(gpt2c.Gpt2cError, match=r"no backend ran: torch: .*no such library"):
        compared("torch")


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--model", "./nowhere"], 1),
        (["--prompt", ""], 1),
        (["--prompt", "a " * 5000], 1),
        (["--max-new-tokens", "0"], 2),
        (["--opts", "nonsense"], 2),
        (["--backend", "numpy"], 2),
    ],
)
def test_what_is_wrong_for_all_is_said_once(
    argv: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--compare", *argv]) == status
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1


@pytest.mark.parametrize("argv", [["--temperature", "0.5"], ["--trace-file", "t.json"], ["--stop", "x"]])
def test_a_flag_that_would_be_passed_over_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--compare", *argv]) == 2
    assert capsys.readouterr() == ("", f"gpt2c: error: --compare is greedy and does not take {argv[0]}\n")
