"""Objectives by the densities at samples of z: the ELBO, the importance-weighted bound, and its better gradients.

    w_k = p(x | z_k) (p(z_k) / q(z_k | x))^beta,  z_k = mu + sigma eps_k,  k = 1 ... K

elbo   -mean_k log w_k; with a normal prior its KL in closed form: -mean_k log p(x | z_k) + beta KL(q || p)
iwae   -log mean_k w_k by the densities at the samples (Burda et al. 2016, Importance Weighted Autoencoders, equation 8)
dreg   the same loss; the encoder's gradients are doubly reparameterized (Tucker et al. 2019, Doubly Reparameterized
       Gradient Estimators for Monte Carlo Objectives, equation 8): unbiased too, but their noise shrinks with K

The encoder runs once an image, and once a pseudo-input if the prior has some; the decoder runs once over all K B
samples, sample by sample.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.kernels import Rates, Terms, kl_per_dimension
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.prior import Prior, log_density
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import Learned, Noise, gradients_of
from vae_fast.objectives.noise import log_posterior, standard_normal


class Pass(NamedTuple):
    """The results of a forward pass: stats [B, 2 Z]; eps [K, B, Z]; z [K B, Z], a leaf; logits [K B, D].

    of_inputs: of a prior with pseudo-inputs a list of their stats, [N, 2 Z], else an empty one.
    """

    stats: Tensor
    of_inputs: list[Tensor]
    eps: Tensor
    z: Tensor
    logits: Tensor


def forward(model: VAE, x: Tensor, noise: Noise, labels: Tensor | None = None, *, samples: int, prior: Prior) -> Pass:
    """Run images [B, D] (and labels [B]) through the encoder once and `samples` of each through the decoder.

    Sample k has the noise of columns k Z to (k + 1) Z - 1; so the first is the one of `elbo.forward`. prior: the
    model's, or in mixed precision that of the model in float32.
    """
    stats, inputs = model.stats(x, labels), prior.inputs()
    of_inputs = [] if inputs is None else [model.stats(inputs)]
    mu, logvar = stats.detach().float().chunk(2, dim=-1)
    columns = samples * model.latent
    eps = standard_normal(len(x), columns, noise.seed, noise.step, row_offset=noise.row_offset, device=x.device)
    eps = eps.view(len(x), samples, model.latent).transpose(0, 1)
    z = (mu + (0.5 * logvar).exp() * eps).flatten(0, 1).requires_grad_()
    return Pass(stats, of_inputs, eps, z, model.logits(z, None if labels is None else labels.repeat(samples)))


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
) -> Learned:
    """Return the terms over x, and the gradients of the loss, as `elbo.backward` does with the same arguments.

    objective: "elbo", "iwae" or "dreg". The terms of the last two are nll, the mean over the samples of
    -log p(x | z_k), and in place of the KL the rest of the loss, divided by beta. prior: as for `forward`.
    """
    samples, batch, _ = done.eps.shape
    _, logvar = done.stats.detach().float().chunk(2, dim=-1)
    is_closed = objective == "elbo" and prior.is_normal
    logits, z = done.logits.detach().requires_grad_(), done.z.detach().view_as(done.eps).requires_grad_()
    inputs = [t.detach().requires_grad_() for t in done.of_inputs]
    with torch.enable_grad():
        losses = likelihood.nll(logits, x.repeat(samples, 1))  # [K B]
        log_prior = log_density(z, prior.mixture(*inputs))  # [K, B]
    nll, below = losses.detach().view(samples, batch), log_posterior(done.eps, logvar) - log_prior.detach()
    shares = torch.full_like(nll, 1 / samples)
    if is_closed:
        kl = kl_per_dimension(*done.stats.detach().float().chunk(2, dim=-1)).sum(-1)
    elif objective == "elbo":
        kl = below.mean(0)
    else:
        bound, shares = log_mean_exp(-(nll + rates.beta * below))
        kl = (-bound - nll.mean(0)) / rates.beta.clamp(min=1e-6)
    weight = scale / images
    by_logits, *of_likelihood = gradients_of(losses, [logits, *likelihood.parameters()], (weight * shares).flatten())
    by_z, *of_decoder = gradients_of(done.logits, [done.z, *model.decoder.parameters()], by_logits)
    by_z, density = by_z.float().view_as(z), weight * rates.beta * shares
    by_prior, *found = gradients_of(log_prior, [z, *inputs, *prior.density_parameters()], -density)
    by_inputs, of_density = found[: len(inputs)], found[len(inputs) :]
    if objective == "dreg":
        again = 1 - rates.beta + rates.beta * shares  # the paper's weights have beta 1: shares^2 in all
        by_z = again.unsqueeze(-1) * (by_z + by_prior - density.unsqueeze(-1) * done.eps * (-0.5 * logvar).exp())
    elif not is_closed:
        by_z = by_z + by_prior
    depends = "none" if objective == "dreg" else "kl" if is_closed else "log q"
    by_stats = _by_stats(done, by_z, depends, weight * rates.beta)
    encoder: list[Tensor] = list(model.encoder.parameters())
    through = gradients_of(
        [done.stats, *done.of_inputs], [*encoder, *prior.encoded_parameters()], [by_stats, *by_inputs]
    )
    of_encoder, of_inputs = through[: len(encoder)], through[len(encoder) :]
    return Terms(nll.mean(0), kl, None), (*of_encoder, *of_decoder, *of_likelihood, *of_density, *of_inputs)


def _by_stats(done: Pass, by_z: Tensor, depends: str, weight: Tensor) -> Tensor:
    """Return the gradient by the stats, [B, 2 Z]: through z, whose gradient is by_z [K, B, Z], and besides.

    depends: what of the loss depends on the stats besides, with this weight: "kl" in closed form, "log q" at given
        noise, or "none".
    """
    mu, logvar = done.stats.detach().float().chunk(2, dim=-1)
    by_mu, by_logvar = by_z.sum(0), 0.5 * (by_z * done.eps).sum(0) * (0.5 * logvar).exp()
    if depends == "kl":
        by_mu, by_logvar = by_mu + weight * mu, by_logvar + 0.5 * weight * (logvar.exp() - 1)
    elif depends == "log q":
        by_logvar = by_logvar - 0.5 * weight
    return torch.cat((by_mu, by_logvar), dim=-1).to(done.stats.dtype)


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean_k w_k, [B], of log weights [K, B], and the weights' shares of their sum, [K, B]."""
    total = log_weights.logsumexp(0)
    return total - math.log(len(log_weights)), (log_weights - total).exp()
