"""The preloaded library that lets calls to the operating system fail: built, and steered from within a process."""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("failing.c")
SCOPES = ("changes", "looks")  # calls that change something, and calls that only look; in the order of failing.c
KILL = "SIGKILL"  # in the place of an error


def build(folder: Path) -> Path:
    """Compile the library into a folder. RuntimeError, which says why, where that cannot be."""
    if sys.platform != "linux":
        raise RuntimeError("calls are intercepted by LD_PRELOAD, on Linux alone")
    library = folder / "failing.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wno-nonnull-compare", "-shared", "-fPIC"]
    try:
        subprocess.run(["cc", *flags, "-o", library, SOURCE, "-ldl"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError("there is no C compiler named cc") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"cc: {error.stderr.strip()}") from None
    return library


def arm(root: str, scope: str, number: int, error: str, from_then_on: bool) -> None:
    """Let the call of that number under `root` fail; 0 for none. error: a name of errno's, or KILL."""
    code = 0 if error == KILL else getattr(errno, error)
    _loaded().faults_arm(os.fsencode(root), SCOPES.index(scope), ctypes.c_long(number), code, from_then_on)


def counted() -> dict[str, int]:
    """Count the calls of each scope since `arm`."""
    calls = _loaded().faults_calls
    calls.restype = ctypes.c_long
    return {scope: calls(i) for i, scope in enumerate(SCOPES)}


def failed() -> str:
    """Name the first call that failed, and its path; empty if none has."""
    name = _loaded().faults_failed
    name.restype = ctypes.c_char_p
    return os.fsdecode(name())


def _loaded() -> ctypes.CDLL:
    return ctypes.CDLL(None)  # of the whole process, whose names come from what was preloaded first
