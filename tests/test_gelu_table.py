"""How far the table may move the logits: a bound derived from each operation, held on real ones.

In a model of one layer, a run with the table and one with the formula differ from GELU on. For each element
of an activation, `e` bounds the difference:
  GELU       the table's own error, 2.13 * 2^-11 |x| + 2^-24 (native/gelu_table.h), where |gelu'| <= 1.13
  linear     e |W|: the triangle inequality
  residual   the stream before it is the same in both, so e is unchanged
  norm       c = x - mean moves by at most e + mean(e), and the deviation s by at most |e| / sqrt(n);
             |c'/s' - c/s| <= |c' - c| / s' + |c| |s' - s| / (s s')
All on the float64 oracle's activations; float32 rounding of the two runs is added. (In a deeper
model the same steps hold, but the worst case multiplies from layer to layer and soon says nothing.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from instruction_sets import every_set
from models import PROMPTS

import gpt2c
from gpt2c import reference
from gpt2c.checkpoints.checkpoint import load_checkpoint

ROUNDING = 1e-4  # of the two runs, as compared with transformers
Bounded = tuple[np.ndarray, np.ndarray]  # an activation, and e


def table_error(x: np.ndarray) -> np.ndarray:
    return 2.13 * 2.0**-11 * np.abs(x) + 2.0**-24


def norm_error(x: np.ndarray, e: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    s = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    ds = np.sqrt((e**2).mean(-1, keepdims=True))
    assert (ds < s).all(), "the bound has become larger than the signal"
    moved = (e + e.mean(-1, keepdims=True)) / (s - ds) + np.abs(centred) * ds / (s * (s - ds))
    return moved * np.abs(weight)


def bound_on_logits(folder: Path, ids: Sequence[int]) -> np.ndarray:
    with load_checkpoint(folder) as checkpoint:
        c, p = checkpoint.config, reference.parameters(checkpoint)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ p[f"h.0.{name}.weight"] + p[f"h.0.{name}.bias"]

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return reference.layernorm(x, p[f"{name}.weight"], p[f"{name}.bias"], c.layer_norm_epsilon)

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(ids), c.n_head, -1).swapaxes(0, 1)

    x = p["wte.weight"][list(ids)] + p["wpe.weight"][: len(ids)]
    q, k, v = np.split(linear(normed(x, "h.0.ln_1"), "attn.c_attn"), 3, axis=-1)
    x = x + linear(
        reference.attention(heads(q), heads(k), heads(v)).swapaxes(0, 1).reshape(x.shape), "attn.c_proj"
    )
    before_gelu = linear(normed(x, "h.0.ln_2"), "mlp.c_fc")
    x = x + linear(reference.gelu(before_gelu), "mlp.c_proj")

    e = table_error(before_gelu) @ np.abs(p["h.0.mlp.c_proj.weight"])
    e = norm_error(x, e, p["ln_f.weight"], c.layer_norm_epsilon)
    return e @ np.abs(p["wte.weight"]).T


@every_set()
def test_the_table_moves_the_logits_by_no_more_than_its_bound(
    isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    ids = PROMPTS["calm"][2]
    folder = model_folder("calm")
    bound = bound_on_logits(folder, ids)
    with gpt2c.load(folder, isa=isa, binding=binding) as formula:
        by_formula = formula.logits(ids)
    with gpt2c.load(folder, opts="all,gelu_table", isa=isa, binding=binding) as table:
        moved = np.abs(table.logits(ids) - by_formula)
    assert (moved <= bound + ROUNDING).all()
    assert moved.max() > ROUNDING, "the table changed nothing: is it used at all?"
    assert bound.max() < np.abs(by_formula).max() / 4, "a bound this wide proves nothing"


def test_the_tables_own_error_is_as_stated_at_every_half_and_between() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = np.sort(halves[np.isfinite(halves)].astype(np.float64))
    x = np.concatenate([x, (x[1:] + x[:-1]) / 2, x[1:] - (x[1:] - x[:-1]) * 0.499])
    error = np.abs(reference.gelu_table(x) - reference.gelu(x))
    assert (error <= table_error(x)).all()
