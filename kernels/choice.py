"""Which implementation answers a call: the one asked for, or with impl="auto" the device's if it can, or the reference.

The reference takes everything. Triton takes float32, float16 and bfloat16 on a GPU, and C++ on a CPU where the library
is built. torch.compile traces these functions, so what they ask of the machine are constants: it could follow neither
the loading of a file nor a search of PATH.
"""

import os
import shutil

import torch
from torch import Tensor

from . import library, operators

IMPLEMENTATIONS = ("auto", "triton", "cpp", "reference")
HAS_LIBRARY = library.load()
HAS_C_COMPILER = any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))))

# The public functions with the operators behind them, and which of their arguments decide, in the order of `chosen`.
OPERATORS = {
    "random_bits": "random_bits",
    "reparameterize": "reparameterize",
    "sample_posterior": "sample_posterior",
    "elbo_loss": "elbo",
    "nll": "nll",
}
ARGUMENTS = {
    "random_bits": ("seed",),
    "reparameterize": ("mu", "logvar"),
    "sample_posterior": ("stats",),
    "elbo_loss": ("logits", "mu", "logvar", "target", "log_scale"),
    "nll": ("logits", "target", "log_scale"),
}

# What each implementation takes: dtypes of all floating arguments, those of some others, and likelihoods; and which
# functions the library has kernels for.
TAKEN = {"triton": (torch.float32, torch.float16, torch.bfloat16), "cpp": (torch.float32,)}
ALSO_TAKEN = {"target": torch.uint8, "seed": torch.int64}
CPP_LIKELIHOODS = ("bernoulli",)
IN_LIBRARY = tuple(
    name
    for name, operator in OPERATORS.items()
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"vae_fast::{operator}", "CPU")
)


def chosen(operator: str, impl: str, *tensors: Tensor | None, likelihood: str = "bernoulli") -> str:
    """The implementation for a call of a public function with these tensors, all on one device, in ARGUMENTS' order.

    RuntimeError if the one asked for cannot be had, or not for these.
    """
    first = tensors[0]
    assert first is not None
    wanted = _made_for(first.is_cuda) if impl == "auto" else impl
    if wanted == "reference":
        return wanted
    reason = _elsewhere(wanted, first.is_cpu, first.is_cuda)
    if reason is not None:
        reason += f", and {ARGUMENTS[operator][0]} is on {first.device}"
    reason = reason or _missing(wanted, operator) or _refused(wanted, operator, tensors, likelihood)
    if reason is None:
        return wanted
    if impl == "auto":
        return "reference"
    raise RuntimeError(f"impl={impl!r} of {operator} is not available: {reason}")


def preferred(operator: str, device: torch.device) -> str:
    """What impl="auto" takes for a public function on a device, and why, for people to read."""
    impl = _made_for(device.type == "cuda")
    reason = _elsewhere(impl, device.type == "cpu", device.type == "cuda") or _missing(impl, operator)
    if reason is not None:
        return f"reference: {reason}"
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in TAKEN[impl])
    return f"{impl}: it is there and takes {dtypes}; the reference takes the rest"


def _made_for(is_cuda: bool) -> str:
    return "triton" if is_cuda else "cpp"


def _elsewhere(impl: str, is_cpu: bool, is_cuda: bool) -> str | None:
    """Why an implementation does not run on a device, or None."""
    if impl == "cpp":
        return None if is_cpu else "it runs on a CPU"
    if operators.INTERPRETED:
        return None if is_cpu else "under TRITON_INTERPRET it runs on a CPU"
    return None if is_cuda else "it runs on a GPU"


def _missing(impl: str, operator: str) -> str | None:
    """What an implementation of an operator lacks on this machine, whatever the arguments, or None."""
    if impl == "cpp":
        if not HAS_LIBRARY:
            return library.status()
        return None if operator in IN_LIBRARY else "the library has no kernel for it"
    if not operators.HAS_TRITON:
        return "Triton is not installed"
    if not operators.INTERPRETED and not HAS_C_COMPILER:
        return "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    return None


def _refused(impl: str, operator: str, tensors: tuple[Tensor | None, ...], likelihood: str) -> str | None:
    """What keeps an implementation from these arguments, or None."""
    if impl == "cpp" and likelihood not in CPP_LIKELIHOODS:
        return f"it has likelihood='bernoulli' only, got {likelihood!r}"
    taken = TAKEN[impl]
    for index, tensor in enumerate(tensors):
        if tensor is not None and tensor.dtype not in taken:
            name = ARGUMENTS[operator][index]
            if tensor.dtype != ALSO_TAKEN.get(name):
                return f"it does not take {name} in {tensor.dtype}"
    return None
