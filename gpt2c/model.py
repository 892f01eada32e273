"""Loading a model, and the `Model` that everything is called on."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import backends, hub, options
from .bindings import LoadedModel, NativeModel, Runner
from .config import ModelConfig
from .errors import ClosedError, ContextLengthError, OptionError, TokenError
from .generation import Completion, Stream, check_settings
from .session import Ids, Session, as_ids
from .tokenizer import Tokenizer
from .trace import Trace, now_ns
from .weights import load_checkpoint


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    opts: str | Iterable[str] = "all",
    threads: int | None = None,
    isa: str = "auto",
    binding: str = "auto",
    backend: str = "native",
) -> Model:
    """Load a GPT-2.

    model: None for the embedded one, a folder in Hugging Face layout, a .safetensors file with its
    config.json beside it, or a hub id such as "gpt2". weights: "f32" (None), "bf16", "q8" or "q4". opts: see
    `gpt2c.options.OPTIONS`. threads: how many; None: as many as this process has cores. isa: an instruction
    set by name. binding: "cython" or "cffi". A large model loads fast from the second time on: its weights
    are kept as they lie in memory, see packed_cache.py.

    backend: "native", the C core; a preset of its options, such as "c_kv", which takes the place of opts; or
    "numpy", "torch" or "hf", the same model computed by a library, for which all that is said of the C core
    above is not to be given. See gpt2c/backends.

    Raises OptionError, ModelFileError (ModelNotFoundError), ConfigError, BackendUnavailable,
    OutOfMemoryError.
    """
    opener = backends.opener(backend, backends.Choices(weights, opts, threads, isa, binding))
    folder = hub.resolve_model(model)
    with load_checkpoint(folder) as checkpoint:
        plan, runner, loaded = opener(checkpoint)
        return Model(checkpoint.config, plan, runner, loaded, checkpoint.folder)


class Model:
    """A loaded GPT-2. Any number of threads may call one; each generate() has a session of its own.

    `config`: its shape; `plan`: the resolved options; `binding`: "cython" or "cffi", or the name of another
    engine than the C core.
    """

    def __init__(
        self, config: ModelConfig, plan: options.Plan, runner: Runner, loaded: LoadedModel, folder: Path
    ) -> None:
        self.config = config
        self.plan = plan
        self.binding = runner.name
        self._binding = runner
        self._native: LoadedModel | None = loaded
        self._folder = folder
        self._running: weakref.WeakSet[Session] = weakref.WeakSet()
        self._running_lock = threading.Lock()
        self._trace: Trace | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer. ModelFileError: it has no vocabulary; use ids instead."""
        return Tokenizer.from_folder(self._folder, self.config)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in memory."""
        return self._open().weight_bytes()

    def session(self) -> Session:
        """A fresh session: feed tokens one by one, rewind, look at rows."""
        began = now_ns()
        session = Session(self, self._binding.Session(self._open()), self._trace)
        if self._trace is not None:
            self._trace.sessions.append((began, now_ns()))
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

    @contextmanager
    def trace(self, n_best: int = 5) -> Iterator[Trace]:
        """Record what sessions made meanwhile do; see trace.py. One at a time: it is for looking, and slower.

        n_best: how many of the likeliest tokens to keep of each step; with 0 no logits are computed for it.
        OptionError: the model is being traced already.
        """
        if self._trace is not None:
            raise OptionError("the model is being traced already")
        self._trace = Trace(self.config.n_layer, self.config.n_vocab, self._binding.traced_ops(), n_best)
        try:
            yield self._trace
        finally:
            self._trace = None

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
        native = self._open()
        if not isinstance(native, NativeModel):
            raise OptionError(f"packed files are the native backend's, not of {self.plan.backend!r}")
        native.save_packed(os.fsencode(path), key)

    def close(self) -> None:
        """Let go of the weights. Sessions and calls that still run finish first."""
        self._native = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> LoadedModel:
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
