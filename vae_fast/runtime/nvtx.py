"""Named ranges of a run's time, in NVTX for Nsight Systems and in PyTorch's own profiler, at no cost when off.

A range is put around a function once, when the run is built, and not around each of its calls: `mark(name, function)`
is `function` itself when ranges are off, so they add nothing to the hot loop. When on, all ranges belong to one NVTX
domain, with names registered beforehand, so a push passes a single pointer.

There are no ranges inside compiled code: "gradients" goes around the one call that runs forward and backward. Nor does
a CUDA graph replay ranges, which belong to the host: for recorded steps only "step" remains, one for each launch.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from vae_fast.errors import RunError

P = ParamSpec("P")
R = TypeVar("R")

DOMAIN = "vae_fast"
COLOURS = {  # by name, as ARGB: matplotlib's tab10, as in the figures in docs/
    "data": 0xFF7F7F7F,
    "step": 0xFF17BECF,
    "forward": 0xFF1F77B4,
    "backward": 0xFFFF7F0E,
    "gradients": 0xFFE377C2,
    "optimizer": 0xFF2CA02C,
    "evaluation": 0xFF9467BD,
    "checkpoint": 0xFFD62728,
}


class Mark(Protocol):
    """A callable that returns a function with the range `name`, one of COLOURS, around each of its calls."""

    def __call__(self, name: str, function: Callable[P, R], /) -> Callable[P, R]: ...


def unmarked(name: str, function: Callable[P, R], /) -> Callable[P, R]:
    """Return `function` unchanged."""
    return function


def marks(nvtx: bool, profiler: bool) -> Mark:
    """Return how a run marks its parts: for Nsight Systems, for torch.profiler, for both, or not at all.

    Raises RunError if `nvtx` is on and the package nvtx is not installed.
    """
    outer = in_domain(_nvtx_domain()) if nvtx else unmarked
    if not profiler:
        return outer

    def mark(name: str, function: Callable[P, R], /) -> Callable[P, R]:
        return outer(name, _in_profiler(name, function))

    return mark


def in_domain(domain: Any) -> Mark:
    """Return a `Mark` that pushes and pops ranges of `domain`, an nvtx.Domain."""
    events = {name: domain.get_event_attributes(message=name, color=colour) for name, colour in COLOURS.items()}
    push, pop = domain.push_range, domain.pop_range

    def mark(name: str, function: Callable[P, R], /) -> Callable[P, R]:
        event = events[name]

        def marked(*args: P.args, **kwargs: P.kwargs) -> R:
            push(event)
            try:
                return function(*args, **kwargs)
            finally:
                pop()

        return marked

    return mark


def _in_profiler(name: str, function: Callable[P, R]) -> Callable[P, R]:
    from torch.profiler import record_function

    def marked(*args: P.args, **kwargs: P.kwargs) -> R:
        with record_function(name):
            return function(*args, **kwargs)

    return marked


def _nvtx_domain() -> Any:
    try:
        import nvtx
    except ModuleNotFoundError:
        raise RunError("--nvtx: needs the package nvtx; install it with: pip install 'vae_fast[nvtx]'") from None
    return nvtx.get_domain(DOMAIN)  # a domain that does nothing if no tool listens
