"""One step of Adam over all parameters, with the gradients' norm, clipping, and the test that all values are finite.

The C++ operators do it in two parallel passes, one for the norm and one for the update. Without them it is PyTorch's
fused kernel, called directly: torch.optim.Adam(fused=True) keeps a step count for every parameter and regroups them all
at every step, which on a CPU took as long again as the kernel itself. Here one count serves all. On a GPU parameters
and moments are flat, so that one launch covers all of them.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from . import extension
from .reference import BETA1, BETA2, EPSILON

HAS_LIBRARY = extension.load()

Tensors = list[Tensor] | tuple[Tensor, ...]

# In values: every tensor begins at a multiple of it, and one program of the kernel updates this many, 8 per thread, so
# that 16 bytes of a bfloat16 gradient are read at once.
ALIGNMENT = 1024


class Flat(NamedTuple):
    """Tensors as `views` of a 1-d tensor `data`, with zeros between them; `data` is None for separate tensors."""

    data: Tensor | None
    views: list[Tensor]


def flat_like(tensors: Sequence[Tensor], dtype: torch.dtype) -> Flat:
    """Return zeros of the tensors' shapes, on their device, each beginning at a multiple of ALIGNMENT."""
    sizes = [-(-t.numel() // ALIGNMENT) * ALIGNMENT for t in tensors]
    data = tensors[0].new_zeros(sum(sizes), dtype=dtype)
    parts = data.split(sizes)
    return Flat(data, [part[: t.numel()].view(t.shape) for part, t in zip(parts, tensors, strict=True)])


torch.library.define(
    "vae_fast::adam_",
    "(Tensor(a!)[] parameters, Tensor(b!)[] means, Tensor(c!)[] squares, Tensor(d!) count, Tensor[] gradients,"
    " Tensor lr, float beta1, float beta2, float epsilon, float weight_decay, float max_norm, Tensor? loss=None)"
    " -> Tensor",
)


@torch.library.register_fake("vae_fast::adam_")
def _adam_fake(
    parameters: list[Tensor], means: list[Tensor], squares: list[Tensor], count: Tensor, *others: object
) -> Tensor:
    return count.new_empty(())


@torch.no_grad()
def adam_(
    parameters: Tensors,
    means: Tensors,
    squares: Tensors,
    count: Tensor,
    gradients: Tensors,
    *,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    max_norm: float = inf,
    loss: Tensor | None = None,
) -> Tensor:
    """Update parameters, moments and count in place, unless the loss or the norm of the gradients is not finite.

    Args:
        parameters, means, squares: of equal shapes, float32, contiguous, on one device.
        count: the steps taken so far, 0-d float32.
        gradients: of the same shapes, float32; the values they hold afterwards are not specified.
        lr: the learning rate, a number or 0-d float32 on the parameters' device, where a CUDA graph reads it at each
            replay.
        weight_decay: lr times this fraction of each weight is subtracted, without passing through the moments.
        max_norm: gradients with a larger norm are scaled down to it.
        loss: 0-d float64; None if it is known to be finite.

    Returns:
        The norm of all gradients before they are scaled, 0-d float32. In C++ squares are summed in float32 over runs of
        8192 values and in float64 across runs, with the same result for any number of threads.

    Raises TypeError or ValueError for tensors that do not fit.

    Source: Kingma and Ba, Adam, 2014; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017 (AdamW);
    Pascanu et al., On the Difficulty of Training Recurrent Neural Networks, 2013 (clipping).
    """
    if not isinstance(lr, Tensor):
        lr = torch.full((), lr, dtype=torch.float32, device=count.device)
    torch.autograd.graph.increment_version(parameters)  # so that autograd notices if one was saved for a backward pass
    if count.device.type == "cpu" and HAS_LIBRARY:
        norm: Tensor = torch.ops.vae_fast.adam_(
            parameters, means, squares, count, gradients, lr, BETA1, BETA2, EPSILON, weight_decay, max_norm, loss
        )
        return norm
    gradients = [g.contiguous() for g in gradients]
    _check(parameters, parameters=parameters, means=means, squares=squares, gradients=gradients)
    norm = get_total_norm(gradients)
    if max_norm < inf:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1))
    taken = norm.isfinite() if loss is None else norm.isfinite() & loss.isfinite()
    skip = (~taken).float()
    count += 1 - skip
    torch._fused_adamw_(
        parameters,
        gradients,
        means,
        squares,
        [],
        [count] * len(parameters),
        lr=lr,
        beta1=BETA1,
        beta2=BETA2,
        weight_decay=weight_decay,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
        found_inf=skip,
    )
    return norm


def _check(like: Tensors, **lists: Tensors) -> None:
    """Raise unless all are contiguous float32 of their parameter's shape, which PyTorch's kernel assumes."""
    if {len(tensors) for tensors in lists.values()} != {len(like)}:
        raise ValueError(
            f"adam_: expected as many means, squares and gradients as parameters, got {len(lists['means'])}, "
            f"{len(lists['squares'])} and {len(lists['gradients'])} for {len(like)}"
        )
    for name, tensors in lists.items():
        for tensor, parameter in zip(tensors, like, strict=True):
            if tensor.dtype != torch.float32:
                raise TypeError(f"adam_: {name}: expected float32, got {tensor.dtype}")
            if tensor.shape != parameter.shape or not tensor.is_contiguous():
                raise ValueError(
                    f"adam_: {name}: expected contiguous {list(parameter.shape)}, got {list(tensor.shape)} with "
                    f"strides {list(tensor.stride())}"
                )
