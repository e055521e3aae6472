"""PyTorch's process-wide defaults and modes, which callers may have changed for their own work."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def as_it_starts() -> Iterator[None]:
    """Reset the defaults to float32, the CPU, gradients and no autocast; at the end restore what the caller had set.

    Also usable as a decorator. A device mode slows down every call, so it is entered only if the caller has set a
    default device.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
