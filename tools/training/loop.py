"""The training loop: steps, validation, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt2c.errors import Gpt2cError, OptionError

from .data import Windows
from .model import GPT2, cross_entropy, divergence
from .optimizers import Schedule, optimizers, set_rate
from .report import Report, read_log

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class Settings:
    """The settings of a run, except for its model and data. The defaults are those of tools/train.py."""

    schedule: Schedule
    batch: int = 16
    optimizer: str = "muon"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    bf16: bool = True
    compile: bool = False
    device: str = "cpu"
    valid_every: int = 250
    valid_windows: int | None = 64
    save_every: int = 250


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers to 0 in the block: in gradients they are slow and do not matter.

    Only for training: when weights are read or written, denormal numbers of half precision matter.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Trainer:
    """Trains a model. `run()` starts at the step that was reached and ends after the schedule's last one.

    folder: where log.jsonl, with one line per step and validation, and checkpoint.pt are written. A run that
    is resumed from checkpoint.pt computes the same numbers as one that was not interrupted (on the same
    machine, with the same number of threads). teacher: the model learns its probabilities instead of the
    text's tokens.
    """

    def __init__(
        self,
        model: GPT2,
        train: Windows,
        valid: Windows | None,
        settings: Settings,
        folder: Path,
        teacher: GPT2 | None = None,
    ) -> None:
        self.model, self.settings, self.step = model.to(settings.device), settings, 0
        self._train, self._valid, self._folder = train, valid, folder
        self._teacher = teacher.to(settings.device).requires_grad_(False) if teacher else None
        self._optimizers = optimizers(model, settings.optimizer, settings.weight_decay, settings.betas)
        self._loss = torch.compile(self._objective) if settings.compile else self._objective
        self._stop = False

    def _logits(self, model: GPT2, ids: Tensor) -> Tensor:
        with torch.autocast(self.settings.device, torch.bfloat16, enabled=self.settings.bf16):
            return model(ids)

    def _objective(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss that is minimized: ids, targets [batch, n] -> a scalar."""
        logits = self._logits(self.model, ids)
        if self._teacher is None:
            return cross_entropy(logits, targets)
        return divergence(logits, self._logits(self._teacher, ids))

    def run(self, report: Report = lambda row: None) -> None:
        """Train to the end or to an interrupt (`stopped_by_interrupt`). report: gets every row of the log."""
        s = self.settings
        with open(self._folder / LOG, "a", encoding="utf-8") as log, _denormals_flushed():

            def note(row: dict[str, Any]) -> None:
                log.write(json.dumps(row) + "\n")
                log.flush()
                report(row)

            while self.step < s.schedule.n_steps and not self._stop:
                note(self._one_step())
                last = self.step == s.schedule.n_steps
                if self._valid and (last or self.step % s.valid_every == 0):
                    note({"step": self.step, "valid_loss": self.validate()})
                if last or self._stop or self.step % s.save_every == 0:
                    self.save()

    def _one_step(self) -> dict[str, Any]:
        s, began = self.settings, time.perf_counter()
        rate = s.schedule.rate(self.step)
        set_rate(self._optimizers, rate)
        ids, targets = (part.to(s.device) for part in self._train.batch(self.step, s.batch))
        loss = self._loss(ids, targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
        row = {"step": self.step + 1, "loss": loss.item(), "rate": rate, "gradient_norm": norm.item()}
        if not math.isfinite(row["loss"] + row["gradient_norm"]):
            values = f"loss {row['loss']}, gradient norm {row['gradient_norm']}"
            raise Gpt2cError(f"step {self.step + 1} is not finite ({values}): try a smaller --lr")
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        n_tokens, seconds = ids.numel(), time.perf_counter() - began
        return {**row, "n_tokens": n_tokens, "tokens_per_s": round(n_tokens / seconds)}

    @torch.no_grad()
    def validate(self) -> float:
        """Mean nats per token over the first windows of the validation text, in order."""
        assert self._valid
        device, total, n = self.settings.device, 0.0, 0
        for ids, targets in self._valid.in_order(self.settings.batch, self.settings.valid_windows):
            logits = self._logits(self.model, ids.to(device))
            total += cross_entropy(logits, targets.to(device)).item() * len(ids)
            n += len(ids)
        return total / n

    @contextmanager
    def stopped_by_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C end `run()` after the current step, with a checkpoint; a second Ctrl-C at once."""

        def stop(signum: int, frame: object) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def save(self) -> None:
        """Write checkpoint.pt whole or not at all."""
        state = {
            "step": self.step,
            "schedule": self.settings.schedule.__dict__,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        partial = self._folder / f".{CHECKPOINT}.partial"
        try:
            torch.save(state, partial)
            os.replace(partial, self._folder / CHECKPOINT)
        except OSError as error:
            raise Gpt2cError(f"cannot write {CHECKPOINT}: {error.strerror or error}") from error

    def resume(self) -> None:
        """Continue from checkpoint.pt; rows of the log after its step are dropped.

        The schedule may have other n_steps and n_decay than before if the rates of the completed steps stay
        the same. Gpt2cError: there is no checkpoint, or it is one of another model; OptionError: the schedule
        does not fit.
        """
        try:
            state = torch.load(self._folder / CHECKPOINT, map_location=self.settings.device)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except OSError as error:
            raise Gpt2cError(
                f"no {CHECKPOINT} to continue from in {str(self._folder)!r}: {error.strerror}"
            ) from None
        except (KeyError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise Gpt2cError(f"{CHECKPOINT} does not belong to this model and optimizer: {reason}") from None
        before, now, self.step = Schedule(**state["schedule"]), self.settings.schedule, state["step"]
        if now.n_steps < self.step:
            raise OptionError(f"--steps {now.n_steps}: {self.step} steps are already done")
        if any(before.rate(step) != now.rate(step) for step in range(self.step)):
            raise OptionError(f"the {self.step} steps that are done had other learning rates")
        rows = [row for row in read_log(self._folder / LOG) if row["step"] <= self.step]
        (self._folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
