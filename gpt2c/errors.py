"""Every error gpt2c raises, and the one place where a C status becomes one of them.

All derive from `Gpt2cError`; each also derives from the built-in that a caller who knows nothing of
gpt2c would try to catch. Messages are one line and say what was wrong, with the offending value.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "CancelledError",
    "ClosedError",
    "ConfigError",
    "ContextLengthError",
    "Gpt2cError",
    "ModelFileError",
    "ModelNotFoundError",
    "OptionError",
    "OutOfMemoryError",
    "SessionBusyError",
    "TokenError",
]


class Gpt2cError(Exception):
    """Base of every error that gpt2c raises on purpose."""


class ModelFileError(Gpt2cError, ValueError):
    """A model's file or folder cannot be read, or does not hold what it claims."""


class ModelNotFoundError(ModelFileError, FileNotFoundError):
    """A model's file or folder is not there."""


class ConfigError(Gpt2cError, ValueError):
    """A config.json describes a model that gpt2c does not run."""


class OptionError(Gpt2cError, ValueError):
    """An unknown or conflicting option, or a number outside its range."""


class ContextLengthError(Gpt2cError, ValueError):
    """More tokens than the model's context holds."""


class TokenError(Gpt2cError, ValueError):
    """An empty prompt, or a token id outside the vocabulary."""


class SessionBusyError(Gpt2cError, RuntimeError):
    """Two threads called one session at the same time."""


class ClosedError(Gpt2cError, ValueError):
    """A model or session was used after close()."""


class CancelledError(Gpt2cError):
    """`Session.cancel()` ended a call that was running in another thread."""


class BackendUnavailable(Gpt2cError, ImportError):
    """An engine, a binding or an optional package is not installed or not built."""


class OutOfMemoryError(Gpt2cError, MemoryError):
    """The C core could not allocate; nothing was changed."""


# gpt2c_status of include/gpt2c.h, in its order. What the caller can do better than C's sentence is
# checked, and said, before C is called; these are what is left.
_CLASS_OF_STATUS: dict[int, type[Gpt2cError]] = {
    1: OptionError,
    2: OutOfMemoryError,
    3: BackendUnavailable,
    4: ModelFileError,
    5: TokenError,
    6: ContextLengthError,
    7: SessionBusyError,
    8: CancelledError,
    9: ModelFileError,
    10: ModelFileError,
    11: ModelFileError,
}


def check(status: int, message: str) -> None:
    """Raise the error that a gpt2c_status stands for, with C's own sentence; return if it is OK."""
    if status:
        raise _CLASS_OF_STATUS.get(status, Gpt2cError)(message)
