"""A linear layer whose matrix products run in the library that is fastest on this CPU.

PyTorch uses MKL for float32 products, and MKL runs its AVX2 code on CPUs of other vendors even if they have AVX-512.
oneDNN, which PyTorch also includes, uses what the CPU has: 0.6 of the time at 128 x 784 x 400 on an AMD Zen 5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import extension, transforms

# oneDNN's product as an operator of our own: Inductor assumes that PyTorch's has constant weights, and fails.
# a [B, N], b [M, N], bias [M], float32 of any strides -> a b^T + bias. The kernel is csrc/matmul.cpp.
torch.library.define("vae_fast::product", "(Tensor a, Tensor b, Tensor? bias) -> Tensor")


@torch.library.register_fake("vae_fast::product")
def _product_fake(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[0]))


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x weight^T + bias, as torch.nn.functional.linear does; float32 [B, N] on a CPU may be computed by oneDNN.

    x [B, N], weight [M, N], bias [M] -> [B, M], accumulated in float32 by the library. Differentiable in all three;
    within torch.func and in forward mode PyTorch's own operator is used.
    """
    suits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.dim() == 2 and x.numel() > 0
    if USE_ONEDNN and suits and not torch.is_autocast_enabled("cpu") and not transforms.active():
        result: Tensor = torch.ops.vae_fast.product(x, weight, bias)
        return result
    return F.linear(x, weight, bias)


def _choose() -> tuple[bool, str]:
    """Return whether to use oneDNN, and why: by a rule, not a timing, so that a machine always computes the same."""
    if not extension.load():
        return False, "oneDNN is called by the C++ operators, which are not loaded"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False, "no AVX-512"
    if not torch.backends.mkldnn.is_available():
        return False, "this torch has no oneDNN"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            maker = next(line.split(":")[1].strip() for line in file if line.startswith("vendor_id"))
    except (OSError, StopIteration):
        return False, "the CPU's vendor is not known"
    if maker == "GenuineIntel":
        return False, "MKL knows this CPU"
    return True, f"AVX-512 on {maker}, which MKL does not use"


USE_ONEDNN, WHY = _choose()
