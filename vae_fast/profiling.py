"""NVTX ranges for Nsight Systems, off unless asked for."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from vae_fast.errors import RunError

Range = Callable[[str], AbstractContextManager[object]]


def ranges(enabled: bool) -> Range:
    """A function that opens a named range around a block; one that does nothing where `enabled` is false."""
    if not enabled:
        nothing = nullcontext()
        return lambda name: nothing
    try:
        import nvtx
    except ModuleNotFoundError:
        raise RunError("--nvtx: needs the package nvtx; install it with: pip install 'vae_fast[nvtx]'") from None
    return lambda name: nvtx.annotate(name, domain="vae_fast")
