"""From logits to the next token, as transformers' logits processors define it.

The functions are pure and take one row of logits. They are applied in the order in which transformers applies
them: repetition penalty, no-repeat n-gram, minimum number of new tokens, suppressed tokens, temperature,
top-k, top-p, min-p. A token that is ruled out gets the logit -infinity.
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
    """Return a factor as float32, clipped to avoid overflow; the clipping does not change any choice."""
    return np.float32(min(max(value, 1e-15), 1e15))


def apply_repetition_penalty(logits: Floats, ids: Sequence[int], penalty: float) -> Floats:
    """Divide positive logits of `ids` by the penalty and multiply negative ones by it.

    Source: Keskar et al. 2019, CTRL.
    """
    out = logits.copy()
    seen = np.unique(np.asarray(ids, np.int64))
    scores = out[seen]
    out[seen] = np.where(scores < 0, scores * _factor(penalty), scores / _factor(penalty))
    return out


def apply_no_repeat_ngram(logits: Floats, ids: Sequence[int], size: int) -> Floats:
    """Rule out tokens that would complete an n-gram of `size` tokens that `ids` already contains.

    Source: Paulus et al. 2017.
    """
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
    """Divide by the temperature (> 0). Below 1, probable tokens become more probable."""
    return logits / _factor(temperature)


def apply_top_k(logits: Floats, k: int) -> Floats:
    """Rule out tokens whose logit is below the k-th largest; tokens that tie with it stay."""
    k = min(k, logits.size)
    kth_largest = np.partition(logits, -k)[-k]
    return np.where(logits < kth_largest, np.float32(-np.inf), logits)


def apply_top_p(logits: Floats, p: float) -> Floats:
    """Rule out all but the smallest set of most probable tokens that reaches p; at least one token stays.

    Source: Holtzman et al. 2019.
    """
    probabilities = softmax(logits)
    # All of these together have a probability below 1 - p, so they are dropped without sorting.
    small = probabilities < (1 - p) / (2 * logits.size)
    remaining = np.flatnonzero(~small)
    order = remaining[np.argsort(logits[remaining], kind="stable")]
    dropped = probabilities[small].sum() + np.cumsum(probabilities[order]) <= 1 - p
    dropped[-1] = False
    out = np.where(small, np.float32(-np.inf), logits)
    out[order[dropped]] = -np.inf
    return out


def apply_min_p(logits: Floats, p: float) -> Floats:
    """Rule out tokens that are less than p times as probable as the most probable one."""
    probabilities = softmax(logits)
    return np.where(probabilities < p * probabilities.max(), np.float32(-np.inf), logits)


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Return probabilities, in float64. Raises OptionError if every token is ruled out."""
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
    """Apply everything that the settings turn on, in order, to a row of logits [n_vocab].

    ids: all tokens so far. n_new: how many of them, at the end, are new. eos: the end-of-text token.
    """
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
    """Natural log probabilities that the model gave at a new token, before any setting changed them.

    logprob: that of the token itself. top: {id: log probability} of the most probable tokens, in order.
    """

    logprob: float
    top: dict[int, float]


def token_logprobs(logits: Floats, token: int, k: int) -> TokenLogprobs:
    """Return the token's own log probability and the k largest; the lower id comes first in a tie."""
    k = min(k, logits.size)
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    kth = np.partition(logprobs, logits.size - k)[logits.size - k] if k else np.inf
    candidates = np.flatnonzero(logprobs >= kth)
    top = candidates[np.argsort(-logprobs[candidates], kind="stable")][:k]
    return TokenLogprobs(float(logprobs[token]), {int(i): float(logprobs[i]) for i in top})


class Sampler:
    """Chooses tokens one after another. The random numbers come from NumPy's PCG64, seeded with `seed`.

    Each choice draws one uniform number u in [0, 1). The token is the first, in order of ids, at which the
    running sum of probabilities (float64) exceeds u times their sum. At temperature 0 it is the token with
    the largest logit (the lowest id in a tie), and no number is drawn.

    n_prompt: the number of prompt tokens. eos: the token that min_new_tokens rules out at first.
    """

    def __init__(self, settings: GenerationSettings, n_prompt: int = 0, eos: int | None = None) -> None:
        self._settings = settings
        self._n_prompt = n_prompt
        self._eos = eos
        if settings.temperature > 0:
            # Imported here, because it takes 3 MB that greedy use does not need; and not at the first token,
            # because a Ctrl-C during the import can be lost.
            from numpy.random import PCG64, Generator

            self._random = Generator(PCG64(settings.seed))

    def fork(self) -> Sampler:
        """Return a copy that will draw the same random numbers."""
        fork = Sampler(self._settings, self._n_prompt, self._eos)
        if self._settings.temperature > 0:
            fork._random = deepcopy(self._random)
        return fork

    def logprobs(self, logits: Floats, ids: Sequence[int]) -> Floats:
        """Return log probabilities [n_vocab], as transformers' beam search adds them up.

        They follow the settings; temperature is 0 in a beam search. logits: float32 [n_vocab], not changed;
        ids: all tokens so far. Raises Gpt2cError if a logit is not finite.
        """
        check_finite(logits)
        shifted = logits - logits.max()
        shifted -= np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
        return self._process(shifted, ids)

    def choose(self, logits: Floats, ids: Sequence[int]) -> int:
        """Return the id of the next token.

        logits: float32 [n_vocab], not changed; ids: all tokens so far. Raises Gpt2cError if a logit is not
        finite, which only damaged weights cause, and OptionError if the settings rule out every token.
        """
        check_finite(logits)
        logits = self._process(logits, ids)
        if self._settings.temperature == 0:
            _largest(logits)  # raises if every token is ruled out
            return int(logits.argmax())
        cumulative = np.cumsum(softmax(logits))
        return int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))

    def _process(self, logits: Floats, ids: Sequence[int]) -> Floats:
        return process(logits, ids, self._settings, len(ids) - self._n_prompt, self._eos)


def check_finite(logits: Floats) -> None:
    """Raise Gpt2cError if a logit is not finite."""
    if not np.isfinite(logits).all():
        raise Gpt2cError("the model's logits are not finite: its weights must be damaged")
