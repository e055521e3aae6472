"""The choice of the implementation for a call: the requested one; with impl="auto" the device's, else the reference.

The reference accepts everything. Triton accepts float32, float16 and bfloat16 on a GPU; C++ accepts them on a CPU where
the library is built. Neither can be differentiated by torch.func or in forward mode (transforms.py), where "auto" is
the reference. torch.compile traces these functions, so facts about the machine are constants: it could trace neither
loading a file nor searching PATH.
"""

import os
import shutil

import torch
from torch import Tensor

from . import extension, registration, transforms

IMPLEMENTATIONS = ("auto", "triton", "cpp", "reference")
HAS_LIBRARY, LIBRARY_STATUS = extension.load(), extension.status()
# Found the way Triton looks for one: CC alone if it is set.
HAS_C_COMPILER = any(map(shutil.which, [os.environ["CC"]] if "CC" in os.environ else ["clang", "gcc"]))

# The arguments of a public function that the choice depends on, in the order in which `chosen` receives them.
ARGUMENTS = {
    "random_bits": ("seed",),
    "reparameterize": ("mu", "logvar"),
    "sample_posterior": ("stats",),
    "elbo_loss": ("logits", "mu", "logvar", "target", "log_scale"),
    "nll": ("logits", "target", "log_scale"),
    "nll_with_gradient": ("logits", "target", "log_scale"),
    "sample_posterior_gradient": ("stats", "grad_z"),
    "sample_posterior_from": ("stats",),
    "mixture_log_density": ("z", "stats", "log_weights"),
}
LACKS = {  # what an implementation does not have
    ("cpp", "sample_posterior_from"): "C++ takes row_offset as an int",
    ("triton", "mixture_log_density"): "there is no kernel for it",
}
# The floating dtypes that Triton and C++ accept. After checks.py only a target can be uint8 and only a seed int64.
TAKEN = (torch.float32, torch.float16, torch.bfloat16)
_ALL_TAKEN = (*TAKEN, torch.uint8, torch.int64)


def chosen(function: str, impl: str, *tensors: Tensor | None) -> str:
    """Return the implementation for a call of a public function with these tensors, in the order of ARGUMENTS.

    The tensors are on one device. Raises RuntimeError if the requested one is not available, or not for these tensors.
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
    reason = LACKS.get((wanted, function), reason)
    reason = reason or missing(wanted) or _refused(function, tensors)
    if transforms.active():
        if impl == "auto":
            return "reference"
        if function != "random_bits":  # it has no derivatives at all
            reason = reason or transforms.refused(*tensors)
    if reason is None:
        return wanted
    if impl == "auto":
        return "reference"
    raise RuntimeError(f"impl={impl!r} of {function} is not available: {reason}")


def preferred(device: torch.device) -> str:
    """Return a readable line on what impl="auto" chooses on a device, and why."""
    impl = _made_for(device.type == "cuda")
    reason = _elsewhere(impl, device.type == "cpu", device.type == "cuda") or missing(impl)
    if reason is not None:
        return f"reference: {reason}"
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in TAKEN)
    return f"{impl} for {dtypes}, reference for the rest"


def _made_for(is_cuda: bool) -> str:
    return "triton" if is_cuda else "cpp"


def _elsewhere(impl: str, is_cpu: bool, is_cuda: bool) -> str | None:
    """Return why an implementation does not run on a device, or None."""
    if impl == "cpp":
        return None if is_cpu else "it runs on a CPU"
    if registration.INTERPRETED:
        return None if is_cpu else "under TRITON_INTERPRET it runs on a CPU"
    return None if is_cuda else "it runs on a GPU"


def missing(impl: str) -> str | None:
    """Return what an implementation lacks on this machine whatever the arguments, or None."""
    if impl == "cpp":
        return None if HAS_LIBRARY else LIBRARY_STATUS
    if not registration.HAS_TRITON:
        return "Triton is not installed"
    if not registration.INTERPRETED and not HAS_C_COMPILER:
        return "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    return None


def _refused(function: str, tensors: tuple[Tensor | None, ...]) -> str | None:
    """Return why Triton and C++ cannot process these arguments, or None."""
    for tensor in tensors:  # without enumerate, which takes a tenth of a microsecond on every call
        if tensor is not None and tensor.dtype not in _ALL_TAKEN:
            break
    else:
        return None
    names = [name for name, t in zip(ARGUMENTS[function], tensors, strict=True) if t is tensor]
    return f"it does not take {names[0]} in {tensor.dtype}"
