"""What a user can cause. A command prints one of these as a single line, without a traceback, and exits with 1, or
with 2 for a ConfigError.

Each also is the built-in error that a caller from Python expects.
"""


class UserError(Exception):
    """A mistake that the message alone explains: it names the argument or file, what was expected and what came."""


class DataError(UserError, ValueError):
    """Images or labels that cannot be read or are not what training needs."""


class RunError(UserError, RuntimeError):
    """This machine, run directory or run cannot do what was asked."""


class ContactLost(RunError):
    """Another process of this run is gone. Whoever notices says so, for there is nobody to agree with."""


class ConfigError(UserError, ValueError):
    """A setting that no machine or file could make valid; commands exit with 2."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, without the pages that may follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
