"""Objectives as users write them, and mistakes that users make, for the tests."""

import math
import random

import torch
from torch import Tensor, nn

Terms = tuple[Tensor, Tensor]


def as_usual(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return likelihood.nll(logits, x), 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)


def sampled(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    """Return the KL divergence by the densities at z, which depend on mu and logvar both directly and through z."""
    posterior = -0.5 * ((z - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)).sum(-1)
    return likelihood.nll(logits, x), posterior + 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def squared(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return (torch.sigmoid(logits) - x).square().sum((1, 2, 3)), mu.square().sum(-1)


def compared(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return likelihood.nll(logits, x), (z - z.mean(0)).square().sum(-1)


def noisy(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return likelihood.nll(logits, x), (z - torch.randn_like(z)).square().sum(-1)


def single(*given: Tensor) -> Tensor:
    return given[0].sum(-1)


def mean(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return likelihood.nll(logits, x).mean(), mu.square().sum(-1)


def blind(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return x.sum((1, 2, 3)), mu.square().sum(-1)


def broken(*given: Tensor) -> Terms:
    raise ZeroDivisionError("of the user's own")


def few(x: Tensor, logits: Tensor, z: Tensor) -> Terms:
    return logits.sum((1, 2, 3)), z.sum(-1)


def otherwise_noisy(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return likelihood.nll(logits, x), (z - torch.tensor(random.random())).square().sum(-1)


def branching(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    kl = mu.square().sum(-1)
    return likelihood.nll(logits, x), kl if kl.mean() < 1e9 else 2 * kl


def slightly_compared(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: nn.Module) -> Terms:
    return 1e4 + likelihood.nll(logits, x), 0.02 * z.mean(0).square().mean() + mu.square().sum(-1)
