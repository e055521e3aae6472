"""The preloaded library that makes system calls fail: how it is built, and controlled from within a process."""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("failing.c")
SCOPES = ("changes", "looks")  # calls that change something, and calls that only read; in the order of failing.c
KILL = "SIGKILL"  # instead of an error


def build(folder: Path) -> Path:
    """Compile the library into a folder; raise RuntimeError with the reason if that is not possible."""
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
    """Make call number `number` on paths under `root` fail; 0 for none. error: a name from errno, or KILL."""
    code = 0 if error == KILL else getattr(errno, error)
    _loaded().faults_arm(os.fsencode(root), SCOPES.index(scope), ctypes.c_long(number), code, from_then_on)


def counted() -> dict[str, int]:
    """Return the number of calls of each scope since `arm`."""
    calls = _loaded().faults_calls
    calls.restype = ctypes.c_long
    return {scope: calls(i) for i, scope in enumerate(SCOPES)}


def failed() -> str:
    """Return the name and path of the first call that failed, empty if none has."""
    name = _loaded().faults_failed
    name.restype = ctypes.c_char_p
    return os.fsdecode(name())


def _loaded() -> ctypes.CDLL:
    return ctypes.CDLL(None)  # the whole process, where names of the preloaded library come first
