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
HAS_LIBRARY, LIBRARY_STATUS = library.load(), library.status()
# As Triton looks for one: CC alone if it is set.
HAS_C_COMPILER = any(map(shutil.which, [os.environ["CC"]] if "CC" in os.environ else ["clang", "gcc"]))

# Which arguments of a public function decide, in the order in which `chosen` is given them.
ARGUMENTS = {
    "random_bits": ("seed",),
    "reparameterize": ("mu", "logvar"),
    "sample_posterior": ("stats",),
    "elbo_loss": ("logits", "mu", "logvar", "target", "log_scale"),
    "nll": ("logits", "target", "log_scale"),
    "nll_with_gradient": ("logits", "target"),
    "sample_posterior_gradient": ("stats", "grad_z"),
    "sample_posterior_from": ("stats",),
}
NOT_IN_CPP = {"sample_posterior_from": "C++ takes row_offset as an int"}
# By Triton and C++: the dtypes of floating arguments, and of some others.
TAKEN = (torch.float32, torch.float16, torch.bfloat16)
ALSO_TAKEN = {"target": torch.uint8, "seed": torch.int64}


def chosen(function: str, impl: str, *tensors: Tensor | None) -> str:
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
        reason += f", and {ARGUMENTS[function][0]} is on {first.device}"
    if wanted == "cpp" and function in NOT_IN_CPP:
        reason = NOT_IN_CPP[function]
    reason = reason or missing(wanted) or _refused(function, tensors)
    if reason is None:
        return wanted
    if impl == "auto":
        return "reference"
    raise RuntimeError(f"impl={impl!r} of {function} is not available: {reason}")


def preferred(device: torch.device) -> str:
    """What impl="auto" takes on a device, and why, for people to read."""
    impl = _made_for(device.type == "cuda")
    reason = _elsewhere(impl, device.type == "cpu", device.type == "cuda") or missing(impl)
    if reason is not None:
        return f"reference: {reason}"
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in TAKEN)
    return f"{impl} for {dtypes}, reference for the rest"


def _made_for(is_cuda: bool) -> str:
    return "triton" if is_cuda else "cpp"


def _elsewhere(impl: str, is_cpu: bool, is_cuda: bool) -> str | None:
    """Why an implementation does not run on a device, or None."""
    if impl == "cpp":
        return None if is_cpu else "it runs on a CPU"
    if operators.INTERPRETED:
        return None if is_cpu else "under TRITON_INTERPRET it runs on a CPU"
    return None if is_cuda else "it runs on a GPU"


def missing(impl: str) -> str | None:
    """What an implementation lacks on this machine, whatever the arguments, or None."""
    if impl == "cpp":
        return None if HAS_LIBRARY else LIBRARY_STATUS
    if not operators.HAS_TRITON:
        return "Triton is not installed"
    if not operators.INTERPRETED and not HAS_C_COMPILER:
        return "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    return None


def _refused(function: str, tensors: tuple[Tensor | None, ...]) -> str | None:
    """What keeps Triton and C++ from these arguments, or None."""
    for index, tensor in enumerate(tensors):
        if tensor is not None and tensor.dtype not in TAKEN:
            name = ARGUMENTS[function][index]
            if tensor.dtype != ALSO_TAKEN.get(name):
                return f"it does not take {name} in {tensor.dtype}"
    return None
