"""Pictures of the ladder, from the record that report.py makes (or its JSON). Needs matplotlib.

python bench/ladder/plots.py bench/results/ladder.json    # draws them again
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PICTURES = {
    "Milliseconds per token, step by step, and the machine's limit": "ladder.png",
    "Where the time of a token goes, step by step": "ladder_operations.png",
}


def pictures() -> dict[str, str]:
    """Files by title; empty without matplotlib (the extra `plot`)."""
    return PICTURES if importlib.util.find_spec("matplotlib") else {}


OPERATIONS = (
    "embed", "ln_1", "qkv", "attention", "attn_proj", "residual",
    "ln_2", "mlp_fc", "gelu", "mlp_proj", "ln_f", "head",
)  # fmt: skip


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """Write the pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for name, fill in zip(PICTURES.values(), (draw_times, draw_operations), strict=True):
        models = list(record["models"].values())
        height = 1.6 + 0.28 * len(models[0]["rungs"])
        figure, axes = pyplot.subplots(1, len(models), figsize=(6.4 * len(models), height), squeeze=False)
        for axis, model in zip(axes[0], models, strict=True):
            fill(axis, model)
            axis.set_title(model["title"], fontsize=10)
            axis.invert_yaxis()
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})
        pyplot.close(figure)


def names(model: Mapping[str, Any]) -> list[str]:
    return [
        "none" if not r["step"] else f"({r['step']})" if r["aside"] else f"+{r['step']}"
        for r in model["rungs"]
    ]


def draw_times(axis: Any, model: Mapping[str, Any]) -> None:
    """Bars of measured times on a logarithmic scale, with minimum and maximum, and a mark at the limit."""
    steps, labels = model["rungs"], names(model)
    places = range(len(steps))
    ms = [r["ms"]["median"] for r in steps]
    below = [r["ms"]["median"] - r["ms"]["min"] for r in steps]
    above = [r["ms"]["max"] - r["ms"]["median"] for r in steps]
    colours = ["#b8c4d6" if r["aside"] else "#3b6ea5" for r in steps]
    axis.barh(places, ms, color=colours, xerr=[below, above], error_kw={"elinewidth": 0.8}, height=0.72)
    limits = [r["limit_ms"] for r in steps]
    axis.scatter(limits, places, marker="|", s=130, color="#c0392b", linewidths=2, zorder=3, label="limit")
    for place, r in zip(places, steps, strict=True):
        text = f" {r['ms']['median']:.3g}"
        axis.text(max(r["ms"]["max"], r["limit_ms"]) * 1.04, place, text, va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(min(limits) / 2, max(ms) * 3)
    axis.set_yticks(list(places), labels, fontsize=8)
    axis.set_xlabel("ms per token, logarithmic; red: reading its bytes or computing at the machine's limit")
    axis.xaxis.label.set_size(8)


def draw_operations(axis: Any, model: Mapping[str, Any]) -> None:
    """Bars of each operation's share of a pass."""
    from matplotlib import colormaps

    steps, labels = model["rungs"], names(model)
    colours = colormaps["tab20"](range(20))
    left = [0.0] * len(steps)
    for colour, operation in zip(colours, OPERATIONS, strict=False):
        shares = [
            100 * r["operations_ms"].get(operation, 0.0) / sum(r["operations_ms"].values()) for r in steps
        ]
        if max(shares) > 0:
            axis.barh(range(len(steps)), shares, left=left, color=colour, label=operation, height=0.8)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axis.set_yticks(range(len(steps)), labels, fontsize=8)
    axis.set_xlim(0, 100)
    axis.set_xlabel("% of one token's pass, in the middle of the text", fontsize=8)
    axis.legend(ncols=6, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.07), frameon=False)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    draw(json.loads(source.read_text()), source.parent)
