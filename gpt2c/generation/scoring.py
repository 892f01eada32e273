"""How probable a model finds a text: log probabilities, perplexity, bits per byte."""

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

_ROWS = 64  # rows of logits per feed: 13 MB for GPT-2

Progress = Callable[[int], None]
"""Called with the number of tokens scored since the last call."""


@dataclass(frozen=True)
class Score:
    """How probable a model finds a text of n tokens.

    logprobs: float64 [n - 1], the natural log probability of each token but the first. nll: their negated
    mean, in nats per token. perplexity: exp(nll). bits_per_byte: their negated sum in bits, divided by the
    number of UTF-8 bytes of those tokens; None for a model without a vocabulary.
    """

    logprobs: NDArray[np.float64]
    nll: float
    perplexity: float
    bits_per_byte: float | None


def windows(n: int, n_ctx: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, first) for each window over n tokens.

    The window [begin, end) scores the tokens first .. end - 1. Windows begin `stride` tokens apart and hold
    up to n_ctx tokens. The tokens that an earlier window scored are only context, so each token but the first
    of the text is scored once.
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
    """Score token ids [n]. No token is added before them, so the first token has no score.

    More than n_ctx tokens are scored in windows of n_ctx tokens that begin `stride` tokens apart (None: n_ctx
    // 2). Each token is scored once, given the tokens before it in its window: at least n_ctx - stride of
    them, except near the start of the text. See `Model.score` for errors.
    """
    if ids.size < 2:
        raise TokenError("at least two tokens are needed: the first has no tokens before it to score it by")
    stride = _checked_stride(stride, ids.size, config.n_ctx)
    logprobs = np.empty(ids.size - 1, np.float64)
    with new_session() as session:
        for begin, end, first in windows(ids.size, config.n_ctx, stride):
            session.rewind(0)
            at = first - 1
            for logits in logits_before(session, ids[begin:end].tolist(), first - begin, plan):
                to = at + len(logits)
                logprobs[at:to] = logprobs_of(logits, ids[at + 1 : to + 1])
                progress(to - at)
                at = to
    nll = -float(logprobs.mean())
    return Score(logprobs, nll, _exp(nll), _bits_per_byte(logprobs, ids, tokenizer))


def logits_before(
    session: Session, ids: Sequence[int], first: int, plan: Plan
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits that predict ids[first], ids[first + 1], ... to the end of `ids`.

    They come in float32 arrays [n, n_vocab] of up to 64 rows, or in one array if the plan lacks one of the
    six switches. What the session already holds of `ids` is not computed again. first: at least 1.
    """
    n_held = min(n_common(session.ids, ids), first - 1)
    session.rewind(n_held)
    if n_held < first - 1:
        session.feed_hidden(ids[n_held : first - 1])
    # With a switch off, every feed computes older rows again, so there is only one feed.
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
        raise OptionError("a context of one token cannot hold a token to score the next one by")
    return int(stride)


def logprobs_of(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the log probability of ids[r] under logits[r], for each row r: float64 [n].

    logits: float32 [n, n_vocab], overwritten. The exponentials are computed in float32, their sum in float64.
    Raises Gpt2cError if a logit is not finite, which only damaged weights cause.
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
