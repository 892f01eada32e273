"""tools/train.py: the arithmetic of training is PyTorch's and transformers', a run can be taken up again, and
what it writes loads everywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import VARIANTS
from references import is_installed, optional

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.errors import Gpt2cError

torch, transformers = optional("torch"), optional("transformers")

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

import train  # noqa: E402
from training import optimizers, report  # noqa: E402
from training.data import Windows  # noqa: E402
from training.loop import Settings, Trainer  # noqa: E402
from training.model import GPT2, causal_attention, divergence  # noqa: E402
from training.optimizers import Schedule  # noqa: E402
from training.token_file import write_tokens  # noqa: E402

N = 24  # tokens a window


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as these are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Training flushes them, and must not leave the process so."""
    yield
    assert np.float32(1e-30) * np.float32(1e-10) > 0


@pytest.fixture
def ids() -> np.ndarray:
    """A text with something to learn: each id mostly follows from the one before it."""
    random = np.random.Generator(np.random.PCG64(7))
    found = [5]
    for noise in random.random(4000):
        found.append(int(noise * 1000) % 128 if noise < 0.1 else (found[-1] * 7 + 3) % 128)
    return np.array(found, np.uint16)


def loaded(folder: Path) -> GPT2:
    with load_checkpoint(folder) as checkpoint:
        model = GPT2(checkpoint.config)
        model.load(checkpoint)
    return model


def published_code(folder: Path) -> Any:
    load = transformers.GPT2LMHeadModel.from_pretrained
    model = load(folder, dtype=torch.float32, attn_implementation="eager", attn_pdrop=0, resid_pdrop=0)
    model.transformer.drop.p = 0.0
    return model.train()


def trainer_of(model: GPT2, ids: np.ndarray, folder: Path, **changes: Any) -> Trainer:
    settings = {
        "schedule": Schedule(1e-2, 10, 3, 5), "batch": 4, "optimizer": "adamw", "bf16": False, **changes
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(model, Windows(ids, N, seed=3), Windows(ids, N, seed=3), Settings(**settings), folder)


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_ten_steps_of_adamw_are_those_of_a_plain_loop_over_transformers(
    model_folder: Callable[[str], Path], ids: np.ndarray, tmp_path: Path
) -> None:
    trainer = trainer_of(loaded(model_folder("tiny")), ids, tmp_path, weight_decay=0.1)
    trainer.run()

    theirs = published_code(model_folder("tiny"))
    shapes = [[p for p in theirs.parameters() if (p.ndim == 2) is matrix] for matrix in (True, False)]
    groups = [{"params": shapes[0], "weight_decay": 0.1}, {"params": shapes[1], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    rates = [1 / 3, 2 / 3, 1, 1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]  # 3 steps of warmup, 5 of decay
    expected = []
    for step, rate in enumerate(rates):
        for group in adamw.param_groups:
            group["lr"] = 1e-2 * rate
        fed, targets = Windows(ids, N, seed=3).batch(step, 4)
        loss = torch.nn.functional.cross_entropy(theirs(fed).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        expected.append(loss.item())
    found = losses(tmp_path)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < found[0] - 0.3  # and something was learned


@pytest.mark.parametrize("name", ["tiny", "odd", *VARIANTS])
def test_the_model_computes_what_transformers_does(name: str, model_folder: Callable[[str], Path]) -> None:
    model, theirs = loaded(model_folder(name)), published_code(model_folder(name))
    fed = torch.arange(90).reshape(1, 90) * 5 % model.config.n_vocab
    with torch.no_grad():
        torch.testing.assert_close(model(fed), theirs(fed).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 127, 128, 129, 300])
def test_attention_by_rows_is_torchs_and_so_is_its_gradient(n: int) -> None:
    torch.manual_seed(n)
    ours = [torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    found = causal_attention(*ours, scale=0.3)
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=True, scale=0.3)
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-5)
    (found * found.cos()).sum().backward()
    (expected * expected.cos()).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_a_new_model_starts_as_gpt2_does(model_folder: Callable[[str], Path]) -> None:
    with load_checkpoint(model_folder("tiny")) as checkpoint:
        model = GPT2(checkpoint.config)
    model.initialize(seed=1)
    state = model.state_dict()
    assert float(state["wte.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["h.1.mlp.c_proj.weight"].std()) == pytest.approx(0.02 / 2, rel=0.05)  # sqrt(2 * 2)
    assert not state["h.0.attn.c_attn.bias"].any() and (state["h.0.ln_1.weight"] == 1).all()
    again = GPT2(model.config)
    again.initialize(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), again.state_dict().values(), strict=True))


def test_score_is_the_validation_loss_of_a_window(
    model_folder: Callable[[str], Path], ids: np.ndarray, tmp_path: Path
) -> None:
    trainer = trainer_of(loaded(model_folder("tiny")), ids, tmp_path, valid_windows=1)
    with gpt2c.load(model_folder("tiny")) as model:
        assert trainer.validate() == pytest.approx(model.score(ids[: N + 1].tolist()).nll, rel=1e-5)


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    optimizer: str, model_folder: Callable[[str], Path], ids: np.ndarray, tmp_path: Path
) -> None:
    whole = trainer_of(loaded(model_folder("tiny")), ids, tmp_path / "whole", optimizer=optimizer)
    whole.run()

    def hear(row: dict[str, Any]) -> None:
        if row["step"] == 6:  # lost: the checkpoint is of step 4
            raise KeyboardInterrupt

    stopped = trainer_of(
        loaded(model_folder("tiny")), ids, tmp_path / "parted", optimizer=optimizer, save_every=4
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run(hear)
    resumed = trainer_of(loaded(model_folder("tiny")), ids,
                         tmp_path / "parted", optimizer=optimizer)  # fmt: skip
    resumed.resume()
    assert resumed.step == 4
    resumed.run()
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_may_be_resumed_with_another_end_until_its_decay_begins(
    model_folder: Callable[[str], Path], ids: np.ndarray, tmp_path: Path
) -> None:
    def trainer(folder: str, schedule: Schedule) -> Trainer:
        return trainer_of(
            loaded(model_folder("tiny")), ids, tmp_path / folder, schedule=schedule, save_every=4
        )

    trainer("whole", Schedule(1e-2, 8, 3, 4)).run()
    begun = trainer("parted", Schedule(1e-2, 100, 3, 4))
    with pytest.raises(KeyboardInterrupt):
        begun.run(lambda row: (_ for _ in ()).throw(KeyboardInterrupt) if row["step"] == 5 else None)
    shorter = trainer("parted", Schedule(1e-2, 8, 3, 4))
    shorter.resume()
    shorter.run()
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    with pytest.raises(Gpt2cError, match="other learning rates"):
        trainer("parted", Schedule(1e-2, 20, 3, 4)).resume()
    with pytest.raises(Gpt2cError, match="8 steps are already done"):
        trainer("parted", Schedule(1e-2, 7, 3, 4)).resume()


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(peak=2.0, n_steps=10, n_warmup=4, n_decay=5)
    assert [schedule.rate(step) for step in range(10)] == pytest.approx(
        [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4]
    )
    assert Schedule(peak=3.0, n_steps=2, n_warmup=0, n_decay=0).rate(1) == 3.0


def test_an_epoch_predicts_every_token_once_in_an_order_of_its_own() -> None:
    ids = np.arange(1000, dtype=np.uint16)
    windows = Windows(ids, 10, seed=5)
    n_steps, orders = windows.n_windows // 3, []
    assert windows.n_windows == 99
    for epoch in range(2):
        batches = [windows.batch(epoch * n_steps + step, 3) for step in range(n_steps)]
        assert all(torch.equal(fed[:, 1:], targets[:, :-1]) for fed, targets in batches)
        predicted = torch.cat([targets.flatten() for _, targets in batches]).tolist()
        assert len(set(predicted)) == len(predicted) == 990
        orders.append(predicted)
    assert orders[0] != orders[1]
    fresh = Windows(ids, 10, seed=5)  # asked for a later step first
    assert torch.equal(fresh.batch(40, 3)[0], windows.batch(40, 3)[0])
    assert not torch.equal(Windows(ids, 10, seed=6).batch(0, 3)[0], windows.batch(0, 3)[0])


def test_each_parameter_is_stepped_by_one_optimizer(model_folder: Callable[[str], Path]) -> None:
    model = loaded(model_folder("untied"))
    adamw, muon = optimizers.optimizers(model, "muon", 0.1, (0.9, 0.95))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert by_muon == {n for n in names.values() if n.startswith("h.") and n.endswith(("attn.weight",
                       "proj.weight", "fc.weight"))}  # fmt: skip
    assert sorted([*by_muon, *by_adamw]) == sorted(names.values())
    assert {"wte.weight", "wpe.weight", "lm_head.weight"} < set(by_adamw)


def test_the_divergence_is_that_of_the_formula() -> None:
    random = np.random.Generator(np.random.PCG64(1))
    ours, theirs = random.standard_normal((2, 2, 3, 11))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (theirs, ours))
    expected = (p * np.log(p / q)).sum(-1).mean()
    assert divergence(torch.tensor(ours), torch.tensor(theirs)).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(torch.tensor(ours), torch.tensor(ours)).item() == pytest.approx(0, abs=1e-6)


# The command itself.


@pytest.fixture
def text(tmp_path: Path, ids: np.ndarray) -> Path:
    write_tokens(tmp_path / "text.bin", ids)
    return tmp_path / "text.bin"


def command(text: Path, run: Path, *more: object) -> list[str]:
    fixed = [text, "-o", run, "--valid", text, "--dtype", "f32", "--batch", 4, "--context", N, "--warmup", 2]
    return [str(word) for word in (*fixed, *more)]


def test_the_picture_of_the_loss_is_a_png(tmp_path: Path) -> None:
    optional("matplotlib")
    rows = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.5}, {"step": 2, "valid_loss": 8.7}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.draw_loss(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_a_folder_that_gpt2c_and_transformers_load_alike(
    text: Path, ids: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--shape", "L2-H2-E16-V8192-C32", "--steps", 8, "--lr", 0.02, "--save-as", "f16"]
    assert train.main(command(text, tmp_path / "run", *shape)) == 0
    said = capsys.readouterr().err
    assert "step 8: validation loss" in said and "wrote" in said
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.5
    assert (tmp_path / "run" / "loss.png").exists() == is_installed("matplotlib")
    assert ("no loss.png" in said) != is_installed("matplotlib")
    folder, prompt = tmp_path / "run" / "model", ids[:20].tolist()
    with gpt2c.load(folder) as model, torch.no_grad():
        expected = published_code(folder)(torch.tensor([prompt])).logits[0].numpy()
        np.testing.assert_allclose(model.logits(prompt), expected, rtol=1e-4, atol=1e-4)
        assert model.tokenizer.decode(model.tokenizer.encode("Once upon a time")) == "Once upon a time"
    assert transformers.GPT2TokenizerFast.from_pretrained(folder)("Once")["input_ids"] == [
        *gpt2c.load().tokenizer.encode("Once")
    ]


def test_a_student_comes_near_its_teacher(
    model_folder: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    more = ["--shape", "L1-H2-E16-V128-C64", "--teacher", model_folder("tiny"), "--steps", 30, "--lr", 0.02]
    assert train.main(command(text, tmp_path / "run", *more)) == 0
    found = losses(tmp_path / "run")
    assert found[-1] < 0.8 * found[0]


def test_ctrl_c_ends_a_run_that_can_be_taken_up_again(
    model_folder: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    same = command(text, tmp_path / "run", "--model", model_folder("tiny"), "--decay", 1, "--threads", 1)
    process = subprocess.Popen(
        [sys.executable, str(TOOLS / "train.py"), *same, "--steps", "100000"],
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") > 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    n_done = int(said.split("interrupted after step ")[1].split(";")[0])
    assert "Traceback" not in said
    assert train.main([*same, "--resume", "--steps", str(n_done + 2)]) == 0
    assert len(losses(tmp_path / "run")) == n_done + 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "nowhere/at/all"], "no model at 'nowhere/at/all'"),
        (["--model", "embedded", "--resume"], "holds no run to resume"),
        (["--shape", "L1-H2-E16-V64-C32"], "has the id 127, but the model's vocabulary ends at 63"),
        (["--shape", "L1-H2-E16-V128-C4096", "--context", "4096"], "too few for windows of 4096"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    more: list[str], message: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(command(text, tmp_path / "run", *more)) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "one of --model and --shape"),
        (["--shape", "L1-H2-E16-V128-C32", "--context", "64"], "--context 64 is more than the model's 32"),
        (["--model", "embedded", "--steps", "0"], "'0' is not a whole number from 1"),
        (["--model", "embedded", "--lr", "nan"], "'nan' is not a number"),
        (["--shape", "X"], "unknown shape 'X'"),
        (["--shape", "L1-H2-E16-V128-C32", "--teacher", "embedded"], "--teacher has a vocabulary of 8,192"),
    ],
)
def test_bad_flags_are_said_and_are_status_2(
    more: list[str], message: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(command(text, tmp_path / "run", *more))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--shape", "L1-H2-E16-V128-C32", "--steps", 2]
    assert train.main(command(text, tmp_path / "run", *more)) == 0
    before = sorted((path, os.stat(path).st_mtime_ns) for path in (tmp_path / "run").rglob("*"))
    assert train.main(command(text, tmp_path / "run", *more)) == 1
    assert "the run is complete" in capsys.readouterr().err
    assert sorted((path, os.stat(path).st_mtime_ns) for path in (tmp_path / "run").rglob("*")) == before
    shutil.rmtree(tmp_path / "run" / "model")
    assert train.main(command(text, tmp_path / "run", *more)) == 1
    assert "holds a run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([*command(text, tmp_path / "run", *more), "--resume", "--lr", "0.5"])
    assert "--lr was 0.001 before and is 0.5 now" in capsys.readouterr().err
    assert train.main([*command(text, tmp_path / "run", *more), "--resume"]) == 0  # only the model is missing
    assert (tmp_path / "run" / "model").is_dir() and len(losses(tmp_path / "run")) == 2


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_its_checkpoint(
    model_folder: Callable[[str], Path], ids: np.ndarray, tmp_path: Path
) -> None:
    trainer = trainer_of(loaded(model_folder("tiny")), ids, tmp_path, save_every=2)

    def spoil(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            with torch.no_grad():
                trainer.model.wte.weight.fill_(torch.nan)

    with pytest.raises(Gpt2cError, match="try a smaller --lr"):
        trainer.run(spoil)
    again = trainer_of(loaded(model_folder("tiny")), ids, tmp_path)
    again.resume()
    assert again.step == 2 and len(losses(tmp_path)) == 2
