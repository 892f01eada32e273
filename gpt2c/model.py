"""Loading a model, and the `Model` that everything is called on."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bindings, hub, options, packed_cache
from .bindings import Binding, NativeModel
from .config import ACTIVATIONS, ModelConfig
from .errors import ClosedError, ContextLengthError, OptionError, TokenError
from .generation import Completion, Stream, check_settings
from .machine import usable_cores
from .session import Ids, Session, as_ids
from .tokenizer import Tokenizer, Vocabulary
from .weights import Checkpoint, TensorSpec, load_checkpoint

# gpt2c_dtype of include/gpt2c.h
_DTYPES = {"F32": 0, "F16": 1, "BF16": 2}


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    opts: str | Iterable[str] = "all",
    threads: int | None = None,
    isa: str = "auto",
    binding: str = "auto",
) -> Model:
    """Load a GPT-2.

    model: None for the embedded one, a folder in Hugging Face layout, a file of weights (.safetensors,
    pytorch_model.bin, .gguf, nanoGPT's ckpt.pt, llm.c's .bin: docs/models.md lists them; the first two
    with their config.json beside them), or a hub id such as "gpt2". weights: "f32" (None), "bf16", "q8" or
    "q4". opts: see `gpt2c.options.OPTIONS`. threads: how many; None: as many as this process has cores. isa:
    an instruction set by name. binding: "cython" or "cffi". A large model loads fast from the second time
    on: its weights are kept as they lie in memory, see packed_cache.py.

    Raises OptionError, ModelFileError (ModelNotFoundError), ConfigError, BackendUnavailable,
    OutOfMemoryError.
    """
    chosen = bindings.select(binding)
    isas = [(name, supported) for name, _, supported in chosen.isas()]
    plan = options.resolve(opts, isa=isa, threads=threads, weights=weights, isas=isas, cores=usable_cores())
    folder = hub.resolve_model(model)
    with load_checkpoint(folder) as checkpoint:
        config = native_config(checkpoint.config, plan, [name for name, _ in isas])
        native = packed_cache.load_or_build(
            chosen, config, checkpoint, plan, lambda: _build(chosen, config, checkpoint, plan.threads)
        )
        return Model(checkpoint.config, plan, chosen, native, checkpoint.read_vocabulary)


def native_config(config: ModelConfig, plan: options.Plan, isas: list[str]) -> dict[str, Any]:
    """gpt2c_model_config of include/gpt2c.h: a shape, and what the plan makes of it.

    OptionError: an option that this model has no use for.
    """
    if "gelu_table" in plan and config.activation_function != "gelu_new":
        raise OptionError(
            f"option 'gelu_table' is of GELU in its tanh form; this model has {config.activation_function!r}"
        )
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_inner,
        "n_ctx": config.n_ctx,
        "n_vocab": config.n_vocab,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "isa": isas.index(plan.isa),
        "switches": plan.switches,
        "gelu_table": int("gelu_table" in plan),
        "aligned": int("aligned" in plan),
        "format": options.WEIGHTS.index(plan.weights),
        "n_threads": plan.threads,
        "fused": int("fused" in plan),
        "head_screen": int("head_screen" in plan),
        "kv_f16": int("kv_f16" in plan),
        "activation": ACTIVATIONS.index(config.activation_function),
        "untied": int(not config.tie_word_embeddings),
        "unscaled_scores": int(not config.scale_attn_weights),
        "scores_by_layer": int(config.scale_attn_by_inverse_layer_idx),
    }


def _build(binding: Binding, config: dict[str, Any], checkpoint: Checkpoint, n_threads: int) -> NativeModel:
    native = binding.Model(config)

    def set_tensor(spec: TensorSpec) -> None:
        dtype, raw = checkpoint.tensor(spec.kind, spec.layer)
        native.set(spec.kind_index, max(spec.layer, 0), _DTYPES[dtype], np.frombuffer(raw, np.uint8))
        checkpoint.release(spec.kind, spec.layer)

    # The large ones first, so that no thread is left alone with the embedding in the end.
    by_size = sorted(checkpoint.specs(), key=lambda spec: math.prod(spec.shape), reverse=True)
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(set_tensor, by_size):
            pass
    native.freeze()
    return native


class Model:
    """A loaded GPT-2. Any number of threads may call one; each generate() has a session of its own.

    `config`: its shape; `plan`: the resolved options; `binding`: "cython" or "cffi".
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: options.Plan,
        binding: Binding,
        native: NativeModel,
        read_vocabulary: Callable[[], Vocabulary],
    ) -> None:
        self.config = config
        self.plan = plan
        self.binding = binding.name
        self._binding = binding
        self._native: NativeModel | None = native
        self._read_vocabulary = read_vocabulary
        self._running: weakref.WeakSet[Session] = weakref.WeakSet()
        self._running_lock = threading.Lock()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer. ModelFileError: it has no vocabulary; use ids instead."""
        return Tokenizer(self._read_vocabulary(), self.config)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in memory."""
        return self._open().weight_bytes()

    def session(self) -> Session:
        """A fresh session: feed tokens one by one, rewind, look at rows."""
        session = Session(self, self._binding.Session(self._open()))
        with self._running_lock:
            self._running.add(session)
        return session

    def logits(self, ids: Ids) -> NDArray[np.float32]:
        """Logits [len(ids), n_vocab] of every position, whatever the plan."""
        with self.session() as session:
            return session.feed_all(ids)

    def generate(
        self,
        prompt: str | Ids,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Iterable[str] = (),
    ) -> Completion:
        """Continue a prompt. Settings and errors as in `stream`; greedy unless a temperature is given."""
        stream = self.stream(
            prompt, max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop
        )
        for _ in stream:
            pass
        assert stream.completion is not None
        return stream.completion

    def stream(
        self,
        prompt: str | Ids,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Iterable[str] = (),
    ) -> Stream:
        """Continue a prompt (text or token ids), piece by piece.

        Joined, the pieces are the `text` of `generate`, and each holds whole characters. When it is
        exhausted the stream's `completion` is there; closing it ends the work at once.

        temperature: 0 is greedy; top_k: 0 is off; top_p in (0, 1], 1 is off; min_p in [0, 1], 0 is off;
        repetition_penalty: as in CTRL, 1 is off; seed: of the sampler, None for a fresh one each time;
        stop: one or more strings that end the text, and are not part of it.

        Raises OptionError, TokenError (empty prompt, bad id), ContextLengthError: all before any work.
        """
        settings = check_settings(
            max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop
        )
        ids = self._prompt_ids(prompt)
        return Stream(self.session, self.tokenizer_or_none, ids, settings, self.config)

    @property
    def tokenizer_or_none(self) -> Tokenizer | None:
        """The tokenizer, or None for a model without a vocabulary, whose completions have no text."""
        try:
            return self.tokenizer
        except FileNotFoundError:
            return None

    def cancel(self) -> None:
        """End every generation that runs on this model now; each returns with "cancelled"."""
        with self._running_lock:
            running = list(self._running)
        for session in running:
            session.cancel()

    def save_packed(self, path: Path, key: bytes) -> None:
        """Write the weights as they lie in memory, for the C core to map (native/packed.c).

        key: up to 127 bytes that say what the file was made from. Raises ModelFileError; nothing is
        left half written.
        """
        self._open().save_packed(os.fsencode(path), key)

    def close(self) -> None:
        """Let go of the weights. Sessions and calls that still run finish first."""
        self._native = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> NativeModel:
        native = self._native
        if native is None:
            raise ClosedError("the model is closed")
        return native

    def _prompt_ids(self, prompt: str | Ids) -> NDArray[np.int32]:
        if isinstance(prompt, str):
            if not prompt:
                raise TokenError("the prompt is empty: at least one token is needed")
            ids = as_ids(self.tokenizer.encode(prompt), self.config.n_vocab)
        else:
            ids = as_ids(prompt, self.config.n_vocab)
        if ids.size > self.config.n_ctx:
            raise ContextLengthError(
                f"the prompt has {ids.size} tokens, the model's context holds {self.config.n_ctx}"
            )
        return ids
