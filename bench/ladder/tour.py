"""The figures of docs/tour.md, from the record of the ladder.

In the template, {{name argument ...}} is replaced by what the method of that name of `Tour` returns.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2c.config import ModelConfig
from shared.checkout import DOCS, RESULTS
from shared.harness import markdown_table, write_atomic

TEMPLATE = DOCS / "tour.in.md"
RECORD = RESULTS / "ladder.json"
TOUR = DOCS / "tour.md"

Figures = dict[str, Any]


def render(template: str, record: Figures) -> str:
    """The tour. ValueError: a placeholder names no method, or has the wrong number of arguments."""
    tour = Tour(record)

    def fill(found: re.Match[str]) -> str:
        name, *arguments = found[1].split()
        function: Callable[..., str] | None = getattr(tour, name, None) if not name.startswith("_") else None
        if function is None:
            raise ValueError(f"unknown placeholder {found[0]}")
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise ValueError(f"{found[0]}: {error}") from None
        return function(*arguments)

    return re.sub(r"\{\{([^}]*)\}\}", fill, template)


class Tour:
    """Each public method is a placeholder. Its argument for a step is the step's name, or "simd" or "widest"
    (the first and the last instruction set), or "fastest_step"; for a model it is "embedded" or "124M".
    """

    def __init__(self, record: Figures) -> None:
        self._record = record
        self._models: dict[str, Figures] = record["models"]

    # ---- Where figures come from ----

    def origin(self) -> str:
        r = self._record
        machine = r["machine"]
        return (
            f"`{r['command']}` at {r['commit']}, {r['date']}, on {machine['cpu']}, {machine['usable_cores']} "
            f"cores, {machine['system']}"
        )

    def quiet(self) -> str:
        """A warning if the machine was busy."""
        load = self._record["machine"]["load_average"]
        if load <= 0.5:
            return ""
        return (
            f"\n**The machine was not idle at the time (load average {load}): do not quote these figures.**\n"
        )

    def _step(self, model: str, name: str) -> Figures:
        steps: list[Figures] = self._models[model]["rungs"]
        simd = [r for r in steps if r["step"].startswith("simd=")]
        if name in ("simd", "widest"):
            return simd[0 if name == "simd" else -1]
        if name == "fastest_step":
            name = self._models[model]["fastest"]
        return next(r for r in steps if r["name"] == name)

    # ---- Single figures ----

    def ms(self, model: str, name: str) -> str:
        return _ms(self._step(model, name)["ms"]["median"])

    def megabytes(self, model: str, name: str) -> str:
        return f"{self._step(model, name)['n_bytes'] / 1e6:.0f} MB"

    def multiply_adds(self, model: str, name: str) -> str:
        return f"{self._step(model, name)['multiply_adds'] / 1e6:.0f} million"

    def ratio(self, model: str, name: str) -> str:
        return _times(self._step(model, name)["ratio"])

    def fastest(self, model: str) -> str:
        return str(self._models[model]["fastest"])

    def share(self, model: str, name: str) -> str:
        step = self._step(model, name)
        return f"{step['share']:.0%} of what {step['waits_for']} allows"

    def parameters(self, model: str) -> str:
        return f"{ModelConfig(**self._models[model]['config']).n_parameters / 1e6:.1f} million"

    def operation_share(self, model: str, name: str, *operations: str) -> str:
        """The share of some operations in the pass in the middle of the text."""
        spent = self._step(model, name)["operations_ms"]
        return f"{sum(spent.get(op, 0.0) for op in operations) / sum(spent.values()):.0%}"

    # ---- Steps ----

    def steps(self, *names: str) -> str:
        """Estimated and measured gains of steps, on each model."""
        rows = []
        for name in names:
            for model in self._models:
                step = self._step(model, name)
                before = self._step(model, step["before"])
                doubt = " (within the spread)" if step["in_doubt"] else ""
                rows.append(
                    [
                        f"`{step['step']}`" + f" after `{step['before']}`" * step["aside"],
                        model,
                        f"{_ms(before['ms']['median'])} -> {_ms(step['ms']['median'])}",
                        _times(step["estimated_gain"]),
                        _times(step["gain"]) + doubt,
                        f"{step['share']:.0%}, {step['waits_for']}",
                    ]
                )
        return markdown_table(
            ["step", "model", "per token", "estimate", "measured", "of the limit"], rows, left=2
        )

    def formats(self) -> str:
        """`steps` of all weight formats that were measured."""
        steps = next(iter(self._models.values()))["rungs"]
        return self.steps(*(r["name"] for r in steps if r["step"] in ("bf16", "q8", "q4")))

    def table_verdict(self) -> str:
        """The time of GELU by table and by formula, with naive and with vector kernels."""
        return " ".join(self._table_verdicts())

    def _table_verdicts(self) -> Iterator[str]:
        for name, kernels in (("unembed&gelu_table", "naive"), ("threads&gelu_table", "vector")):
            found = []
            for model in self._models:
                step = self._step(model, name)
                table, formula = (
                    r["operations_ms"]["gelu"] * 1e3 for r in (step, self._step(model, step["before"]))
                )
                found.append(f"{formula:.0f} us by formula and {table:.0f} us by table ({model})")
            yield f"With {kernels} kernels, the GELUs of a token take {', '.join(found)}."

    def surprises(self) -> str:
        """Steps whose gain was more than a quarter off the estimate, and steps that lost time."""
        lines = []
        for model, figures in self._models.items():
            for step in figures["rungs"][1:]:
                off = step["gain"] / step["estimated_gain"]
                lost = step["gain"] < 1 and not step["in_doubt"]
                if 0.75 <= off <= 1.25 and not lost:
                    continue
                why = WHY.get(step["step"].partition("=")[0], "")
                lines.append(
                    f"- `{step['step']}`, {model}: {_times(step['gain'])}, estimated "
                    f"{_times(step['estimated_gain'])}. {why}".rstrip()
                )
        return "\n".join(lines) or "None."

    # ---- One token ----

    def one_token(self, model: str) -> str:
        """A sequence diagram of the traced pass. All layers are drawn as one, with mean times."""
        figures = self._models[model]
        step = self._step(model, figures["fastest"])
        ops: list[Figures] = figures["token"]
        n_layer = 1 + max(op["layer"] for op in ops)
        before = [op for op in ops[: len(ops) // 2] if op["layer"] < 0]
        after = [op for op in ops[len(ops) // 2 :] if op["layer"] < 0]
        first = [op for op in ops if op["layer"] == 0]
        whole = (ops[-1]["end_ns"] - ops[0]["begin_ns"]) / 1e3
        lines = [
            "sequenceDiagram",
            "    participant P as session.py",
            "    participant S as session.c",
            "    participant F as forward.c, head.c",
            f"    participant K as kernels ({step['isa']})",
            "    P->>S: feed: 1 id",
            f"    S->>F: 1 row after {first[2]['n_in'] - 1}",
            *(_arrow(op, [op]) for op in before),
            f"    loop each of {n_layer} layers, mean times",
            *(
                "    " + _arrow(op, [o for o in ops if o["name"] == op["name"] and o["layer"] >= 0])
                for op in first
            ),
            "    end",
            *(_arrow(op, [op]) for op in after),
            f"    F-->>S: {whole:.0f} us in total",
            "    S-->>P: the next id",
        ]
        return "```mermaid\n" + "\n".join(lines) + "\n```"


WHY = {
    "aligned": "The inner loop changes, too: it adds to 32 sums side by side instead of one after another.",
    "unroll": "The compiler, not the source, decides which sums stay in registers.",
    "simd": "Above some speed, a token waits for its weights to be read.",
    "threads": "Each operation of a token takes microseconds, and then all threads wait for the last one.",
    "head_screen": "Bounds of all logits are computed, then the candidates: more work than the bytes show.",
    "gelu_table": "A table lookup handles one element at a time, the formula in vectors eight or sixteen.",
    "kv_f16": "K and V are a small part of the bytes of a short text, and each element has to be converted.",
    "bf16": "Half the bytes help only while a token waits for reading them.",
}
"""Other effects of a step, which explain why its gain is off the estimate."""


def _arrow(op: Figures, same: Sequence[Figures]) -> str:
    mean = sum(o["end_ns"] - o["begin_ns"] for o in same) / len(same) / 1e3
    return (
        f"    F->>K: {op['name']}, {op['n_in']} to {op['n_out']}, {_kilobytes(op['n_bytes'])}: {mean:.1f} us"
    )


def _kilobytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"


def _ms(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def _times(factor: float) -> str:
    return f"{factor:.0f}x" if factor >= 100 else f"{factor:.1f}x" if factor >= 10 else f"{factor:.2f}x"


def write(record: Path = RECORD, template: Path = TEMPLATE, to: Path = TOUR) -> None:
    """Write docs/tour.md."""
    write_atomic(to, render(template.read_text(), json.loads(record.read_text())))
