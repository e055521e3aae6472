"""Objectives by the densities at samples of z: the ELBO, the importance-weighted bound, and its better gradients.

    w_k = p(x | z_k) (p(z_k) / q(z_k | x))^beta,  z_k = mu + sigma eps_k,  k = 1 ... K

elbo   -mean_k log w_k; with a normal prior its KL in closed form: -mean_k log p(x | z_k) + beta KL(q || p)
iwae   -log mean_k w_k by the densities at the samples (Burda et al. 2016, Importance Weighted Autoencoders, equation 8)
dreg   the same loss; the encoder's gradients are doubly reparameterized (Tucker et al. 2019, Doubly Reparameterized
       Gradient Estimators for Monte Carlo Objectives, equation 8): unbiased too, but their noise shrinks with K

The encoder runs once an image, and once a pseudo-input if the prior has some, all in one batch; the decoder runs once
over all K B samples, sample by sample.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.kernels import Rates, Terms
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.prior import Prior, log_density
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import Noise, gradients_of
from vae_fast.objectives.noise import log_posterior, standard_normal


class Pass(NamedTuple):
    """The results of a forward pass: encoded [B (+ N), 2 Z]; eps [K, B, Z]; z [K B, Z], a leaf; logits [K B, D].

    encoded: the stats of the images, and after them those of the prior's pseudo-inputs, if it has some.
    """

    encoded: Tensor
    eps: Tensor
    z: Tensor
    logits: Tensor


def forward(model: VAE, x: Tensor, noise: Noise, labels: Tensor | None = None, *, samples: int, prior: Prior) -> Pass:
    """Run images [B, D] (and labels [B]) through the encoder once and `samples` of each through the decoder.

    Sample k has the noise of columns k Z to (k + 1) Z - 1; so the first is the one of `elbo.forward`. prior: the
    model's, or in mixed precision that of the model in float32.
    """
    inputs = prior.inputs()
    encoded = model.stats(x, labels) if inputs is None else model.stats_with_inputs(x, inputs)
    mu, logvar = encoded[: len(x)].detach().float().chunk(2, dim=-1)
    columns = samples * model.latent
    eps = standard_normal(len(x), columns, noise.seed, noise.step, row_offset=noise.row_offset, device=x.device)
    eps = eps.view(len(x), samples, model.latent).transpose(0, 1)
    z = (mu + (0.5 * logvar).exp() * eps).flatten(0, 1).requires_grad_()
    return Pass(encoded, eps, z, model.logits(z, None if labels is None else labels.repeat(samples)))


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
    prior: Prior,
) -> tuple[Terms, tuple[Tensor, ...]]:
    """Return the terms over x, and the gradients of the loss, as `elbo.backward` does with the same arguments.

    objective: "elbo", "iwae" or "dreg". The terms of the last two are nll, the mean over the samples of
    -log p(x | z_k), and in place of the KL the rest of the loss, divided by beta. prior: as for `forward`.
    """
    samples, batch, _ = done.eps.shape
    mu, logvar = done.encoded[:batch].detach().float().chunk(2, dim=-1)
    weight, sigma = scale / images, (0.5 * logvar).exp()
    is_closed = objective == "elbo" and prior.is_normal
    logits, z = done.logits.detach().requires_grad_(), done.z.detach().view_as(done.eps).requires_grad_()
    of_inputs = done.encoded[batch:].detach().requires_grad_()  # [N, 2 Z], or empty
    with torch.enable_grad():
        losses = likelihood.nll(logits, x.repeat(samples, 1))  # [K B]
        log_prior = log_density(z, prior.mixture(of_inputs))  # [K, B]
    nll, below = losses.detach().view(samples, batch), log_posterior(done.eps, logvar) - log_prior.detach()
    shares = torch.full_like(nll, 1 / samples)
    if is_closed:
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)
    elif objective == "elbo":
        kl = below.mean(0)
    else:
        bound, shares = log_mean_exp(-(nll + rates.beta * below))
        kl = (-bound - nll.mean(0)) / rates.beta.clamp(min=1e-6)
    by_logits, *of_likelihood = gradients_of(losses, [logits, *likelihood.parameters()], (weight * shares).flatten())
    by_z, *of_decoder = gradients_of(done.logits, [done.z, *model.decoder.parameters()], by_logits)
    by_z, density = by_z.float().view_as(z), weight * rates.beta * shares
    by_prior, by_inputs, *of_density = gradients_of(log_prior, [z, of_inputs, *prior.density_parameters()], -density)
    if objective == "dreg":
        again = 1 - rates.beta + rates.beta * shares  # the paper's weights have beta 1: shares^2 in all
        by_z = again.unsqueeze(-1) * (by_z + by_prior - density.unsqueeze(-1) * done.eps / sigma)
    elif not is_closed:
        by_z = by_z + by_prior
    by_mu, by_logvar = by_z.sum(0), 0.5 * (by_z * done.eps).sum(0) * sigma
    if is_closed:
        by_mu = by_mu + weight * rates.beta * mu
        by_logvar = by_logvar + 0.5 * weight * rates.beta * (logvar.exp() - 1)
    elif objective != "dreg":
        by_logvar = by_logvar - 0.5 * weight * rates.beta
    by_stats = torch.cat((by_mu, by_logvar), dim=-1)
    by_encoded = torch.cat((by_stats, by_inputs.to(by_stats.dtype))).to(done.encoded.dtype)
    encoder = list(model.encoder.parameters())
    found = gradients_of(done.encoded, [*encoder, *prior.encoded_parameters()], by_encoded)
    of_encoder, of_pseudo_inputs = found[: len(encoder)], found[len(encoder) :]
    return Terms(nll.mean(0), kl, None), (*of_encoder, *of_decoder, *of_likelihood, *of_density, *of_pseudo_inputs)


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean_k w_k, [B], of log weights [K, B], and the weights' shares of their sum, [K, B]."""
    total = log_weights.logsumexp(0)
    return total - math.log(len(log_weights)), (log_weights - total).exp()
