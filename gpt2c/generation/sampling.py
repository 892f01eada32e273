"""From logits to the next token, with the meanings of transformers' logits processors.

Pure functions over one row of logits, applied in the order in which transformers applies them: repetition
penalty, no-repeat n-gram, minimum of new tokens, suppressed tokens, temperature, top-k, top-p, min-p. A token
that is ruled out has logit -infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import Gpt2cError, OptionError
from .settings import GenerationSettings

Floats = NDArray[np.float32]

NO_TOKEN_LEFT = "the settings rule out every token of the vocabulary"


def _factor(value: float) -> np.float32:
    """A factor as float32. Beyond the bounds the choice would be the same, but float32 overflow."""
    return np.float32(min(max(value, 1e-15), 1e15))


def apply_repetition_penalty(logits: Floats, ids: Sequence[int], penalty: float) -> Floats:
    """Divide positive and multiply negative logits of `ids` by the penalty (Keskar et al. 2019, CTRL)."""
    out = logits.copy()
    seen = np.unique(np.asarray(ids, np.int64))
    scores = out[seen]
    out[seen] = np.where(scores < 0, scores * _factor(penalty), scores / _factor(penalty))
    return out


def apply_no_repeat_ngram(logits: Floats, ids: Sequence[int], size: int) -> Floats:
    """Rule out what would complete a sequence of `size` tokens that `ids` holds (Paulus et al. 2017)."""
    array = np.asarray(ids, np.int64)
    if array.size < size:
        return logits
    ngrams = np.lib.stride_tricks.sliding_window_view(array, size)
    begun = array[array.size - (size - 1) :]
    return rule_out(logits, ngrams[(ngrams[:, :-1] == begun).all(-1), -1])


def rule_out(logits: Floats, ids: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Give these tokens the logit -infinity."""
    out = logits.copy()
    out[np.asarray(ids, np.int64)] = -np.inf
    return out


def apply_temperature(logits: Floats, temperature: float) -> Floats:
    """Divide by the temperature (> 0): below 1 the probable becomes more probable."""
    return logits / _factor(temperature)


def apply_top_k(logits: Floats, k: int) -> Floats:
    """Rule out what is smaller than the k-th largest logit (equal ones stay)."""
    k = min(k, logits.size)
    smallest_kept = np.partition(logits, -k)[-k]
    return np.where(logits < smallest_kept, np.float32(-np.inf), logits)


def apply_top_p(logits: Floats, p: float) -> Floats:
    """Keep the most probable tokens that together just reach p (Holtzman et al. 2019); at least one."""
    probabilities = softmax(logits)
    # All of these together cannot make up 1 - p: they go, and need no sorting.
    small = probabilities < (1 - p) / (2 * logits.size)
    rest = np.flatnonzero(~small)
    order = rest[np.argsort(logits[rest], kind="stable")]
    dropped = probabilities[small].sum() + np.cumsum(probabilities[order]) <= 1 - p
    dropped[-1] = False
    out = np.where(small, np.float32(-np.inf), logits)
    out[order[dropped]] = -np.inf
    return out


def apply_min_p(logits: Floats, p: float) -> Floats:
    """Rule out what is less than p times as probable as the most probable token."""
    probabilities = softmax(logits)
    return np.where(probabilities < p * probabilities.max(), np.float32(-np.inf), logits)


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities, in float64. OptionError: every token is ruled out."""
    shifted = np.exp(logits.astype(np.float64) - _largest(logits))
    return np.asarray(shifted / shifted.sum())


def _largest(logits: Floats) -> np.float32:
    largest: np.float32 = logits.max()
    if np.isneginf(largest):
        raise OptionError(NO_TOKEN_LEFT)
    return largest


def process(
    logits: Floats, ids: Sequence[int], settings: GenerationSettings, n_new: int = 0, eos: int | None = None
) -> Floats:
    """Everything that the settings turn on, in order; `ids` are all tokens so far, the last n_new are new."""
    if settings.repetition_penalty != 1:
        logits = apply_repetition_penalty(logits, ids, settings.repetition_penalty)
    if settings.no_repeat_ngram_size:
        logits = apply_no_repeat_ngram(logits, ids, settings.no_repeat_ngram_size)
    if n_new < settings.min_new_tokens and eos is not None:
        logits = rule_out(logits, [eos])
    if settings.suppressed:
        logits = rule_out(logits, settings.suppressed)
    if settings.temperature == 0:
        return logits
    logits = apply_temperature(logits, settings.temperature)
    if settings.top_k:
        logits = apply_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = apply_top_p(logits, settings.top_p)
    if settings.min_p:
        logits = apply_min_p(logits, settings.min_p)
    return logits


@dataclass(frozen=True)
class TokenLogprobs:
    """How probable the model found a new token, before any setting changed that: natural logarithms.

    logprob: of the token itself; top: those of the most probable tokens by id, the most probable first.
    """

    logprob: float
    top: dict[int, float]


def token_logprobs(logits: Floats, token: int, k: int) -> TokenLogprobs:
    """The token's own log probability and the k largest; of equal ones the lower id comes first."""
    k = min(k, logits.size)
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    kth = np.partition(logprobs, logits.size - k)[logits.size - k] if k else np.inf
    candidates = np.flatnonzero(logprobs >= kth)
    top = candidates[np.argsort(-logprobs[candidates], kind="stable")][:k]
    return TokenLogprobs(float(logprobs[token]), {int(i): float(logprobs[i]) for i in top})


class Sampler:
    """Chooses tokens one after another. The random numbers are those of NumPy's PCG64 with the seed.

    Each token takes one uniform number u in [0, 1) and is the first, in order of ids, at which the
    running sum of probabilities (float64) exceeds u times their sum. At temperature 0 it is the token of
    the largest logit, the lowest id if there are several, and no number is taken.

    n_prompt: how many of the tokens are not new; eos: the token that min_new_tokens holds back.
    """

    def __init__(self, settings: GenerationSettings, n_prompt: int = 0, eos: int | None = None) -> None:
        self._settings = settings
        self._n_prompt = n_prompt
        self._eos = eos
        if settings.temperature > 0:
            # Not before, because it is 3 MB that greedy use does without; nor at the first token, where a
            # Ctrl-C can be lost in the import.
            from numpy.random import PCG64, Generator

            self._random = Generator(PCG64(settings.seed))

    def fork(self) -> Sampler:
        """Another one that will take the same random numbers."""
        fork = Sampler(self._settings, self._n_prompt, self._eos)
        if self._settings.temperature > 0:
            fork._random = deepcopy(self._random)
        return fork

    def logprobs(self, logits: Floats, ids: Sequence[int]) -> Floats:
        """What transformers' beam search adds up: log probabilities [n_vocab], behind all but sampling."""
        check_finite(logits)
        shifted = logits - logits.max()
        shifted -= np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
        return self._process(shifted, ids)

    def choose(self, logits: Floats, ids: Sequence[int]) -> int:
        """The next token's id. logits: float32 [n_vocab], not changed; ids: all tokens so far.

        Gpt2cError: a logit is not a finite number, which takes damaged weights, or the settings rule out
        every token.
        """
        check_finite(logits)
        logits = self._process(logits, ids)
        if self._settings.temperature == 0:
            _largest(logits)  # there is one
            return int(logits.argmax())
        cumulative = np.cumsum(softmax(logits))
        return int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))

    def _process(self, logits: Floats, ids: Sequence[int]) -> Floats:
        return process(logits, ids, self._settings, len(ids) - self._n_prompt, self._eos)


def check_finite(logits: Floats) -> None:
    """Gpt2cError: a logit is not a finite number."""
    if not np.isfinite(logits).all():
        raise Gpt2cError("the model's logits are not finite numbers: its weights must be damaged")
