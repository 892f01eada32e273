"""All errors that gpt2c raises, and the only place that turns a C status into one of them.

All derive from `Gpt2cError`. Most also derive from a built-in exception, so that code that does not
know gpt2c can catch them. A message is one line that says what is wrong and shows the offending value.
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
    """Base class of every error that gpt2c raises on purpose."""


class ModelFileError(Gpt2cError, ValueError):
    """A model's file or folder cannot be read, or its content is not what it claims to be."""


class ModelNotFoundError(ModelFileError, FileNotFoundError):
    """A model's file or folder does not exist."""


class ConfigError(Gpt2cError, ValueError):
    """A config.json describes a model that gpt2c cannot run."""


class OptionError(Gpt2cError, ValueError):
    """An option is unknown or conflicts with another, or a value is outside its range."""


class ContextLengthError(Gpt2cError, ValueError):
    """There are more tokens than the model's context holds."""


class TokenError(Gpt2cError, ValueError):
    """The prompt is empty, or a token id is outside the vocabulary."""


class SessionBusyError(Gpt2cError, RuntimeError):
    """A session was called while another thread was in a call to it."""


class ClosedError(Gpt2cError, ValueError):
    """A model or session was used after close()."""


class CancelledError(Gpt2cError):
    """`cancel()`, called in another thread, ended this call."""


class BackendUnavailable(Gpt2cError, ImportError):
    """A backend, a binding or an optional package is not installed or not built."""


class OutOfMemoryError(Gpt2cError, MemoryError):
    """The C core could not allocate memory; nothing was changed."""


# gpt2c_status of include/gpt2c.h, in its order. Where Python can give a better message than C, it checks
# before it calls C; the other errors come from here.
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
    """Raise the error that a gpt2c_status stands for, with C's message; return if the status is OK."""
    if status:
        raise _CLASS_OF_STATUS.get(status, Gpt2cError)(message)
