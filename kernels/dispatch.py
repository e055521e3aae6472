"""Which implementation answers a call: the one asked for, or with impl="auto" the device's if it can, or the reference.

The reference takes everything. Triton takes float32, float16 and bfloat16 on a GPU, and C++ on a CPU where the library
is built; neither is differentiated by torch.func or in forward mode (transforms.py), where "auto" is the reference.
torch.compile traces these functions, so what they ask of the machine are constants: it could follow neither
the loading of a file nor a search of PATH.
"""

import os
import shutil

import torch
from torch import Tensor

from . import extension, registration, transforms

IMPLEMENTATIONS = ("auto", "triton", "cpp", "reference")
HAS_LIBRARY, LIBRARY_STATUS = extension.load(), extension.status()
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
# By Triton and C++: the dtypes of floating arguments; and, after checks.py, uint8 is a target's and int64 a seed's.
TAKEN = (torch.float32, torch.float16, torch.bfloat16)
_ALL_TAKEN = (*TAKEN, torch.uint8, torch.int64)


def chosen(function: str, impl: str, *tensors: Tensor | None) -> str:
    """The implementation for a call of a public function with these tensors, all on one device, in ARGUMENTS' order.

    RuntimeError if the one asked for cannot be had, or not for these.
    """
    first = tensors[0]
    assert first is not None
    if impl == "reference":
        return impl
    is_cuda = first.is_cuda
    wanted = _made_for(is_cuda) if impl == "auto" else impl
    reason = _elsewhere(wanted, not is_cuda and first.is_cpu, is_cuda)
    if reason is not None:
        reason += f", and {ARGUMENTS[function][0]} is on {first.device}"
    if wanted == "cpp" and function in NOT_IN_CPP:
        reason = NOT_IN_CPP[function]
    reason = reason or missing(wanted) or _refused(function, tensors)
    if transforms.active():
        if impl == "auto":
            return "reference"
        if function != "random_bits":  # which has no derivatives at all
            reason = reason or transforms.refused(*tensors)
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
    if registration.INTERPRETED:
        return None if is_cpu else "under TRITON_INTERPRET it runs on a CPU"
    return None if is_cuda else "it runs on a GPU"


def missing(impl: str) -> str | None:
    """What an implementation lacks on this machine, whatever the arguments, or None."""
    if impl == "cpp":
        return None if HAS_LIBRARY else LIBRARY_STATUS
    if not registration.HAS_TRITON:
        return "Triton is not installed"
    if not registration.INTERPRETED and not HAS_C_COMPILER:
        return "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    return None


def _refused(function: str, tensors: tuple[Tensor | None, ...]) -> str | None:
    """What keeps Triton and C++ from these arguments, or None."""
    for tensor in tensors:  # without enumerate, which takes a tenth of a microsecond on every call
        if tensor is not None and tensor.dtype not in _ALL_TAKEN:
            break
    else:
        return None
    names = [name for name, t in zip(ARGUMENTS[function], tensors, strict=True) if t is tensor]
    return f"it does not take {names[0]} in {tensor.dtype}"
