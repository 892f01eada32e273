"""The pictures of the quantization report. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COLOURS = {"f32": "#4c5a67", "bf16": "#7d93a6", "q8": "#2a9d8f", "q4": "#e07a3f"}


def draw(record: Mapping[str, Any], folder: Path, slug_of: Callable[[Mapping[str, Any]], str]) -> None:
    """Write all pictures for which the record has figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)

    def picture(name: str, fill: Callable[[Any, Mapping[str, Any]], None], model: Mapping[str, Any]) -> None:
        figure, axis = pyplot.subplots(figsize=(6.4, 3.8))
        fill(axis, model)
        axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / f"{slug_of(model)}-{name}.png", dpi=110, metadata={"Software": None})
        pyplot.close(figure)

    for model in record.get("accuracy", {}).get("models", ()):
        picture("errors", errors, model)
    for model in record.get("timing", {}).get("models", ()):
        for name, fill in (
            ("memory", memory),
            ("decode", decode),
            ("prefill", prefill),
            ("trade-off", trade),
        ):
            picture(name, fill, model)


def errors(axis: Any, model: Mapping[str, Any]) -> None:
    """Relative errors, with a group of bars for each kind of matrix."""
    names = list(model["weights"])
    kinds = [row["kind"].removesuffix(".weight") for row in model["weights"][names[0]]]
    width = 0.8 / len(names)
    shades = ["#2a9d8f", "#8fd0c7", "#17645b", "#e07a3f", "#f0b48f", "#a63d40"]
    for i, name in enumerate(names):
        heights = [100 * row["relative"] for row in model["weights"][name]]
        at = [k + (i - (len(names) - 1) / 2) * width for k in range(len(kinds))]
        axis.bar(at, heights, width * 0.92, label=name, color=shades[i % len(shades)])
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set_yscale("log")
    axis.set_ylabel("error relative to the weights, %")
    axis.set_title(f"Rounding errors of the weights: {model['title'].partition(',')[0]}", fontsize=10)
    axis.set_ylim(0.1, 100)
    axis.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axis.legend(fontsize=8, ncols=3, frameon=False, loc="upper center")


def memory(axis: Any, model: Mapping[str, Any]) -> None:
    names = list(model["bytes"])
    heights = [model["bytes"][name] / 1e6 for name in names]
    bars = axis.bar(names, heights, color=[COLOURS[name] for name in names])
    axis.bar_label(
        bars, [f"{h:.0f} MB\n{h * 1e6 / model['floats']:.3f}" for h in heights], fontsize=9, padding=2
    )
    axis.set_ylim(0, heights[0] * 1.2)
    axis.set_ylabel("MB")
    axis.set_title(f"Weights in memory, relative to 4 bytes per parameter: {model['title']}", fontsize=10)


def decode(axis: Any, model: Mapping[str, Any]) -> None:
    lengths = list(model["decode"])
    names = list(model["decode"][lengths[0]])
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        rows = [model["decode"][n][name] for n in lengths]
        heights = [1e3 / row["median"] for row in rows]
        spread = [
            [h - 1e3 / row["max"] for h, row in zip(heights, rows, strict=True)],
            [1e3 / row["min"] - h for h, row in zip(heights, rows, strict=True)],
        ]
        at = [k + (i - (len(names) - 1) / 2) * width for k in range(len(lengths))]
        axis.bar(at, heights, width * 0.92, yerr=spread, label=name, color=COLOURS[name], ecolor="#555555")
    axis.set_xticks(range(len(lengths)), [f"{n} tokens" for n in lengths])
    axis.set_ylabel("tokens per second")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.2)
    axis.set_title(f"Decoding: {model['title']}", fontsize=10)
    axis.legend(fontsize=8, ncols=4, frameon=False, loc="upper center")


def prefill(axis: Any, model: Mapping[str, Any]) -> None:
    lengths = [int(n) for n in model["prefill"]]
    for name in model["prefill"][str(lengths[0])]:
        rows = [model["prefill"][str(n)][name] for n in lengths]
        axis.plot(lengths, [row["median"] for row in rows], "o-", label=name, color=COLOURS[name])
        low, high = [row["min"] for row in rows], [row["max"] for row in rows]
        axis.fill_between(lengths, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [str(n) for n in lengths])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("tokens in the prompt")
    axis.set_ylabel("tokens per second")
    axis.set_title(f"Prefill: {model['title']}", fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def trade(axis: Any, model: Mapping[str, Any]) -> None:
    """A point for each format: memory and speed."""
    longest = list(model["decode"].values())[-1]
    for name, row in longest.items():
        x, y = model["bytes"][name] / 1e6, 1e3 / row["median"]
        axis.plot([x], [y], "o", markersize=9, color=COLOURS[name])
        axis.annotate(name, (x, y), textcoords="offset points", xytext=(9, 4), fontsize=9)
    axis.set_xlim(0, max(model["bytes"].values()) / 1e6 * 1.15)
    axis.set_ylim(0, axis.get_ylim()[1] * 1.15)
    axis.set_xlabel("MB of weights")
    axis.set_ylabel("tokens per second, decoding")
    axis.set_title(f"Memory and speed: {model['title']}", fontsize=10)
