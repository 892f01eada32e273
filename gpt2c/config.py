"""The hyperparameters of a model: the part of a Hugging Face `config.json` that the forward pass needs.

A key that changes the arithmetic is either supported exactly or refused by name; every other key is ignored.
The keys have the meanings that `transformers.GPT2Config` gives them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ._files import MAX_JSON_BYTES, parse_json_object, quoted, read_bounded
from .errors import ConfigError

_LOG = logging.getLogger("gpt2c")

ACTIVATIONS = ("gelu_new", "gelu", "relu")
"""The activations that the MLP may have, in the order of gpt2c_activation in gpt2c.h."""


@dataclass(frozen=True)
class ModelConfig:
    """A GPT-2's hyperparameters, under the names of `transformers.GPT2Config`.

    `n_ctx` is the config's `n_positions`; `eos_token_id` is None when the config names none;
    `activation_function` is one of `ACTIVATIONS`.
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_ctx: int
    n_vocab: int
    layer_norm_epsilon: float = 1e-5
    eos_token_id: int | None = None
    activation_function: str = "gelu_new"
    tie_word_embeddings: bool = True
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases; a tied head is counted once."""
        block = (
            4 * self.n_embd  # two layer norms
            + 4 * self.n_embd * (self.n_embd + 1)  # c_attn and c_proj
            + self.n_inner * (self.n_embd + 1)
            + self.n_embd * (self.n_inner + 1)
        )
        n_heads = 1 if self.tie_word_embeddings else 2
        return (n_heads * self.n_vocab + self.n_ctx + 2) * self.n_embd + self.n_layer * block


# Maximum sizes: far above any GPT-2, and far below what would overflow a size or need absurd memory.
_SIZE_LIMITS = {
    "n_layer": 1024,
    "n_head": 1024,
    "n_embd": 65_536,
    "n_inner": 1 << 18,
    "n_positions": 65_536,
    "vocab_size": 1 << 24,
}

# float32 must neither round epsilon to 0 nor let it drown the variance.
_EPSILON_MIN, _EPSILON_MAX = 1e-30, 1.0


@dataclass(frozen=True)
class _Known:
    """A key that changes the arithmetic, and the values that gpt2c supports exactly, the default first."""

    key: str
    supported: tuple[str | bool | None, ...]


# To support another value, add it to its row here and implement it in the forward pass.
# (`reorder_and_upcast_attn` is not listed: it selects a precision, not a formula.)
_KNOWN_KEYS = (
    _Known("model_type", ("gpt2",)),
    _Known("activation_function", ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu")),
    _Known("add_cross_attention", (False, None)),
    _Known("scale_attn_by_inverse_layer_idx", (False, True, None)),
    _Known("scale_attn_weights", (True, False)),
    _Known("tie_word_embeddings", (True, False)),
    _Known("quantization_config", (None,)),
)


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """The hyperparameters in a Hugging Face `config.json`.

    Required: `n_layer`, `n_head`, `n_embd`, `n_positions`, `vocab_size`. Defaults: `n_inner` (also if it is
    null) is `4 * n_embd`, `layer_norm_epsilon` is 1e-5, `model_type` is gpt2.

    `eos_token_id` may be an id, null, or a list, of which the first id is used. An id outside the vocabulary
    is ignored, because the model can never produce it. (Small models made with the defaults of `transformers`
    have such an id.)

    Raises `ModelNotFoundError` if there is no such file. Raises `ConfigError`, which names the file and the
    field, if the file cannot be read, is longer than 10 MB or is not strict JSON, or if gpt2c does not run
    the model.
    """
    path = Path(path)
    return config_of_fields(read_config_fields(path), path.name)


def read_config_fields(path: Path) -> dict[str, object]:
    """All fields of a `config.json`, which must be strict JSON; errors as in `read_config`."""
    return parse_json_object(read_bounded(path, MAX_JSON_BYTES, ConfigError), path.name, ConfigError)


def parse_config(text: bytes, name: str = "config.json") -> ModelConfig:
    """As `read_config`, from the file's bytes. `name`: what error messages call the file."""
    return config_of_fields(parse_json_object(text, name, ConfigError), name)


def config_of_fields(fields: Mapping[str, object], name: str) -> ModelConfig:
    """As `read_config`, from the fields. `name`: what error messages call their source."""
    chosen = {known.key: _known_value(fields, known, name) for known in _KNOWN_KEYS}
    activation = str(chosen["activation_function"])
    n_head = _size(fields, "n_head", name)
    n_embd = _size(fields, "n_embd", name)
    n_vocab = _size(fields, "vocab_size", name)
    if n_embd % n_head:
        raise ConfigError(f"{name}: n_embd {n_embd} is not a multiple of n_head {n_head}")
    return ModelConfig(
        n_layer=_size(fields, "n_layer", name),
        n_head=n_head,
        n_embd=n_embd,
        n_inner=4 * n_embd if fields.get("n_inner") is None else _size(fields, "n_inner", name),
        n_ctx=_size(fields, "n_positions", name),
        n_vocab=n_vocab,
        layer_norm_epsilon=_epsilon(fields, name),
        eos_token_id=_eos(fields, n_vocab, name),
        # Two names of the same formula.
        activation_function="gelu_new" if activation == "gelu_pytorch_tanh" else activation,
        tie_word_embeddings=bool(chosen["tie_word_embeddings"]),
        scale_attn_weights=bool(chosen["scale_attn_weights"]),
        scale_attn_by_inverse_layer_idx=bool(chosen["scale_attn_by_inverse_layer_idx"]),
    )


def _known_value(fields: Mapping[str, object], known: _Known, name: str) -> str | bool | None:
    value = fields.get(known.key, known.supported[0])
    # The types are compared, too: 1 == True in Python, but a config may not say 1 for true.
    for supported in known.supported:
        if type(value) is type(supported) and value == supported:
            return supported
    words = [_json_word(supported) for supported in known.supported if supported is not None] or ["null"]
    are = "is" if len(words) == 1 else "are"
    raise ConfigError(f"{name}: {known.key} {quoted(value)} is not supported ({', '.join(words)} {are})")


def _json_word(value: str | bool | None) -> str:
    return value if isinstance(value, str) else quoted(value)


def _size(fields: Mapping[str, object], key: str, name: str) -> int:
    value = fields.get(key)
    if value is None:
        raise ConfigError(f"{name}: {key} is missing")
    if type(value) is not int:
        raise ConfigError(f"{name}: {key} must be a whole number, not {quoted(value)}")
    if not 1 <= value <= _SIZE_LIMITS[key]:
        raise ConfigError(f"{name}: {key} {value} is outside 1 to {_SIZE_LIMITS[key]}")
    return value


def _epsilon(fields: Mapping[str, object], name: str) -> float:
    value = fields.get("layer_norm_epsilon", 1e-5)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}: layer_norm_epsilon must be a number, not {quoted(value)}")
    if not _EPSILON_MIN <= value <= _EPSILON_MAX:
        raise ConfigError(
            f"{name}: layer_norm_epsilon {quoted(value)} is outside {_EPSILON_MIN:g} to {_EPSILON_MAX:g}"
        )
    return float(value)


def _eos(fields: Mapping[str, object], n_vocab: int, name: str) -> int | None:
    value = fields.get("eos_token_id")
    ids: list[int] = []
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        if type(item) is not int:
            raise ConfigError(f"{name}: eos_token_id must be a token id or null, not {quoted(item)}")
        ids.append(item)
    if not ids:
        return None
    if len(ids) > 1:
        _LOG.info("%s: eos_token_id lists %d ids; the first, %d, is used", name, len(ids), ids[0])
    if not 0 <= ids[0] < n_vocab:
        _LOG.info("%s: eos_token_id %d is not in the vocabulary of %d; ignored", name, ids[0], n_vocab)
        return None
    return ids[0]
