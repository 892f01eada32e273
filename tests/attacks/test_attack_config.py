"""config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import change_json

Refused = Callable[[Path, str], None]

VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "no heads": ({"n_head": 0}, "n_head 0 is outside 1 to 1024"),
    "negative heads": ({"n_head": -4}, "n_head -4 is outside 1 to 1024"),
    "heads that do not divide": ({"n_head": 3}, "n_embd 32 is not a multiple of n_head 3"),
    "2^63 layers": ({"n_layer": 2**63}, f"n_layer {2**63} is outside 1 to 1024"),
    "2^32 tokens": ({"vocab_size": 2**32}, "vocab_size 4294967296 is outside 1 to 16777216"),
    "a width that wraps around": ({"n_embd": 2**31}, "n_embd 2147483648 is outside 1 to 65536"),
    "an inner width of 0": ({"n_inner": 0}, "n_inner 0 is outside 1 to 262144"),
    "a context of 0": ({"n_positions": 0}, "n_positions 0 is outside 1 to 65536"),
    "an epsilon of 0": ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon 0.0 is outside 1e-30 to 1"),
    "a negative epsilon": ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon -1.0 is outside 1e-30 to 1"),
    "layers as text": ({"n_layer": "2"}, "n_layer must be a whole number, not '2'"),
    "layers in a list": ({"n_layer": [2]}, "n_layer must be a whole number, not [2]"),
    "another model": ({"model_type": "gptj"}, "model_type 'gptj' is not supported (gpt2 is)"),
}


@pytest.mark.parametrize(("changes", "line"), VALUES.values(), ids=VALUES)
def test_a_value_that_makes_no_model(
    folder: Path, refused: Refused, changes: dict[str, Any], line: str
) -> None:
    change_json(folder / "config.json", **changes)
    refused(folder, f"config.json: {line}")


GOOD = b'"model_type":"gpt2","n_layer":2,"n_head":4,"n_embd":32,"n_positions":128,"vocab_size":128'
TEXTS = {
    "NaN": (b'{"layer_norm_epsilon":NaN,' + GOOD + b"}", "NaN is not JSON"),
    "infinity": (b'{"layer_norm_epsilon":Infinity,' + GOOD + b"}", "Infinity is not JSON"),
    "an overflowing number": (
        b'{"layer_norm_epsilon":1e999,' + GOOD + b"}",
        "layer_norm_epsilon inf is outside 1e-30 to 1",
    ),
    "a key twice": (b'{"n_layer":1,' + GOOD + b"}", "the key 'n_layer' appears twice"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the JSON is nested too deeply"),
    "empty": (b"", "is not JSON: Expecting value (line 1, column 1)"),
    "a zero byte": (b"{" + GOOD + b"}\0", "is not JSON: Extra data (line 1, column 92)"),
    "UTF-16": ("{}".encode("utf-16"), "is not UTF-8 text (byte 0)"),
    "eleven megabytes": (b"{" + GOOD + b"}" + b" " * 11_000_000, "is longer than 10000000 bytes"),
    "a million entries": (b'{"a":[' + b"0," * 1_000_001 + b"0]}", "has more than 1000000 entries"),
}


@pytest.mark.parametrize(("text", "line"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_config(folder: Path, refused: Refused, text: bytes, line: str) -> None:
    (folder / "config.json").write_bytes(text)
    refused(folder, f"config.json: {line}")


def test_sizes_of_a_model_that_the_file_is_not(folder: Path, refused: Refused) -> None:
    """The largest that a config may ask for: no memory is taken before the file is seen to hold less."""
    change_json(
        folder / "config.json", n_layer=1024, n_embd=65536, n_head=1024, vocab_size=1 << 24, n_positions=65536
    )
    refused(
        folder,
        "model.safetensors: tensor 'wte.weight' has shape [128, 32], but the config needs [16777216, 65536]",
    )


def test_a_long_value_is_not_repeated_in_full(folder: Path, refused: Refused) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "x" * 1_000_000}))
    cut = "x" * 37
    refused(folder, f"config.json: model_type '{cut}...{cut}x' is not supported (gpt2 is)")
