"""The meaning of a decoder's output: the likelihood p(x | z) of an image's values, with a scale that may be learned."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from vae_fast.config_rules import scale_fault
from vae_fast.kernels import nll, nll_with_gradient

LEAST_LOG_SCALE = -6.0
"""the log of the smallest scale that is learned, two thirds of a level of 1/255 (Rybkin et al. 2021 cut there, too)"""


@dataclass(frozen=True)
class Family:
    """A kind of distribution, the parameters of which a decoder outputs.

    title: its name in a sentence.
    image: a sentence, with the logits as its subject, that says how the decoder's output becomes an image.
    mean: the same as a function: logits [...] -> means of the values [...].
    first_scale: where a learned scale starts, about the spread of an image's values; None without a scale.
    """

    title: str
    image: str
    mean: Callable[[Tensor], Tensor]
    first_scale: float | None = None


def _continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """Return 1 / (1 - e^-l) - 1 / l, by its series near 0 (Loaiza-Ganem and Cunningham 2019, equation 8)."""
    near = logits.abs() < 0.1
    away = torch.where(near, 1.0, logits)
    return torch.where(near, 0.5 + logits / 12 - logits**3 / 720, -1 / torch.expm1(-away) - 1 / away)


FAMILIES = {
    "bernoulli": Family("Bernoulli", "their sigmoid is the image", torch.sigmoid),
    "continuous_bernoulli": Family(
        "continuous Bernoulli", "the image is 1 / (1 - exp(-logits)) - 1 / logits", _continuous_bernoulli_mean
    ),
    "gaussian": Family("Gaussian", "they are the image", torch.clone, 0.25),
    "discretized_logistic": Family("discretized logistic", "they are the image", torch.clone, 0.14),
}


def bits_per_value(nats: float, likelihood: str, binarize: str, values: int) -> float | None:
    """Return nats per image of so many values as bits per value; None where values are not discrete.

    likelihood: one of `FAMILIES`. binarize: the setting of that name.
    """
    is_discrete = likelihood == "discretized_logistic" or (likelihood == "bernoulli" and binarize != "none")
    return nats / (values * math.log(2)) if is_discrete else None


class Likelihood(nn.Module):
    """A likelihood of images of `shape`, [C, H, W] or any other.

    Args:
        name: one of `FAMILIES`.
        scale: for "gaussian" its standard deviation, for "discretized_logistic" the logistic's scale: a number, or one
            of `vae_fast.config_rules.LEARNED_SCALES`. None means "learned" for these two; the others have none.
        shape: the shape of an image; its first dimension is the channels.
        first_scale: where a learned scale starts; None for the usual spread of pixels.

    Attributes:
        log_scale: the log of a learned scale, float32 [S], S being 1, C or the number of values; None if it is not
            learned. Below `LEAST_LOG_SCALE` it counts as that, and has no gradient.

    Raises ValueError for other arguments.
    """

    def __init__(
        self,
        name: str = "bernoulli",
        scale: float | str | None = None,
        shape: Sequence[int] = (),
        first_scale: float | None = None,
    ) -> None:
        super().__init__()
        if name not in FAMILIES:
            raise ValueError(f"likelihood: expected one of {', '.join(FAMILIES)}, got {name!r}")
        self.name, self.family = name, FAMILIES[name]
        first = self.family.first_scale and (first_scale or self.family.first_scale)
        if fault := scale_fault(name, scale):
            raise ValueError(f"scale: {fault}")
        self.scale = "learned" if scale is None and first is not None else scale
        self._values = prod(shape)
        self.log_scale: nn.Parameter | None
        self._fixed: Tensor | None
        self.register_parameter("log_scale", None)
        self.register_buffer("_fixed", None, persistent=False)
        if isinstance(self.scale, str) and first is not None:
            count = {"learned": 1, "per-channel": shape[0] if len(shape) > 1 else 1, "per-value": self._values}
            self.log_scale = nn.Parameter(torch.full((count[self.scale],), math.log(first)))
        elif self.scale is not None:
            self._fixed = torch.tensor(self.fixed_log_scale)

    @property
    def title(self) -> str:
        return self.family.title

    @property
    def fixed_log_scale(self) -> float | None:
        """Return the log of a scale that is a number."""
        return math.log(self.scale) if isinstance(self.scale, float | int) else None

    def mean(self, logits: Tensor) -> Tensor:
        """Return the means of the values, [...], of logits [...]."""
        return self.family.mean(logits)

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x | z), [B], in nats, of logits and images, [B, D] or [B, *shape]."""
        return nll(logits, x, likelihood=self.name, log_scale=self._by_value())

    def nll_with_gradient(self, logits: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return `nll`, and the gradients of `weight`, 0-d, times its sum: by the logits and, in a list, by log_scale.

        The list is empty if the scale is not learned.
        """
        found = nll_with_gradient(logits, x, weight, likelihood=self.name, log_scale=self._by_value())
        if self.log_scale is None or found.scale_gradient is None:
            return found.nll, found.gradient, []
        by_scale = found.scale_gradient.reshape(len(self.log_scale), -1).sum(1)
        return found.nll, found.gradient, [by_scale * (self.log_scale.detach() >= LEAST_LOG_SCALE)]

    def bits_per_dimension(self, nats: float, binarize: str = "none") -> float | None:
        """Return nats per image as bits per value; None where values are not discrete, so that bits mean nothing."""
        return bits_per_value(nats, self.name, binarize, self._values)

    def _by_value(self) -> Tensor | None:
        """Return the log of the scale as the operators take it: [] or [D]; None without a scale."""
        if self.log_scale is None:
            return self._fixed
        log_scale = self.log_scale.clamp(min=LEAST_LOG_SCALE)
        return log_scale[0] if len(log_scale) == 1 else log_scale.repeat_interleave(self._values // len(log_scale))
