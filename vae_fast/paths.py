"""Paths as users write them."""

import os

from vae_fast.errors import ConfigError


def expanded(name: str, path: str | os.PathLike[str]) -> str:
    """Return the path with ~ expanded; raise ConfigError, naming the setting, if it cannot be recorded or opened.

    A path that is not UTF-8 could be written neither to config.toml nor to a page.
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
