"""Generation with a session that gives scripted logits, so that any tokens can come."""

from __future__ import annotations

import re

import numpy as np

from gpt2c.generation.continuation import Continuation, Stream, one_by_one
from gpt2c.generation.settings import GenerationSettings


def before_stop(text, stop):
    """The text before the earliest stop string, by the regular expression engine."""
    match = re.search("|".join(map(re.escape, stop)), text) if stop else None
    return text[: match.start()] if match else text


def text_of(tokenizer, ids, stop=()):
    """What the text of a completion with these ids has to be."""
    without_eos = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    return before_stop(tokenizer.decode(without_eos), stop)


class Script:
    """Stands in for a session: its model's next tokens are the given ones."""

    def __init__(self, ids):
        self.ids = list(ids)
        self.fed = []
        self.n_past = 0
        self.closed = False
        self.cancelled = False

    def feed_greedy(self, ids):
        self.fed.append(list(ids))
        self.n_past += len(ids)
        return self.ids[len(self.fed) - 1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed = True


def play(model, ids, stop=(), n=None):
    """The pieces, the completion and the session of a generation whose new tokens are `ids`."""
    script = Script(ids)
    settings = GenerationSettings(len(ids) if n is None else n, stop=stop)
    sequence = Continuation(np.array([1, 2, 3], np.int32), settings, model.tokenizer, model.config)
    stream = Stream(sequence, lambda: script, one_by_one)
    pieces = list(stream)
    assert script.closed
    return pieces, stream.completion, script
