"""The optimizers of the parameters, and the learning rate of each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class Schedule:
    """A learning rate that rises linearly, stays at `peak`, and falls linearly to 0.

    It rises over the first `n_warmup` steps and falls over the last `n_decay` of `n_steps`. Until the decay
    begins, the rate does not depend on `n_steps`, so a run may be resumed with another value.
    """

    peak: float
    n_steps: int
    n_warmup: int
    n_decay: int

    def rate(self, step: int) -> float:
        """The learning rate of a step: 0, 1, ..."""
        rising = (step + 1) / max(self.n_warmup, 1)
        falling = (self.n_steps - step) / max(self.n_decay, 1)
        return self.peak * min(1.0, rising, falling)


def optimizers(
    model: nn.Module, name: str, weight_decay: float, betas: tuple[float, float]
) -> list[Optimizer]:
    """The optimizers that together step every parameter once.

    "adamw": one AdamW. "muon": Muon for the matrices inside the layers, AdamW for embeddings, biases and
    norms. Muon's updates are scaled to the size of AdamW's, so that both use one rate (Liu et al., "Muon is
    scalable for LLM training", 2025). Weight decay applies to matrices only.
    """
    matrices, inner, vectors = [], [], []
    for path, parameter in model.named_parameters():
        if parameter.ndim != 2:
            vectors.append(parameter)
        elif name == "muon" and path.startswith("h."):
            inner.append(parameter)
        else:
            matrices.append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    made: list[Optimizer] = [AdamW(groups, betas=betas, eps=1e-8, fused=True)]
    if inner:
        made.append(torch.optim.Muon(inner, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return made


def set_rate(made: list[Optimizer], rate: float) -> None:
    """Set the learning rate of the next step."""
    for optimizer in made:
        for group in optimizer.param_groups:
            group["lr"] = rate
