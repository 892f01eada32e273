"""Loading a model, and the `Model` that everything is called on."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends, options
from ._checks import Ids, as_ids, whole_number
from .backends.native import identity_of
from .bindings import LoadedModel, NativeModel, Runtime
from .checkpoints import hub
from .checkpoints.checkpoint import load_checkpoint
from .config import ModelConfig
from .errors import ContextLengthError, OptionError, TokenError
from .generation.batch import run_batch
from .generation.beam_search import beam_search
from .generation.continuation import Completion, Continuation, Source, Stream, one_by_one
from .generation.prompt_cache import PromptCache
from .generation.scoring import Score, score
from .generation.settings import GenerationSettings, takes
from .generation.speculative import speculative
from .session import ModelHandle, Session
from .text.tokenizer import Tokenizer, Vocabulary
from .trace import Trace, now_ns


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

    model: a folder in Hugging Face layout, a file of weights (.safetensors, pytorch_model.bin, .gguf,
    nanoGPT's ckpt.pt, llm.c's .bin: docs/models.md lists them; the first two with their config.json beside
    them), a hub id such as "gpt2", or "embedded", which None means too. weights: "f32", "bf16", "q8" or "q4",
    converted through float32 where the model is stored in another; None: as stored if that is q8 or q4, else
    "f32". opts: see `gpt2c.options.OPTIONS`. threads: how many; None: as many as this process has cores. isa:
    an instruction set by name. binding: "cython" or "cffi". A large model loads fast from the second time
    on: its weights are kept as they lie in memory, see backends/packed_cache.py.

    backend: "native", the C core; a preset of its options, such as "c_kv", which takes the place of opts; or
    "numpy", "numba", "torch" or "hf", the same model computed by a library, which weights, opts, threads, isa
    and binding are not for. See gpt2c/backends.

    Raises OptionError, ModelFileError (ModelNotFoundError), ConfigError, BackendUnavailable,
    OutOfMemoryError.
    """
    open_checkpoint = backends.loader(backend, backends.Choices(weights, opts, threads, isa, binding))
    folder = hub.resolve_model(model)
    with load_checkpoint(folder) as checkpoint:
        plan, runtime, loaded = open_checkpoint(checkpoint)
        return Model(checkpoint.config, plan, runtime, loaded, checkpoint.read_vocabulary)


class Model:
    """A loaded GPT-2. Any number of threads may call one; each generate() has a session of its own.

    `config`: its shape; `plan`: the resolved options; `binding`: "cython" or "cffi", or the name of another
    engine than the C core; `batch_size`: 32 unless it is set.
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: options.Plan,
        runtime: Runtime,
        loaded: LoadedModel,
        read_vocabulary: Callable[[], Vocabulary],
    ) -> None:
        self.config = config
        self.plan = plan
        self.binding = runtime.name
        self._handle = ModelHandle(config, runtime, loaded, partial(_identity, config, plan))
        self._batch_size = 32
        self._prompt_cache: PromptCache | None = None
        self._read_vocabulary = read_vocabulary
        self._running: weakref.WeakSet[Session] = weakref.WeakSet()
        self._running_lock = threading.Lock()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer. ModelFileError: it has no vocabulary; use ids instead."""
        return Tokenizer(self._read_vocabulary(), self.config)

    @property
    def batch_size(self) -> int:
        """How many prompts `generate_batch` continues side by side. OptionError: it is set to no whole
        number from 1."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, n: int) -> None:
        self._batch_size = whole_number("batch_size", n, minimum=1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in memory."""
        return self._handle.opened().weight_bytes()

    def session(self) -> Session:
        """A fresh session: feed tokens one by one, rewind, look at rows."""
        began, trace = now_ns(), self._handle.trace  # which may end meanwhile, in another thread
        session = Session(self._handle, self._handle.runtime.Session(self._handle.opened()))
        if trace is not None:
            trace.sessions.append((began, now_ns()))
        with self._running_lock:
            self._running.add(session)
        return session

    @property
    def identity(self) -> dict[str, Any]:
        """What the state of a session depends on: config, plan and a checksum of the weights.

        The first time all weights are read. OptionError: the backend is not the C core.
        """
        return self._handle.identity

    def logits(self, ids: Ids) -> NDArray[np.float32]:
        """Logits [len(ids), n_vocab], float32, of every position, whatever the plan.

        Raises TokenError (no ids, or a bad one), ContextLengthError.
        """
        with self.session() as session:
            return session.feed_all(ids)

    @takes(GenerationSettings)
    def generate(self, prompt: str | Ids, settings: GenerationSettings) -> Completion:
        """Continue a prompt. Settings and errors as in `stream`; greedy unless a temperature is given."""
        stream = self._stream(prompt, settings)
        for _ in stream:
            pass
        assert stream.completion is not None
        return stream.completion

    @takes(GenerationSettings)
    def stream(self, prompt: str | Ids, settings: GenerationSettings) -> Stream:
        """Continue a prompt (text or token ids), piece by piece.

        Joined, the pieces are the `text` of `generate`, and each holds whole characters. When it is
        exhausted the stream's `completion` is there; closing it ends the work at once.

        The settings are described in `gpt2c.generation.settings.GenerationSettings`. Raises OptionError,
        TokenError (empty prompt, bad id), ContextLengthError: all before any work.
        """
        if settings.has_beams:
            raise OptionError("a beam search has no text before its end: generate() has it, stream() has not")
        return self._stream(prompt, settings)

    @takes(GenerationSettings)
    def generate_batch(self, prompts: Sequence[str | Ids], settings: GenerationSettings) -> list[Completion]:
        """Continue many prompts, of any lengths; each completion has the bits of its own `generate`.

        Each forward pass serves up to `batch_size` prompts, and what they have in common at their beginning
        is computed once: `timings` tells. That takes a plan with all six switches; with another, with a draft
        and with beams the prompts are continued one after another. Settings and errors as in `stream`.
        """
        if isinstance(prompts, (str, bytes)):
            raise TokenError("generate_batch() takes several prompts, not one text")
        rows = [self._continuation(prompt, settings) for prompt in prompts]
        is_alone = settings.draft is not None or settings.has_beams
        if is_alone or not self.plan.is_incremental:
            for row in rows:
                for _ in self._run(row, settings):
                    pass
                if row.reason == "cancelled":  # as those behind it are that were not begun
                    break
            for row in rows:
                row.reason = row.reason or "cancelled"
        elif rows:
            run_batch(self.session, rows, self.batch_size, self.config.n_ctx, self.config.n_vocab)
        return [row.completion() for row in rows]

    def score(
        self,
        text_or_ids: str | Ids,
        stride: int | None = None,
        *,
        progress: Callable[[int], None] = lambda n: None,
    ) -> Score:
        """How probable the model finds each token of a text (or token ids); see gpt2c/generation/scoring.py.

        progress: is told now and again how many more tokens are done.
        Raises TokenError for fewer than two tokens, OptionError for a stride outside 1 to n_ctx - 1,
        Gpt2cError where a logit is not a finite number, which takes damaged weights.
        """
        ids = self._ids(text_or_ids)
        return score(self.session, ids, self.config, self.plan, self.tokenizer_or_none, stride, progress)

    def embed(self, text_or_ids: str | Ids) -> NDArray[np.float32]:
        """Hidden states [T, n_embd], float32, behind the final layer norm, of the T tokens of a text, or of
        token ids.

        Raises TokenError (none, or a bad id), ContextLengthError for more tokens than the context holds.
        """
        with self.session() as session:
            return session.feed_hidden(self._ids(text_or_ids))

    def cache_prompts(self, n: int) -> None:
        """Keep the sessions of the last n calls of `generate` and `stream`, so that a prompt that begins like
        one of theirs goes on from there: the result is the same, the time to the first token shorter.

        Off at first, and with n = 0, which frees them. A session of GPT-2 small takes up to 75 MB.
        """
        n = whole_number("the number of prompts to keep", n)
        old, self._prompt_cache = self._prompt_cache, PromptCache(n, self.plan.copies_sessions) if n else None
        if old is not None:
            old.clear()

    @cached_property
    def tokenizer_or_none(self) -> Tokenizer | None:
        """The tokenizer, or None for a model without a vocabulary, whose completions have no text."""
        try:
            return self.tokenizer
        except FileNotFoundError:
            return None

    @contextmanager
    def trace(self, n_best: int = 5) -> Iterator[Trace]:
        """Record what sessions do meanwhile; see trace.py. One at a time: it is for looking, and slower.

        Passes that serve several sessions (of a batch, of beams) are not recorded.

        n_best: how many of the likeliest tokens to keep of each step; with 0 no logits are computed for it.
        OptionError: the model is being traced already, or n_best is no whole number from 0.
        """
        n_best = whole_number("n_best", n_best)
        if self._handle.trace is not None:
            raise OptionError("the model is being traced already")
        trace = Trace(self.config.n_layer, self.config.n_vocab, self._handle.runtime.traced_ops(), n_best)
        self._handle.trace = trace
        try:
            yield trace
        finally:
            self._handle.trace = None

    def cancel(self) -> None:
        """End every generation that runs on this model now; each returns with "cancelled".

        Other calls that run now (of score, embed, logits, a session) raise CancelledError.
        """
        with self._running_lock:
            running = list(self._running)
        for session in running:
            session.cancel()

    def save_packed(self, path: str | os.PathLike[str], key: bytes) -> None:
        """Write the weights as they lie in memory, for the C core to map (native/packed.c).

        key: up to 127 bytes that say what the file was made from. Raises ModelFileError, and OptionError for
        a longer key, a null byte in either, or another engine than the C core; nothing is left half written.
        """
        native = self._handle.opened()
        if not isinstance(native, NativeModel):
            raise OptionError(f"packed files are the native backend's, not of {self.plan.backend!r}")
        name = os.fsencode(path)
        if b"\0" in name + key:
            raise OptionError("a path or key with a null byte, where C would end it")
        native.save_packed(name, key)

    def close(self) -> None:
        """Let go of the weights. Sessions and calls that still run finish first."""
        self._handle.loaded = None
        self.cache_prompts(0)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ids(self, text_or_ids: str | Ids) -> NDArray[np.int32]:
        """Token ids, checked."""
        if isinstance(text_or_ids, str):
            if not text_or_ids:
                raise TokenError("the prompt is empty: at least one token is needed")
            text_or_ids = self.tokenizer.encode(text_or_ids)
        return as_ids(text_or_ids, self.config.n_vocab)

    def _continuation(self, prompt: str | Ids, settings: GenerationSettings) -> Continuation:
        ids = self._ids(prompt)
        if ids.size > self.config.n_ctx and settings.overflow == "error":
            raise ContextLengthError(
                f"the prompt has {ids.size} tokens, the model's context holds {self.config.n_ctx}"
            )
        if settings.suppressed:
            as_ids(settings.suppressed, self.config.n_vocab)
        if settings.draft not in (None, "ngram"):
            self._check_draft(settings.draft)
        return Continuation(ids, settings, self.tokenizer_or_none, self.config)

    def _check_draft(self, draft: object) -> None:
        if not isinstance(draft, Model):
            raise OptionError(f"draft must be None, 'ngram' or a loaded model, not {draft!r}")
        draft._handle.opened()
        ours, theirs = self.tokenizer_or_none, draft.tokenizer_or_none
        same = draft.config.n_vocab == self.config.n_vocab
        if not same or (ours is not None and theirs is not None and not ours.has_tokens_of(theirs)):
            raise OptionError("the draft model has another vocabulary: its guesses would mean other tokens")

    def _stream(self, prompt: str | Ids, settings: GenerationSettings) -> Stream:
        return self._run(self._continuation(prompt, settings), settings)

    def _run(self, row: Continuation, settings: GenerationSettings) -> Stream:
        return Stream(row, lambda: self._session_for(row), self._source(settings))

    def _source(self, settings: GenerationSettings) -> Source:
        if settings.has_beams:
            return beam_search(settings, self.session, self.plan)
        if settings.draft is not None:
            return speculative(settings.draft, settings.num_assistant_tokens, self.weight_bytes)
        return one_by_one

    def _session_for(self, row: Continuation) -> AbstractContextManager[Session]:
        cache = self._prompt_cache
        return self.session() if cache is None else cache.session(row.context.window(), self.session)


def _identity(config: ModelConfig, plan: options.Plan, loaded: LoadedModel) -> dict[str, Any]:
    if not isinstance(loaded, NativeModel):
        raise OptionError(f"sessions are saved by the native backend only, not by {plan.backend!r}")
    return identity_of(config, plan, loaded)
