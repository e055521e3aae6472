"""Adam's state for `vae_fast.kernels.finish_step_`: moments and low-precision weight copies, accessible by name."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from vae_fast.kernels import AdamState, Flat, flat_like


class Adam:
    """Adam, or AdamW if weight_decay is not 0.

    Args:
        parameters: (name, parameter) pairs, float32, on one device.
        weight_decay: at every step each weight shrinks by this share of itself times lr.
        clip: the largest norm of all gradients together; a larger one is scaled down to it.
        copies: copies of the parameters in a dtype of fewer bits, which the matrix products read.
        flat: whether to move parameters, copies and moments into one tensor each, as the Triton kernel requires.

    Attributes:
        state: what `finish_step_` works on.
        settings: the keyword arguments of `finish_step_` that belong to Adam.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        weight_decay: float = 0.0,
        clip: float | None = None,
        copies: Sequence[nn.Parameter] | None = None,
        flat: bool = False,
    ) -> None:
        named = dict(parameters)
        self._names, masters = list(named), list(named.values())
        self.settings: dict[str, Any] = {"weight_decay": weight_decay, "max_norm": inf if clip is None else clip}
        self.state = AdamState(
            _storage(masters, flat),
            _zeros(masters, flat),
            _zeros(masters, flat),
            None if copies is None else _storage(copies, flat),
            torch.zeros((), device=masters[0].device),
        )
        self.copy_weights()

    @torch.no_grad()
    def copy_weights(self) -> None:
        """Update the copies after the weights were set from outside."""
        if self.state.copies is not None:
            torch._foreach_copy_(self.state.copies.views, self.state.parameters.views)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name: the step count, and the two moments of every parameter."""
        moments = {
            f"{name}.{key}": tensor
            for key, of in (("exp_avg", self.state.means), ("exp_avg_sq", self.state.squares))
            for name, tensor in zip(self._names, of.views, strict=True)
        }
        return {"step": self.state.taken, **moments}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned; raise KeyError or RuntimeError if names or shapes differ."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


def _zeros(like: Sequence[Tensor], flat: bool) -> Flat:
    return flat_like(like, torch.float32) if flat else Flat(None, [torch.zeros_like(t) for t in like])


def _storage(parameters: Sequence[nn.Parameter], flat: bool) -> Flat:
    """Return views of the parameters' own memory, which is moved into one tensor if `flat`."""
    if not flat:
        return Flat(None, [p.detach() for p in parameters])
    held = flat_like(parameters, parameters[0].dtype)
    for parameter, view in zip(parameters, held.views, strict=True):
        view.copy_(parameter.detach())
        parameter.data = view
    return Flat(held.data, [p.detach() for p in parameters])  # these share the parameters' version counters
