"""Tests of the importance-weighted estimate: its limit, its value for one sample, and what it does not depend on."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from benchmarks.harness.peak_memory import peak_megabytes
from vae_fast.objectives import importance
from vae_fast.objectives.importance import log_likelihoods
from vae_fast.training.validation import validate

NOISE = math.log(0.3)  # the log scale of the pixels of the linear-Gaussian model


def all_of(model: vf.VAE, images: Tensor, samples: int, seed: int) -> Tensor:
    return torch.cat(list(log_likelihoods(model, images, samples, seed)))


@pytest.fixture
def digits() -> Tensor:
    return vf.load_images("digits", "test").pixels.flatten(1)


@pytest.fixture
def model() -> vf.VAE:
    torch.manual_seed(0)
    return vf.VAE(hidden=(32,), latent=5)


def linear_gaussian(exact_posterior: bool) -> tuple[vf.VAE, Tensor, Tensor]:
    """Return the model x = W z + b + noise, images drawn from it, and their exact log-likelihoods (float64).

    The columns of W are orthogonal and of equal length, so all posterior variances are equal. The encoder gives the
    posterior's means exactly, and its variances exactly or, without `exact_posterior`, 1.5 times too large.
    """
    generator = torch.Generator().manual_seed(0)
    pixels, latent, variance = 12, 3, math.exp(2 * NOISE)
    weight = torch.linalg.qr(torch.randn(pixels, latent, generator=generator, dtype=torch.float64))[0]
    bias = torch.rand(pixels, generator=generator, dtype=torch.float64)
    covariance = weight @ weight.T + variance * torch.eye(pixels, dtype=torch.float64)
    images = torch.distributions.MultivariateNormal(bias, covariance).sample((40,))
    exact = torch.distributions.MultivariateNormal(bias, covariance).log_prob(images)
    shrink = 1 / (1 + variance)  # (W^T W + s^2 I)^-1
    posterior_variance = variance * shrink * (1.0 if exact_posterior else 1.5)
    model = vf.VAE((pixels,), (), latent, likelihood="gaussian", scale=math.exp(NOISE))
    with torch.no_grad():
        model.decoder.logits.weight.copy_(weight)
        model.decoder.logits.bias.copy_(bias)
        model.encoder.stats.weight.copy_(torch.cat([shrink * weight.T, torch.zeros(latent, pixels)]))
        model.encoder.stats.bias.copy_(
            torch.cat([-shrink * weight.T @ bias, torch.full((latent,), math.log(posterior_variance))])
        )
    return model, images.float(), exact


def test_with_the_exact_posterior_a_single_sample_is_exact() -> None:
    model, images, exact = linear_gaussian(exact_posterior=True)
    found = all_of(model, images, 1, 0)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)


def test_the_estimate_converges_to_the_exact_likelihood() -> None:
    model, images, exact = linear_gaussian(exact_posterior=False)
    off = {k: all_of(model, images, k, 0) - exact for k in (1, 10, 1000, 20_000)}
    assert off[1].mean() < off[10].mean() < 0  # a lower bound that rises
    for k in (1000, 20_000):  # the relative standard deviation of a weight is 0.44, and there are 40 images
        assert off[k].abs().max() < 2 / math.sqrt(k)


def test_one_sample_gives_the_elbo_of_that_sample(model: vf.VAE, digits: Tensor) -> None:
    found = all_of(model, digits, 1, 3)
    with torch.no_grad():
        mu, logvar = (t.double() for t in model.encode(digits))
        z = vf.reparameterize(mu.float(), logvar.float(), 3, 0, stream=1).double()
        nll = vf.elbo_loss(model.decode(z.float()), digits, mu.float(), logvar.float()).nll
    log_q = torch.distributions.Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(found, -nll + log_p - log_q, rtol=1e-5, atol=1e-3)


def test_one_sample_gives_the_analytic_elbo_within_its_error(model: vf.VAE, digits: Tensor) -> None:
    found = -all_of(model, digits, 1, 0)
    loss = validate(model, digits, 0)["loss"]  # the same samples, but for the KL
    with torch.no_grad():
        mu, logvar = model.encode(digits)
        z = vf.reparameterize(mu, logvar, 0, 0, stream=1)
    sampled_kl = 0.5 * (z.square() - (z - mu).square() * (-logvar).exp() - logvar).sum(1)
    assert abs(found.mean() - loss) < 4 * sampled_kl.std() / math.sqrt(len(digits))


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_the_estimate_does_not_depend_on_the_batches(
    model: vf.VAE, digits: Tensor, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = digits[:20]
    whole = all_of(model, few, 150, 0)
    monkeypatch.setitem(importance.LAYER_BYTES, "cpu", rows * 4 * model.pixels)
    parts = list(log_likelihoods(model, few, 150, 0))
    assert len(parts) == -(-20 // rows)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-5)
    rest = torch.cat(list(log_likelihoods(model, few, 150, 0, first=13)))
    torch.testing.assert_close(rest, whole[13:], rtol=1e-6, atol=1e-5)
    assert not torch.equal(all_of(model, few, 150, 1), whole)


@pytest.mark.parametrize("samples", [1, 2, 63, 64, 65, 70, 130])
def test_the_estimate_is_the_mean_of_exactly_k_weights(model: vf.VAE, digits: Tensor, samples: int) -> None:
    """Check that sample k of image i has the noise of (seed, step k // 64, row i) from column (k % 64) Z on."""
    images, latent = digits[:5], model.latent
    found = all_of(model, images, samples, 7)
    zeros = torch.zeros(5, 64 * latent)
    blocks = [vf.reparameterize(zeros, zeros, 7, step, stream=1).view(5, 64, latent) for step in range(3)]
    with torch.no_grad():
        mu, logvar = model.encode(images)
        weights = []
        for eps in torch.cat(blocks, 1)[:, :samples].unbind(1):
            z = mu + (0.5 * logvar).exp() * eps
            nll = vf.elbo_loss(model.decode(z), images, mu, logvar).nll
            log_q = torch.distributions.Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1)
            weights.append(-nll + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) - log_q)
    expected = torch.stack(weights).double().logsumexp(0) - math.log(samples)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("latent", [5, 200])
def test_memory_does_not_grow_with_samples_or_images(latent: int, digits: Tensor) -> None:
    model = vf.VAE(hidden=(32,), latent=latent)
    given = ((digits[:50], 200), (digits[:50], 2000), (digits, 200), (digits, 64))
    first, *rest = (peak_megabytes(partial(all_of, model, images, samples, 0), "cpu") for images, samples in given)
    assert max(rest) < 1.5 * first
