"""The C++ operators: an optional shared library next to this file.

A library built with one torch may crash inside another, so it contains the version it was built with, which is read
from the file before any of its code runs. If the library is missing or does not match, the reference implementations
are used.
"""

import functools
import logging
import re
from pathlib import Path

import torch

from .registration import INTERPRETED

torch.library.define("vae_fast::instruction_set", "() -> str")
# The nanoseconds until one of PyTorch's threads sees what another wrote, averaged over `count` round trips; see
# csrc/core_latency.cpp.
torch.library.define("vae_fast::core_latency", "(int count) -> float")

_LIBRARY = Path(__file__).with_name("_C.so")
_REASON = Path(__file__).with_name("_C_missing.txt")  # written by setup.py when it could not build the library
_BUILT_WITH = re.compile(rb"vae_fast built with torch ([!-~]+)\0")  # csrc/build_info.cpp
_REMEDY = "reinstall vae_fast with pip install --no-build-isolation"


def load() -> bool:
    """Return whether the C++ operators are available; the first call loads them. Never raises."""
    return _attempt()[0]


def status() -> str:
    """Return one line on whether the C++ operators are loaded, and if not, why."""
    return f"C++ operators: {_attempt()[1]}"


@functools.cache
def _attempt() -> tuple[bool, str]:
    if INTERPRETED:
        return False, "not loaded: under TRITON_INTERPRET=1 the Triton kernels take their place"
    if not _LIBRARY.exists():
        return False, f"not built: {_reason()}"
    loaded, outcome = _load(_LIBRARY)
    if not loaded:  # unlike a missing library, this is unexpected
        logging.getLogger("vae_fast").warning("C++ operators: %s", outcome)
    return loaded, outcome


def _load(library: Path) -> tuple[bool, str]:
    try:
        built_with = _BUILT_WITH.search(library.read_bytes())
        if built_with is None:
            return False, f"not loaded: {library} names no torch version, so it is damaged; {_REMEDY}"
        version = built_with[1].decode("ascii")
        if version != torch.__version__:
            return False, f"not loaded: built with torch {version}, this is torch {torch.__version__}; {_REMEDY}"
        torch.ops.load_library(library)
    except (OSError, RuntimeError) as error:  # RuntimeError if another copy has registered the same operators
        reason = error.__cause__ or error  # torch wraps the error of the system's loader
        return False, f"not loaded: {' '.join(str(reason).split())}; {_REMEDY}"
    return True, f"built with torch {version}, loaded, {torch.ops.vae_fast.instruction_set()} code"


def _reason() -> str:
    try:
        return " ".join(_REASON.read_text().split())
    except OSError:
        return f"this install came without the library; {_REMEDY}"
