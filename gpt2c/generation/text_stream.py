"""Turn the bytes of tokens into whole characters, and stop before a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from gpt2c.errors import OptionError


class TextStream:
    """Turns the bytes of tokens into text as they arrive, and ends the text before a stop string.

    The results of `push` and `finish`, joined, equal all bytes decoded at once (UTF-8, with U+FFFD for bytes
    that are not UTF-8), cut where the earliest stop string begins. Text that may be the beginning of a stop
    string is held back, so that no part of one is returned, even if it is spread over several tokens or
    begins inside one.

    stop: the stop strings. Raises OptionError if one is empty or not text.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stops = (stop,) if isinstance(stop, str) else tuple(stop)
        for text in self._stops:
            if not isinstance(text, str):
                raise OptionError(f"a stop string must be text, not {type(text).__name__}")
            if not text:
                raise OptionError("a stop string must not be empty")
        # A GPT-2 token may end inside a character. The decoder holds such bytes until the others arrive.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found, which ends the text."""
        return self._stopped

    def push(self, data: bytes) -> str:
        """Take the bytes of the next token and return the text that is now certain (often "")."""
        if self._stopped:
            return ""
        self._held += self._decoder.decode(data)
        found, begun = self._find_stop(), self._find_beginning()
        # A stop string that began earlier and may still be completed would end the text earlier.
        if found is not None and found <= begun:
            return self._stop_at(found)
        text, self._held = self._held[:begun], self._held[begun:]
        return text

    def finish(self) -> str:
        """End the input: return the text that was held back, up to a stop string if it contains one."""
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
        """Return where the earliest stop string begins in the text held back, or None."""
        positions = (self._held.find(stop) for stop in self._stops)
        return min((p for p in positions if p >= 0), default=None)

    def _find_beginning(self) -> int:
        """Return where the longest ending of the held text begins that may still become a stop string."""
        longest = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:n]):
                    longest = n
                    break
        return len(self._held) - longest
