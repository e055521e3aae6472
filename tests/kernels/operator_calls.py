"""One small call of every public operator, for testing the properties that all of them share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import (
    kl_per_dimension,
    nll,
    nll_with_gradient,
    random_bits,
    reference,
    sample_posterior,
    sample_posterior_gradient,
)

B, D, Z = 3, 5, 4


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


class Call(NamedTuple):
    """A function of one tensor and of the implementation, and a tensor for it; its results are tensors."""

    function: Callable[[Tensor, str], Any]
    argument: Tensor


TARGET = torch.arange(0, 240, 16, dtype=torch.uint8).view(B, D)
MU, LOGVAR, STATS, LOGITS = normal(B, Z), normal(B, Z, seed=1), normal(B, 2 * Z, seed=2), normal(B, D, seed=3)
WEIGHT, OFFSET = torch.tensor(0.5), torch.tensor(7)


def _scale(likelihood: str) -> float | None:
    return -1.3 if likelihood in reference.SCALED else None


def _elbo(likelihood: str) -> Call:
    options = {"beta": 0.7, "likelihood": likelihood, "log_scale": _scale(likelihood)}
    return Call(lambda x, impl: vf.elbo_loss(x, TARGET, MU, LOGVAR, **options, impl=impl).loss, LOGITS)


def _nll(likelihood: str) -> Call:
    options = {"likelihood": likelihood, "log_scale": _scale(likelihood)}
    return Call(lambda x, impl: nll(x, TARGET, **options, impl=impl), LOGITS)


# Functions that impl="triton" and "cpp" differentiate once.
FUSED = {
    "reparameterize": Call(lambda x, impl: vf.reparameterize(x, LOGVAR, 3, 4, impl=impl).square(), MU),
    "sample_posterior": Call(
        lambda x, impl: torch.cat([t.flatten() for t in sample_posterior(x, 3, 4, impl=impl)]).square(), STATS
    ),
    **{f"elbo_loss {likelihood}": _elbo(likelihood) for likelihood in reference.LIKELIHOODS},
    **{f"nll {likelihood}": _nll(likelihood) for likelihood in reference.LIKELIHOODS},
    "elbo_loss of mu": Call(lambda x, impl: vf.elbo_loss(LOGITS, TARGET, x, LOGVAR, impl=impl).kl.exp(), MU),
}
# Functions that give no gradient.
CONSTANT = {
    "random_bits": Call(lambda x, impl: random_bits(B, D, 3, 4, impl=impl), MU),
    "nll_with_gradient": Call(lambda x, impl: tuple(nll_with_gradient(x, TARGET, WEIGHT, impl=impl)[:2]), LOGITS),
    "sample_posterior_gradient": Call(
        lambda x, impl: sample_posterior_gradient(x[:, :Z], WEIGHT, x, 3, 4, impl=impl), STATS
    ),
    "sample_posterior_from": Call(
        lambda x, impl: tuple(sample_posterior(x, 3, 4, row_offset=OFFSET, impl=impl)), STATS
    ),
}
CALLS = {
    **FUSED,
    **CONSTANT,
    "kl_per_dimension": Call(lambda x, impl: kl_per_dimension(x, LOGVAR), MU),
}
NOT_IN_CPP = {"sample_posterior_from"}


def results(call: Call, impl: str, argument: Tensor | None = None) -> list[Tensor]:
    value = call.function(call.argument if argument is None else argument, impl)
    return [value] if isinstance(value, Tensor) else list(value)
