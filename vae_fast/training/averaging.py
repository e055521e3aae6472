"""The exponential moving average of a run's weights, which is what gets evaluated and saved.

After step t, average <- d average + (1 - d) weights with d = min(decay, (1 + t) / (10 + t)): it is short at first, so
that it forgets the weights that training began with. (Polyak and Juditsky: Acceleration of Stochastic Approximation by
Averaging, 1992; the ramp is that of TensorFlow's ExponentialMovingAverage.)

The average takes EVERY steps at once, with d^EVERY: as good where the decay is close to 1, and almost free. Up to the
first time it is the weights themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

EVERY = 16  # steps; a power of 2
SUFFIX = ".trained"  # of names in a checkpoint whose model is the average


class Average:
    """The average of a model's parameters; buffers, such as batch normalisation's, stay as they are.

    Args:
        model: whose parameters change in place.
        decay: d above, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters = [p.detach() for p in model.parameters()]
        self._averages = [p.clone() for p in self._parameters]
        self._decay = decay

    def after(self, step: int) -> None:
        """Take up the weights after `step` steps; after EVERY nothing happens unless that is a multiple of it."""
        if step <= EVERY:
            torch._foreach_copy_(self._averages, self._parameters)
        elif step % EVERY == 0:
            decay = min(self._decay, (1 + step) / (10 + step)) ** EVERY
            torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` returned."""
        torch._foreach_copy_(self._averages, [tensors[name].detach() for name in self._names])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights, and the others back at the end."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange the model's weights and the averages, in place, as recorded evaluations require."""
        weights = [p.clone() for p in self._parameters]
        torch._foreach_copy_(self._parameters, self._averages)
        torch._foreach_copy_(self._averages, weights)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by the names of their parameters."""
        return dict(zip(self._names, self._averages, strict=True))

    def trained(self) -> dict[str, Tensor]:
        """Return the weights that the next step begins from, by the names of the parameters with SUFFIX."""
        return {f"{name}{SUFFIX}": p for name, p in zip(self._names, self._parameters, strict=True)}
