"""An objective of your own: InfoVAE with alpha = 1 (Zhao, Song, Ermon 2017), whose KL is replaced by an MMD.

    python -m vae_fast.train --data digits --objective examples/own_objective.py:info

A function of images, logits, posterior and sample that returns two terms for each image; the rest of a run stays as it
is, and the losses of held-out images remain those of the ELBO.
"""

import torch
from torch import Tensor
from torch.nn import Module

WEIGHT = 1000.0  # of the discrepancy, which is small


def info(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, likelihood: Module) -> tuple[Tensor, Tensor]:
    """Return nll [B], and the maximum mean discrepancy between z and samples of N(0, I), once for each image, [B]."""
    prior = torch.randn_like(z)
    discrepancy = similarity(z, z) + similarity(prior, prior) - 2 * similarity(z, prior)
    return likelihood.nll(logits, x), (WEIGHT * discrepancy).expand(len(x))


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of the Gaussian kernel over all pairs of rows."""
    return torch.exp(-torch.cdist(a, b).square() / a.shape[1]).mean()
