"""Adam and AdamW as an optimizer of PyTorch's kind: the state that `vae_fast.kernels.adam_` works on."""

from collections.abc import Iterable
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from vae_fast.kernels import adam_


class Adam(torch.optim.Optimizer):
    """Adam, or with weight_decay AdamW; a step whose gradients are not finite changes nothing.

    Every parameter must have a gradient at each step.

    Args:
        parameters: (name, parameter) pairs, float32, on one device.
        lr: the learning rate; each step reads param_groups[0]["lr"], a number or 0-d float32.
        weight_decay: the share of each weight taken off, times lr, at every step.
        clip: the largest norm of all gradients together; larger ones are scaled down to it.

    Attributes:
        means, squares: the parameters' moments, in their order; count: of the steps taken, 0-d.
        norm: of the latest step's gradients, before clipping, 0-d.
    """

    _step_supports_amp_scaling = True  # so that GradScaler leaves skipping to the device

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        named = dict(parameters)
        super().__init__(named.values(), {"lr": lr})
        self._names = list(named)
        self._parameters: list[Tensor] = list(named.values())
        self._settings = {"weight_decay": weight_decay, "max_norm": inf if clip is None else clip}
        self.means = [torch.zeros_like(p) for p in self._parameters]
        self.squares = [torch.zeros_like(p) for p in self._parameters]
        self.count = torch.zeros((), device=self._parameters[0].device)
        self.norm = torch.zeros_like(self.count)  # of the latest step's gradients, before clipping

    def step(self, closure: Any = None) -> Any:
        """Update every parameter in place; no closure is called, so no loss is returned.

        RuntimeError if a GradScaler's `unscale_` was left out.
        """
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("call scaler.unscale_(optimizer) before scaler.step(optimizer)")
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        lr = self.param_groups[0]["lr"]
        self.norm = adam_(self._parameters, self.means, self.squares, self.count, gradients, lr=lr, **self._settings)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: the count, and every parameter's two moments."""
        moments = {
            f"{name}.{key}": tensor
            for key, tensors in (("exp_avg", self.means), ("exp_avg_sq", self.squares))
            for name, tensor in zip(self._names, tensors, strict=True)
        }
        return {"step": self.count, **moments}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave; KeyError or RuntimeError where names or shapes differ."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
