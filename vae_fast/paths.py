"""Paths as people give them."""

import os

from vae_fast.errors import ConfigError


def expanded(name: str, path: str | os.PathLike[str]) -> str:
    """The path with ~ expanded. ConfigError, which names the setting, for one that cannot be recorded or opened.

    A name that is not UTF-8 could stand neither in config.toml nor on a page.
    """
    text = os.path.expanduser(os.fspath(path))
    if not text:
        raise ConfigError(f"{name}: expected a path, got {text!r}")
    if "\0" in text:
        raise ConfigError(f"{name}: expected a path, which has no NUL character, got {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name}: expected a path in UTF-8, got {text!r}; rename the file or folder") from None
    return text
