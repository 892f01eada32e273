"""The tables of bench/engines_report.py, as Markdown."""

from __future__ import annotations

from typing import Any

from shared import harness

NAMES = {
    "ctranslate2": "CTranslate2",
    "llamacpp": "llama.cpp",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch-compile": "torch.compile",
}
WHAT = {
    "decode": "decode, per token",
    "decode900": "decode after 900 tokens, per token",
    "prefill": "prefill of 512 tokens",
    "batch32": "batch of 32, per token",
}


def name_of(spec: str) -> str:
    engine, precision = spec.split(":")
    return f"{NAMES[engine]} {precision}"


def page(record: dict[str, Any]) -> str:
    """The Markdown page of a record."""
    times = [
        (
            f"{WHAT[r['what']]}{', one thread' if r['threads'] == 1 else ''}",
            r["ours"],
            name_of(r["theirs"]),
            f"{r['a_ms']:.3g}",
            f"{r['b_ms']:.3g}",
            f"{r['a_over_b']:.2f}",
            "{0:.2f}..{2:.2f}".format(*r["pairs_min_median_max"]),
        )
        for r in record["times"]
    ]
    memory = [
        (
            r["ours"],
            name_of(r["theirs"]),
            *(f"{spread.median:.0f}" for spread in r["peak_mb"]),
            f"{r['peak_mb'][0].median / r['peak_mb'][1].median:.2f}",
            *(f"{spread.median:.2f}" for spread in r["start_s"]),
        )
        for r in record["memory"]
    ]
    remarks = [
        "A ratio below 1 means that gpt2c takes less. For each line, the other engine is the fastest that "
        "was found for that figure and precision among transformers, torch.compile, CTranslate2, llama.cpp, "
        "ONNX Runtime and OpenVINO.",
        f"Both engines are measured alternately, {record['rounds']} times. The tables give medians and the "
        "ratio of the medians. min..max are the extreme ratios of single pairs of measurements: the "
        "narrower, the more reliable the ratio.",
        "kv16: K and V in half precision.",
        *record["origin"].lines(),
    ]
    times_header = ("", "gpt2c", "other engine", "gpt2c, ms", "other, ms", "ratio", "min..max")
    memory_header = ("gpt2c", "other engine", "gpt2c, MiB", "other, MiB", "ratio", "gpt2c, s", "other, s")
    tables = [harness.markdown_table(times_header, times, left=3)]
    if memory:
        tables.append(harness.markdown_table(memory_header, memory, left=2))
        remarks.insert(
            2,
            "Memory: peak of the process after a context of 900 tokens. Seconds: import and load. Medians of "
            f"{record['memory_rounds']} runs, alternately.",
        )
    return "\n\n".join(["# Compared with other engines", *tables, harness.bullets(remarks)]) + "\n"
