"""Objectives of several samples of z an image: the ELBO, the importance-weighted bound, and its better gradients.

    w_k = p(x | z_k) (p(z_k) / q(z_k | x))^beta,  z_k = mu + sigma eps_k,  k = 1 ... K

elbo   -mean_k log p(x | z_k) + beta KL(q || p), the KL in closed form
iwae   -log mean_k w_k by the densities at the samples (Burda et al. 2016, Importance Weighted Autoencoders, equation 8)
dreg   the same loss; the encoder's gradients are doubly reparameterized (Tucker et al. 2019, Doubly Reparameterized
       Gradient Estimators for Monte Carlo Objectives, equation 8): unbiased too, but their noise shrinks with K

The encoder runs once an image; the decoder runs once over all K B samples, sample by sample. As z_k is a function of mu
and sigma, log(p / q) at z_k is (logvar + eps_k^2 - z_k^2) / 2 summed over the latent dimensions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.kernels import Rates, Terms, reparameterize
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import Noise, gradients_of


class Pass(NamedTuple):
    """The results of a forward pass: stats [B, 2 Z]; eps [K, B, Z]; z [K B, Z], a leaf; logits [K B, D]."""

    stats: Tensor
    eps: Tensor
    z: Tensor
    logits: Tensor


def forward(model: VAE, x: Tensor, noise: Noise, labels: Tensor | None = None, *, samples: int) -> Pass:
    """Run images [B, D] (and labels [B]) through the encoder once and `samples` of each through the decoder.

    Sample k has the noise of columns k Z to (k + 1) Z - 1; so the first is the one of `elbo.forward`.
    """
    stats = model.stats(x, labels)
    mu, logvar = stats.detach().float().chunk(2, dim=-1)
    zeros = mu.new_zeros(len(mu), samples * model.latent)
    eps = reparameterize(zeros, zeros, noise.seed, noise.step, row_offset=noise.row_offset)
    eps = eps.view(len(mu), samples, model.latent).transpose(0, 1)
    z = (mu + (0.5 * logvar).exp() * eps).flatten(0, 1).requires_grad_()
    return Pass(stats, eps, z, model.logits(z, None if labels is None else labels.repeat(samples)))


def backward(
    model: VAE,
    likelihood: Likelihood,
    x: Tensor,
    noise: Noise,
    done: Pass,
    rates: Rates,
    scale: Tensor,
    *,
    images: int,
    objective: str,
) -> tuple[Terms, tuple[Tensor, ...]]:
    """Return the terms over x, and the gradients of the loss, as `elbo.backward` does with the same arguments.

    objective: "elbo", "iwae" or "dreg". The terms of the last two are nll, the mean over the samples of
    -log p(x | z_k), and in place of the KL the rest of the loss, divided by beta.
    """
    samples, batch, _ = done.eps.shape
    mu, logvar = done.stats.detach().float().chunk(2, dim=-1)
    z, sigma = done.z.detach().view_as(done.eps), (0.5 * logvar).exp()
    logits = done.logits.detach().requires_grad_()
    with torch.enable_grad():
        losses = likelihood.nll(logits, x.repeat(samples, 1))  # [K B]
    nll, weight = losses.detach().view(samples, batch), scale / images
    if objective == "elbo":
        shares = torch.full_like(nll, 1 / samples)
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)
    else:
        below = 0.5 * (z.square() - done.eps.square() - logvar).sum(-1)  # -log(p / q), [K, B]
        bound, shares = log_mean_exp(-(nll + rates.beta * below))
        kl = (-bound - nll.mean(0)) / rates.beta.clamp(min=1e-6)
    by_logits, *of_likelihood = gradients_of(losses, [logits, *likelihood.parameters()], (weight * shares).flatten())
    by_z, *of_decoder = gradients_of(done.logits, [done.z, *model.decoder.parameters()], by_logits)
    by_z, by_density = by_z.float().view_as(z), (weight * rates.beta * shares).unsqueeze(-1)
    if objective == "dreg":
        again = 1 - rates.beta + rates.beta * shares  # the paper's weights have beta 1: shares^2 in all
        by_z = again.unsqueeze(-1) * (by_z + by_density * (z - done.eps / sigma))
    elif objective == "iwae":
        by_z = by_z + by_density * z
    by_mu, by_logvar = by_z.sum(0), 0.5 * (by_z * done.eps).sum(0) * sigma
    if objective == "elbo":
        by_mu = by_mu + weight * rates.beta * mu
        by_logvar = by_logvar + 0.5 * weight * rates.beta * (logvar.exp() - 1)
    elif objective == "iwae":
        by_logvar = by_logvar - 0.5 * weight * rates.beta
    by_stats = torch.cat((by_mu, by_logvar), dim=-1).to(done.stats.dtype)
    of_encoder = gradients_of(done.stats, list(model.encoder.parameters()), by_stats)
    return Terms(nll.mean(0), kl, None), (*of_encoder, *of_decoder, *of_likelihood)


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean_k w_k, [B], of log weights [K, B], and the weights' shares of their sum, [K, B]."""
    total = log_weights.logsumexp(0)
    return total - math.log(len(log_weights)), (log_weights - total).exp()
