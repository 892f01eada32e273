"""`load`, and the `Model` that it returns: generate, score, embed."""

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
    """Load a GPT-2 model.

    model: where the weights are:

    - None or "embedded": the model that comes with gpt2c;
    - a folder in Hugging Face layout;
    - a weight file: .safetensors or pytorch_model.bin (with config.json in the same folder), .gguf, nanoGPT's
      ckpt.pt, llm.c's .bin; docs/models.md describes each;
    - the id of a model on the Hugging Face hub, such as "gpt2".

    weights: the weight format: "f32", "bf16", "q8" or "q4". A model that is stored in another format is
    converted to float32 first. None means the stored format if that is q8 or q4, else "f32".

    opts: a comma-separated list or an iterable of the option names in `gpt2c.OPTIONS`, "all" or "none".
    threads: the number of threads; None means one per core that this process may use. isa: the name of an
    instruction set, or "auto". binding: "cython", "cffi" or "auto".

    backend: "native", the C core; or one of its presets, such as "c_kv", which takes the place of opts; or
    "numpy", "numba", "torch" or "hf", which compute the same model with a Python library. These four do not
    take weights, opts, threads, isa or binding.

    A large model loads faster from the second time on, because the first load stores its weights on disk as
    they are laid out in memory (backends/packed_cache.py).

    Raises OptionError, ModelFileError (ModelNotFoundError if there is no such file or folder), ConfigError,
    BackendUnavailable, OutOfMemoryError.

    Example::

        with gpt2c.load("gpt2", weights="q8", threads=4) as model:
            print(model.generate("Once upon a time", max_new_tokens=40).text)
    """
    open_checkpoint = backends.loader(backend, backends.Choices(weights, opts, threads, isa, binding))
    folder = hub.resolve_model(model)
    with load_checkpoint(folder) as checkpoint:
        plan, runtime, loaded = open_checkpoint(checkpoint)
        return Model(checkpoint.config, plan, runtime, loaded, checkpoint.read_vocabulary)


class Model:
    """A loaded GPT-2 model. Any number of threads may call it: each call uses its own session.

    config: the shape of the model, a `ModelConfig`. plan: the resolved options, a `Plan`. binding: "cython"
    or "cffi", or the backend's name if it is not the C core.

    After close() every method that needs the weights raises ClosedError.
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
        """The tokenizer of the checkpoint.

        Raises ModelFileError if the checkpoint has no vocabulary; such a model takes token ids only.
        """
        return Tokenizer(self._read_vocabulary(), self.config)

    @property
    def batch_size(self) -> int:
        """How many prompts `generate_batch` continues at a time: 32 unless set.

        Setting it to anything but an integer >= 1 raises OptionError.
        """
        return self._batch_size

    @batch_size.setter
    def batch_size(self, n: int) -> None:
        self._batch_size = whole_number("batch_size", n, minimum=1)

    @property
    def weight_bytes(self) -> int:
        """The size of the weights in memory, in bytes."""
        return self._handle.opened().weight_bytes()

    def session(self) -> Session:
        """Make a new session, which holds no tokens. See `Session`.

        Raises ClosedError, OutOfMemoryError.
        """
        began, trace = now_ns(), self._handle.trace  # read once: another thread may end the trace
        session = Session(self._handle, self._handle.runtime.Session(self._handle.opened()))
        if trace is not None:
            trace.sessions.append((began, now_ns()))
        with self._running_lock:
            self._running.add(session)
        return session

    @property
    def identity(self) -> dict[str, Any]:
        """Config, plan and a checksum of the weights: they decide whether a saved session fits this model.

        The first access reads all weights. Raises OptionError if the backend is not the C core.
        """
        return self._handle.identity

    def logits(self, ids: Ids) -> NDArray[np.float32]:
        """Return the logits after each token: float32 [len(ids), n_vocab], whatever the plan.

        ids: token ids, a list or an integer array [n], 1 <= n <= n_ctx. Raises TokenError (no ids, or an id
        outside [0, n_vocab)), ContextLengthError, CancelledError, ClosedError.

        Example: ``model.logits(ids)[-1].argmax()`` is the greedy next token.
        """
        with self.session() as session:
            return session.feed_all(ids)

    @takes(GenerationSettings)
    def generate(self, prompt: str | Ids, settings: GenerationSettings) -> Completion:
        """Continue a prompt and return the completion; greedy unless a temperature is given.

        prompt: text, or token ids (a list or an integer array). The settings are described in
        `gpt2c.generation.settings.GenerationSettings`.

        Raises OptionError for a bad setting or settings that rule out every token, TokenError (empty prompt,
        or an id outside [0, n_vocab)), ContextLengthError, ClosedError, and Gpt2cError if damaged weights
        give logits that are not finite.

        Example::

            completion = model.generate("Once upon a time", max_new_tokens=40, temperature=0.8, seed=1)
            print(completion.text, completion.finish_reason, completion.timings.ms_per_token)
        """
        stream = self._stream(prompt, settings)
        for _ in stream:
            pass
        assert stream.completion is not None
        return stream.completion

    @takes(GenerationSettings)
    def stream(self, prompt: str | Ids, settings: GenerationSettings) -> Stream:
        """Continue a prompt and return an iterator over the pieces of its text as they are generated.

        Each piece holds whole characters, and the joined pieces equal the `text` of `generate`. Once the
        iterator is exhausted, its `completion` is set. Closing it stops the generation at once.

        Settings and errors are those of `generate`; errors in the arguments are raised here, before any
        work. A beam search raises OptionError, because its text is only known at the end.

        Example::

            for piece in model.stream("Once upon a time", max_new_tokens=40):
                print(piece, end="", flush=True)
        """
        if settings.has_beams:
            raise OptionError("a beam search has no text before its end: use generate() instead of stream()")
        return self._stream(prompt, settings)

    @takes(GenerationSettings)
    def generate_batch(self, prompts: Sequence[str | Ids], settings: GenerationSettings) -> list[Completion]:
        """Continue many prompts, which may differ in length, and return their completions in order.

        Each completion has the same bits as that of `generate` with its prompt. One forward pass serves up to
        `batch_size` prompts, and a prefix that prompts share is computed once; `timings` shows both. This
        needs a plan with all six switches. With any other plan, with a draft or with beams, the prompts are
        continued one after another.

        Settings and errors are those of `generate`; errors in the arguments are raised before any work.

        Example: ``[c.text for c in model.generate_batch(["Once", "There was"], max_new_tokens=20)]``.
        """
        if isinstance(prompts, (str, bytes)):
            raise TokenError("generate_batch() takes several prompts, not one text")
        sequences = [self._continuation(prompt, settings) for prompt in prompts]
        is_alone = settings.draft is not None or settings.has_beams
        if is_alone or not self.plan.is_incremental:
            for sequence in sequences:
                for _ in self._run(sequence, settings):
                    pass
                if sequence.reason == "cancelled":  # so are the sequences that have not begun
                    break
            for sequence in sequences:
                sequence.reason = sequence.reason or "cancelled"
        elif sequences:
            run_batch(self.session, sequences, self.batch_size, self.config.n_ctx, self.config.n_vocab)
        return [sequence.completion() for sequence in sequences]

    def score(
        self,
        text_or_ids: str | Ids,
        stride: int | None = None,
        *,
        progress: Callable[[int], None] = lambda n: None,
    ) -> Score:
        """Compute the log probability of each token but the first, given the tokens before it.

        text_or_ids: text, or token ids (a list or an integer array). More than n_ctx tokens are scored in
        windows of n_ctx tokens that begin `stride` tokens apart (None: n_ctx // 2); see
        gpt2c/generation/scoring.py. progress: called from time to time with the number of tokens that were
        scored since its last call.

        Raises TokenError for fewer than two tokens or a bad id, OptionError for a stride outside 1 to
        n_ctx - 1, CancelledError, ClosedError, and Gpt2cError if damaged weights give logits that are not
        finite.

        Example: ``model.score("Once upon a time").perplexity``.
        """
        ids = self._ids(text_or_ids)
        return score(self.session, ids, self.config, self.plan, self.tokenizer_or_none, stride, progress)

    def embed(self, text_or_ids: str | Ids) -> NDArray[np.float32]:
        """Return the hidden states after the final layer norm: float32 [T, n_embd], one row per token.

        text_or_ids: text, or token ids (a list or an integer array). Raises TokenError (no tokens, or a bad
        id), ContextLengthError for more than n_ctx tokens, CancelledError, ClosedError.

        Example: ``model.embed("Once upon a time").mean(0)`` is one vector for the text.
        """
        with self.session() as session:
            return session.feed_hidden(self._ids(text_or_ids))

    def cache_prompts(self, n: int) -> None:
        """Store the sessions of the last n calls of `generate` and `stream` for later prompts.

        A prompt that begins like an earlier one continues from its session. The result is the same, and the
        time to the first token is shorter. The default is 0, which stores none; n = 0 also frees the sessions
        stored so far. A session of GPT-2 small takes up to 75 MB. Raises OptionError if n is not an integer
        >= 0.
        """
        n = whole_number("the number of cached prompts", n)
        old, self._prompt_cache = self._prompt_cache, PromptCache(n, self.plan.copies_sessions) if n else None
        if old is not None:
            old.clear()

    @cached_property
    def tokenizer_or_none(self) -> Tokenizer | None:
        """The tokenizer, or None if the model has no vocabulary; completions then have no text."""
        try:
            return self.tokenizer
        except FileNotFoundError:
            return None

    @contextmanager
    def trace(self, n_best: int = 5) -> Iterator[Trace]:
        """Record the time of every feed and operation while the context is open; see trace.py.

        Tracing slows the model down. Passes that serve several sessions (batches, beams) are not recorded.

        n_best: how many of the most probable tokens to record per feed; 0 records none and computes no extra
        logits. Raises OptionError if the model is already being traced, or n_best is not an integer >= 0.

        Example::

            with model.trace() as trace:
                model.generate("Once upon a time", max_new_tokens=5)
            print([feed.ms for feed in trace.feeds])
        """
        n_best = whole_number("n_best", n_best)
        if self._handle.trace is not None:
            raise OptionError("the model is already being traced")
        trace = Trace(self.config.n_layer, self.config.n_vocab, self._handle.runtime.traced_ops(), n_best)
        self._handle.trace = trace
        try:
            yield trace
        finally:
            self._handle.trace = None

    def cancel(self) -> None:
        """End all generations and other calls that are running on this model, in any thread.

        A generation returns what it has, with finish_reason "cancelled". Other calls (`score`, `embed`,
        `logits`, a session's feeds) raise CancelledError.
        """
        with self._running_lock:
            running = list(self._running)
        for session in running:
            session.cancel()

    def save_packed(self, path: str | os.PathLike[str], key: bytes) -> None:
        """Write the weights, as they are laid out in memory, to a file that the C core can map.

        native/packed.c defines the file. key: up to 127 bytes that identify what the weights were read from.

        Raises ModelFileError if the file cannot be written (then no part of it is left), and OptionError if
        the key is longer, if path or key contains a null byte, or if the backend is not the C core.
        """
        native = self._handle.opened()
        if not isinstance(native, NativeModel):
            raise OptionError(f"only the native backend writes packed files, not {self.plan.backend!r}")
        name = os.fsencode(path)
        if b"\0" in name + key:
            raise OptionError("a path or key must not contain a null byte")
        native.save_packed(name, key)

    def close(self) -> None:
        """Release the weights. They are freed once no session and no running call uses them."""
        self._handle.loaded = None
        self.cache_prompts(0)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ids(self, text_or_ids: str | Ids) -> NDArray[np.int32]:
        """Return checked token ids, int32 [n]."""
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
            raise OptionError("the draft model has another vocabulary, so its ids mean other tokens")

    def _stream(self, prompt: str | Ids, settings: GenerationSettings) -> Stream:
        return self._run(self._continuation(prompt, settings), settings)

    def _run(self, sequence: Continuation, settings: GenerationSettings) -> Stream:
        return Stream(sequence, lambda: self._session_for(sequence), self._source(settings))

    def _source(self, settings: GenerationSettings) -> Source:
        if settings.has_beams:
            return beam_search(settings, self.session, self.plan)
        if settings.draft is not None:
            return speculative(settings.draft, settings.num_assistant_tokens, self.weight_bytes)
        return one_by_one

    def _session_for(self, sequence: Continuation) -> AbstractContextManager[Session]:
        cache = self._prompt_cache
        return self.session() if cache is None else cache.session(sequence.context.window(), self.session)


def _identity(config: ModelConfig, plan: options.Plan, loaded: LoadedModel) -> dict[str, Any]:
    if not isinstance(loaded, NativeModel):
        raise OptionError(f"only the native backend saves sessions, not {plan.backend!r}")
    return identity_of(config, plan, loaded)
