"""Adam and AdamW over all parameters in one call of PyTorch's fused kernel.

torch.optim.Adam(fused=True) calls the same kernel, but keeps a step count for every parameter and regroups them all at
every step: on a CPU that took as long again as the kernel itself. Here one count serves all.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Adam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2014); with weight_decay, which is decoupled, AdamW (Loshchilov and Hutter 2017).

    Every parameter must have a gradient at each step. If `found_inf` is set (0-d float32), a step for which it is 1
    leaves parameters, moments and count as they were, decided on the device. GradScaler sets it as it does for
    torch.optim's fused optimizers.

    Args:
        parameters: (name, parameter) pairs, float32, on one device.
        lr: the learning rate; later steps read param_groups[0]["lr"].
        weight_decay: the share of each weight taken off, times lr, at every step.
    """

    _step_supports_amp_scaling = True

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float = 0.0) -> None:
        named = dict(parameters)
        super().__init__(named.values(), {"lr": lr})
        self._names = list(named)
        self._parameters: list[Tensor] = list(named.values())
        self._weight_decay = weight_decay
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._count = torch.zeros((), device=self._parameters[0].device)
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure, so no loss to return
        """Update every parameter in place."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._count += 1 if self.found_inf is None else 1 - self.found_inf
        torch._fused_adamw_(
            self._parameters,
            gradients,
            self._means,
            self._squares,
            [],
            [self._count] * len(self._parameters),
            lr=self.param_groups[0]["lr"],
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: the count, and every parameter's two moments."""
        moments = {
            f"{name}.{key}": tensor
            for key, tensors in (("exp_avg", self._means), ("exp_avg_sq", self._squares))
            for name, tensor in zip(self._names, tensors, strict=True)
        }
        return {"step": self._count, **moments}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave; KeyError or RuntimeError where names or shapes differ."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
