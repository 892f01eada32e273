"""Bytes of tokens in, whole characters out, never a character of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from gpt2c.errors import OptionError


class TextStream:
    """Turns the bytes of tokens into text as they come, and ends it before a stop string.

    What the calls of `push` and `finish` return, joined, is all bytes decoded at once (UTF-8, with
    U+FFFD for what is not UTF-8) and cut where the earliest stop string begins. Text that may still turn
    out to be the beginning of a stop string is held back, so one never shows even if it is spread over
    several tokens or begins inside one.

    `stop`: the stop strings; an empty one, or one that is not text, raises OptionError.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stops = (stop,) if isinstance(stop, str) else tuple(stop)
        for text in self._stops:
            if not isinstance(text, str):
                raise OptionError(f"a stop string must be text, not {type(text).__name__}")
            if not text:
                raise OptionError("a stop string must not be empty")
        # A GPT-2 token may end in the middle of a character; the decoder keeps its first bytes until then.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met; the text is complete then."""
        return self._stopped

    def push(self, data: bytes) -> str:
        """Take the bytes of the next token; return the text that is now certain (often "")."""
        if self._stopped:
            return ""
        self._held += self._decoder.decode(data)
        found, begun = self._find_stop(), self._find_beginning()
        # A stop string that began earlier and is not complete yet would end the text earlier.
        if found is not None and found <= begun:
            return self._stop_at(found)
        text, self._held = self._held[:begun], self._held[begun:]
        return text

    def finish(self) -> str:
        """No more tokens: return what was held back, up to a stop string if it holds one."""
        if self._stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        found = self._find_stop()
        if found is not None:
            return self._stop_at(found)
        text, self._held = self._held, ""
        return text

    def _stop_at(self, position: int) -> str:
        text, self._held, self._stopped = self._held[:position], "", True
        return text

    def _find_stop(self) -> int | None:
        """Where the earliest stop string begins in the text held back."""
        positions = (self._held.find(stop) for stop in self._stops)
        return min((p for p in positions if p >= 0), default=None)

    def _find_beginning(self) -> int:
        """Where the longest end of the held text begins that may yet become a stop string."""
        longest = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:n]):
                    longest = n
                    break
        return len(self._held) - longest
