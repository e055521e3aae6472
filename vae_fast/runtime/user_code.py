"""Functions that users name in a setting, by their place: FILE.py:function or package.module:function."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from vae_fast.errors import RunError


def absolute(place: str) -> str:
    """Return the place with the whole path of its file, if it has one."""
    file, colon, name = place.rpartition(":")
    return f"{Path(file).absolute()}{colon}{name}" if file.endswith(".py") else place


def found(setting: str, place: str) -> tuple[Callable[..., Any], str]:
    """Return the function at a place, and the SHA-256 of its file in hexadecimal.

    Raises RunError, which names the setting, if there is none; what the user's code raises on import is passed on.
    """
    home, _, name = place.rpartition(":")
    module = _from_file(setting, place, Path(home)) if home.endswith(".py") else _imported(setting, place, home)
    function = getattr(module, name, None)
    if not callable(function):
        has = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value)) or "none"
        raise RunError(f"{setting}: {home} has no function {name!r}; its functions: {has}")
    file = getattr(module, "__file__", None)
    return function, hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


@contextmanager
def beside(place: str) -> Iterator[None]:
    """Let a file import those beside it, as a script may."""
    home = place.rpartition(":")[0]
    folder = str(Path(home).absolute().parent) if home.endswith(".py") else ""
    sys.path.insert(0, folder)  # without a file: the working directory, as for `python -m`
    try:
        yield
    finally:
        sys.path.remove(folder)


def _from_file(setting: str, place: str, file: Path) -> ModuleType:
    if not file.is_file():
        raise RunError(
            f"{setting}: {file}: there is no such file, expected one with a function {place.rpartition(':')[2]}"
        )
    name = f"vae_fast_{setting}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look
    spec.loader.exec_module(module)
    return module


def _imported(setting: str, place: str, home: str) -> ModuleType:
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name is not None and (home == error.name or home.startswith(f"{error.name}.")):
            raise RunError(
                f"{setting}: {place}: there is no module {error.name!r}; a file is FILE.py:function"
            ) from None
        raise
