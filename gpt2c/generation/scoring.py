"""How probable a model finds a text: log probabilities, perplexity, bits a byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._checks import n_common
from ..config import ModelConfig
from ..errors import OptionError, TokenError
from ..options import Plan
from ..session import Session
from ..text.tokenizer import Tokenizer
from .sampling import check_finite

_ROWS = 64  # of logits at a time: 13 MB of GPT-2's

Progress = Callable[[int], None]
"""Told how many more tokens have been scored."""


@dataclass(frozen=True)
class Score:
    """What a model makes of a text of n tokens.

    logprobs: float64 [n - 1], the natural logarithm of the probability of each token but the first; nll:
    their negated mean; perplexity: e to the nll; bits_per_byte: their negated sum in bits, divided by the
    bytes of those tokens; None for a model without a vocabulary.
    """

    logprobs: NDArray[np.float64]
    nll: float
    perplexity: float
    bits_per_byte: float | None


def windows(n: int, n_ctx: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first) of windows over n tokens: tokens first .. end - 1 are scored in [begin, end).

    A window begins every `stride` tokens and holds n_ctx; what the one before it scored is only context
    there, so each token but the text's first is scored once.
    """
    first = 1
    for begin in range(0, n, stride):
        end = min(begin + n_ctx, n)
        yield begin, end, first
        first = end
        if end == n:
            return


def score(
    new_session: Callable[[], Session],
    ids: NDArray[np.int32],
    config: ModelConfig,
    plan: Plan,
    tokenizer: Tokenizer | None,
    stride: int | None = None,
    progress: Progress = lambda n: None,
) -> Score:
    """Score token ids [n]. Nothing is put in front of them, so the first token has no score.

    A longer text than n_ctx goes through in windows of n_ctx tokens, `stride` apart (n_ctx // 2 if None);
    each token is scored once, by what its window holds before it, which is at least n_ctx - stride tokens.
    """
    if ids.size < 2:
        raise TokenError("at least two tokens are needed: the first has nothing before it to be scored by")
    stride = _checked_stride(stride, ids.size, config.n_ctx)
    logprobs = np.empty(ids.size - 1, np.float64)
    with new_session() as session:
        for begin, end, first in windows(ids.size, config.n_ctx, stride):
            session.rewind(0)
            at = first - 1
            for logits in logits_in_front(session, ids[begin:end].tolist(), first - begin, plan):
                to = at + len(logits)
                logprobs[at:to] = logprobs_of(logits, ids[at + 1 : to + 1])
                progress(to - at)
                at = to
    nll = -float(logprobs.mean())
    return Score(logprobs, nll, _exp(nll), _bits_per_byte(logprobs, ids, tokenizer))


def logits_in_front(
    session: Session, ids: Sequence[int], first: int, plan: Plan
) -> Iterator[NDArray[np.float32]]:
    """Logits in front of ids[first], ids[first + 1], ..., in arrays [n, n_vocab] of some rows each.

    What the session holds of the beginning already is not computed again. first: at least 1.
    """
    held = min(n_common(session.ids, ids), first - 1)
    session.rewind(held)
    if held < first - 1:
        session.feed_hidden(ids[held : first - 1])
    # With a switch off, every feed computes older rows again: then there is only one.
    rows = _ROWS if plan.is_incremental else len(ids)
    for at in range(first - 1, len(ids) - 1, rows):
        yield session.feed_all(ids[at : min(at + rows, len(ids) - 1)])


def _checked_stride(stride: int | None, n: int, n_ctx: int) -> int:
    if stride is None:
        stride = max(1, n_ctx // 2)
    is_integer = isinstance(stride, (int, np.integer)) and not isinstance(stride, bool)
    if not is_integer or not 0 < stride < max(n_ctx, 2):
        raise OptionError(f"stride must be an integer from 1 to {n_ctx - 1}, not {stride!r}")
    if n > n_ctx == 1:
        raise OptionError("a context of one token holds nothing to score the next by")
    return int(stride)


def logprobs_of(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Of ids[r] by logits[r], which are changed: the exponentials in float32, their sum in float64.

    Gpt2cError: a logit is not a finite number, which takes damaged weights.
    """
    check_finite(logits)
    largest = logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, ids[:, None].astype(np.int64), -1)
    shifted = (chosen - largest)[:, 0].astype(np.float64)
    logits -= largest
    return np.asarray(shifted - np.log(np.exp(logits, out=logits).sum(-1, dtype=np.float64)))


def _exp(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def _bits_per_byte(
    logprobs: NDArray[np.float64], ids: NDArray[np.int32], tokenizer: Tokenizer | None
) -> float | None:
    if tokenizer is None:
        return None
    n_bytes = sum(len(tokenizer.token_bytes(id)) for id in ids[1:])
    return -float(logprobs.sum()) / math.log(2) / n_bytes if n_bytes else math.inf
