"""config.json: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c._files import quoted
from gpt2c.config import ModelConfig, parse_config, read_config
from gpt2c.errors import ConfigError, ModelNotFoundError

SMALL = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "n_positions": 64,
    "vocab_size": 128,
    "layer_norm_epsilon": 1e-5,
    "eos_token_id": 127,
}

PUBLISHED = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "summary_activation": None,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def parse(**changes: object) -> ModelConfig:
    return parse_config(json.dumps({**SMALL, **changes}).encode())


def without(key: str) -> bytes:
    return json.dumps({k: v for k, v in SMALL.items() if k != key}).encode()


def message(text: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_config_is_gpt2_with_its_published_number_of_parameters() -> None:
    config = parse_config(json.dumps(PUBLISHED).encode())
    assert config == ModelConfig(12, 12, 768, 3072, 1024, 50257, 1e-5, 50256)
    assert config.n_parameters == 124_439_808


def test_read_config_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL))
    assert read_config(path) == read_config(str(path)) == parse()


def test_n_inner_is_four_times_n_embd_unless_given() -> None:
    assert parse().n_inner == parse(n_inner=None).n_inner == 128
    assert parse(n_inner=7).n_inner == 7


def test_model_type_and_epsilon_may_be_absent() -> None:
    assert parse_config(without("model_type")) == parse()
    assert parse_config(without("layer_norm_epsilon")).layer_norm_epsilon == 1e-5


def test_both_names_of_the_tanh_gelu_are_supported() -> None:
    assert parse(activation_function="gelu_new") == parse(activation_function="gelu_pytorch_tanh") == parse()


@pytest.mark.parametrize(
    "harmless",
    [
        {"unknown": [1, {"two": None}]},
        {"reorder_and_upcast_attn": True},
        {"scale_attn_weights": True},
        {"add_cross_attention": False},
        {"tie_word_embeddings": True},
        {"quantization_config": None},
    ],
)
def test_keys_that_do_not_change_the_model_are_ignored(harmless: dict[str, object]) -> None:
    assert parse(**harmless) == parse()


@pytest.mark.parametrize(
    ("value", "eos"),
    [(5, 5), (0, 0), (None, None), ([7], 7), ([7, 9], 7), ([], None), (50256, None), (-1, None)],
)
def test_eos_is_an_id_of_the_vocabulary_or_none(value: object, eos: int | None) -> None:
    assert parse(eos_token_id=value).eos_token_id == eos


def test_an_eos_that_is_left_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gpt2c"):
        parse(eos_token_id=50256)
        parse(eos_token_id=[1, 2])
    assert caplog.messages == [
        "config.json: eos_token_id 50256 is not in the vocabulary of 128; ignored",
        "config.json: eos_token_id lists 2 ids; the first, 1, is used",
    ]


ACTIVATIONS = "gelu_new, gelu_pytorch_tanh, gelu, relu"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not supported (gpt2 is)"),
        ({"model_type": None}, "model_type null is not supported (gpt2 is)"),
        ({"activation_function": "silu"}, f"activation_function 'silu' is not supported ({ACTIVATIONS} are)"),
        (
            {"activation_function": ["gelu_new"]},
            f"activation_function ['gelu_new'] is not supported ({ACTIVATIONS} are)",
        ),
        ({"add_cross_attention": True}, "add_cross_attention true is not supported (false is)"),
        ({"add_cross_attention": 0}, "add_cross_attention 0 is not supported (false is)"),
        (
            {"scale_attn_by_inverse_layer_idx": "yes"},
            "scale_attn_by_inverse_layer_idx 'yes' is not supported (false, true are)",
        ),
        ({"scale_attn_weights": None}, "scale_attn_weights null is not supported (true, false are)"),
        ({"scale_attn_weights": 1}, "scale_attn_weights 1 is not supported (true, false are)"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings 0 is not supported (true, false are)"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported (null is)"),
        ({"n_layer": None}, "n_layer is missing"),
        ({"n_layer": True}, "n_layer must be a whole number, not true"),
        ({"n_layer": 12.0}, "n_layer must be a whole number, not 12.0"),
        ({"n_embd": "768"}, "n_embd must be a whole number, not '768'"),
        ({"n_inner": 0}, "n_inner 0 is outside 1 to 262144"),
        ({"n_inner": False}, "n_inner must be a whole number, not false"),
        ({"n_layer": 0}, "n_layer 0 is outside 1 to 1024"),
        ({"n_layer": 1025}, "n_layer 1025 is outside 1 to 1024"),
        ({"n_head": -4}, "n_head -4 is outside 1 to 1024"),
        ({"n_embd": 65537}, "n_embd 65537 is outside 1 to 65536"),
        ({"n_positions": 65537}, "n_positions 65537 is outside 1 to 65536"),
        ({"vocab_size": 2**24 + 1}, "vocab_size 16777217 is outside 1 to 16777216"),
        ({"n_embd": 30}, "n_embd 30 is not a multiple of n_head 4"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon 0 is outside 1e-30 to 1"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon -1e-05 is outside 1e-30 to 1"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon must be a number, not '1e-5'"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon must be a number, not true"),
        ({"eos_token_id": True}, "eos_token_id must be a token id or null, not true"),
        ({"eos_token_id": [1, "x"]}, "eos_token_id must be a token id or null, not 'x'"),
    ],
)
def test_a_model_that_gpt2c_does_not_run_is_refused_by_name(
    changes: dict[str, object], expected: str
) -> None:
    assert message(json.dumps({**SMALL, **changes}).encode()) == f"config.json: {expected}"


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"])
def test_a_size_that_is_missing_is_named(key: str) -> None:
    assert message(without(key)) == f"config.json: {key} is missing"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "is not JSON: Expecting value (line 1, column 1)"),
        (b"{", "is not JSON: Expecting property name enclosed in double quotes (line 1, column 2)"),
        (b"[]", "must hold a JSON object, not []"),
        (b"null", "must hold a JSON object, not null"),
        (b'{"n_layer": 1, "n_layer": 2}', "the key 'n_layer' appears twice"),
        (b'{"x": {"deep": 1, "deep": 1}}', "the key 'deep' appears twice"),
        (b'{"x": NaN}', "NaN is not JSON"),
        (b'{"x": -Infinity}', "-Infinity is not JSON"),
        (b'{"x": "\xff"}', "is not UTF-8 text (byte 7)"),
        (b'{"n_layer": 1' + b"0" * 5000 + b"}", "the number '1000000...00000000' is too long"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the JSON is nested too deeply"),
    ],
)
def test_text_that_is_not_strict_json_is_refused(text: bytes, expected: str) -> None:
    assert message(text) == f"config.json: {expected}"


def test_an_epsilon_that_overflows_is_refused() -> None:
    text = json.dumps(SMALL).replace("1e-05", "1e999").encode()
    assert message(text) == "config.json: layer_norm_epsilon inf is outside 1e-30 to 1"


def test_a_value_nested_almost_too_deeply_still_gives_one_line() -> None:
    text = json.dumps(SMALL).encode()[:-1] + b', "quantization_config": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert message(text) == "config.json: quantization_config [[[...]]] is not supported (null is)"


def test_a_missing_file_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json' does not exist$") as caught:
        read_config(tmp_path / "config.json")
    assert isinstance(caught.value, FileNotFoundError)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(10_000_001)
    with pytest.raises(ConfigError, match=r"^config\.json: is longer than 10000000 bytes$"):
        read_config(path)


def test_a_folder_or_a_pipe_is_not_a_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match=r"is not a regular file$"):
            read_config(path)


def test_quoted_is_one_short_line_whatever_it_is_given() -> None:
    for value in ("a\nb", "\ud800", "x" * 10_000_000, ["y" * 1000] * 1000, 10**39, {"a": {"b": {"c": 1}}}):
        text = quoted(value)
        assert text.isprintable()
        assert len(text) < 700


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a\n\0\ud800\u4e00", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=5,
)
ANY_KEY = st.sampled_from([*SMALL, "n_inner", "activation_function", "tie_word_embeddings", "x"])


@settings(deadline=None)
@given(st.dictionaries(ANY_KEY, ANY_JSON))
def test_any_json_gives_a_config_or_one_line(changes: dict[str, object]) -> None:
    try:
        config = parse_config(json.dumps({**SMALL, **changes}).encode())
    except ConfigError as e:
        assert str(e).startswith("config.json: ")
        assert str(e).isprintable()
    else:
        assert config.n_embd % config.n_head == 0
        assert config.n_parameters > 0
