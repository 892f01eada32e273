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
    "decode": "decode, a token",
    "decode900": "decode at 900 tokens, a token",
    "prefill": "prefill of 512",
    "batch32": "32 sequences, a token of one",
}


def name_of(spec: str) -> str:
    engine, precision = spec.split(":")
    return f"{NAMES[engine]} {precision}"


def page(record: dict[str, Any]) -> str:
    """Markdown of a record."""
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
        "Below 1 gpt2c takes less. The other is, for each line, the fastest found for that figure in that "
        "precision among transformers, torch.compile, CTranslate2, llama.cpp, ONNX Runtime and OpenVINO.",
        f"Both are asked in turn, {record['rounds']} times: medians, the ratio of the medians, and the least "
        "and the most of the pairs' ratios, which say how far to trust it.",
        "kv16: K and V in half precision.",
        *record["origin"].lines(),
    ]
    times_header = ("", "gpt2c", "the other", "gpt2c, ms", "the other, ms", "ratio", "pairs")
    memory_header = ("gpt2c", "the other", "gpt2c, MiB", "the other, MiB", "ratio", "gpt2c, s", "other, s")
    tables = [harness.markdown_table(times_header, times, left=3)]
    if memory:
        tables.append(harness.markdown_table(memory_header, memory, left=2))
        remarks.insert(
            2,
            "Memory: peak of the process behind a context of 900 tokens; seconds: import and load. "
            f"Medians of {record['memory_rounds']} runs, in turn.",
        )
    return "\n\n".join(["# Beside other engines", *tables, harness.bullets(remarks)]) + "\n"
