"""Errors that a user can cause.

A command prints one of these as a single line, without a traceback, and exits with 1, or with 2 for a ConfigError. Each
is also the built-in error that a caller from Python expects.
"""


class UserError(Exception):
    """A mistake that the message alone explains: it names the argument or file, and what was expected and given."""


class DataError(UserError, ValueError):
    """Images or labels that cannot be read or are not what training needs."""


class RunError(UserError, RuntimeError):
    """A request that this machine, run directory or run cannot fulfil."""


class ContactLost(RunError):
    """The loss of another process of this run. Each process that notices reports it, as they can no longer agree."""


class ConfigError(UserError, ValueError):
    """A setting that no machine or file could make valid; commands exit with 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, without the pages that may follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
