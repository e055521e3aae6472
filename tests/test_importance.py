"""The importance-weighted estimate: what it converges to, where it begins, and what it does not depend on."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from benchmarks.memory import peak_megabytes
from vae_fast import importance
from vae_fast.evaluation import evaluate
from vae_fast.importance import log_likelihoods

NOISE = math.log(0.3)  # the log scale of the pixels of the linear-Gaussian model


def all_of(model: vf.VAE, images: Tensor, samples: int, seed: int, **settings: Any) -> Tensor:
    return torch.cat(list(log_likelihoods(model, images, samples, seed, **settings)))


@pytest.fixture
def digits() -> Tensor:
    return vf.load_images("digits", "test").pixels.flatten(1)


@pytest.fixture
def model() -> vf.VAE:
    torch.manual_seed(0)
    return vf.VAE(hidden=(32,), latent=5)


def linear_gaussian(exact_posterior: bool) -> tuple[vf.VAE, Tensor, Tensor]:
    """x = W z + b + noise, of which everything is known: the model, images, and their log-likelihoods (float64).

    Its encoder gives the posterior's means exactly; its variances too, where they are all alike (W with orthogonal
    columns of equal lengths), else half as large again.
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
    model = vf.VAE(input_shape=(pixels,), hidden=(), latent=latent)
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
    found = all_of(model, images, 1, 0, likelihood="gaussian", log_scale=NOISE)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)


def test_it_converges_to_the_exact_likelihood() -> None:
    model, images, exact = linear_gaussian(exact_posterior=False)
    off = {
        k: (all_of(model, images, k, 0, likelihood="gaussian", log_scale=NOISE) - exact) for k in (1, 10, 1000, 20_000)
    }
    assert off[1].mean() < off[10].mean() < 0  # a lower bound that rises
    for k in (1000, 20_000):  # a weight varies by 0.44, and there are 40 images
        assert off[k].abs().max() < 2 / math.sqrt(k)


def test_one_sample_is_the_elbo_of_that_sample(model: vf.VAE, digits: Tensor) -> None:
    found = all_of(model, digits, 1, 3)
    with torch.no_grad():
        mu, logvar = (t.double() for t in model.encode(digits))
        z = vf.reparameterize(mu.float(), logvar.float(), 3, 0, stream=1).double()
        nll = vf.elbo_loss(model.decode(z.float()), digits, mu.float(), logvar.float()).nll
    log_q = torch.distributions.Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(found, -nll + log_p - log_q, rtol=1e-5, atol=1e-3)


def test_one_sample_is_the_analytic_elbo_within_its_error(model: vf.VAE, digits: Tensor) -> None:
    found = -all_of(model, digits, 1, 0)
    loss = evaluate(model, digits, 0)["loss"]  # the same samples, but for the KL
    with torch.no_grad():
        mu, logvar = model.encode(digits)
        z = vf.reparameterize(mu, logvar, 0, 0, stream=1)
    sampled_kl = 0.5 * (z.square() - (z - mu).square() * (-logvar).exp() - logvar).sum(1)
    assert abs(found.mean() - loss) < 4 * sampled_kl.std() / math.sqrt(len(digits))


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_it_does_not_depend_on_the_batches(
    model: vf.VAE, digits: Tensor, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = digits[:20]
    whole = all_of(model, few, 150, 0)
    monkeypatch.setitem(importance.ACTIVATIONS, "cpu", rows * 4 * model.pixels)
    parts = list(log_likelihoods(model, few, 150, 0))
    assert len(parts) == -(-20 // rows)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-5)
    rest = torch.cat([few.new_empty(0, dtype=torch.float64), *log_likelihoods(model, few, 150, 0, first=rows)])
    torch.testing.assert_close(rest, whole[rows:], rtol=1e-6, atol=1e-5)
    assert not torch.equal(all_of(model, few, 150, 1), whole)


def test_more_samples_are_the_same_samples_and_more(model: vf.VAE, digits: Tensor) -> None:
    """K samples, exactly: the mean weight of 3 is that of the first 2 and the third."""
    few = digits[:5]
    one, two, three = (all_of(model, few, k, 0).double() + math.log(k) for k in (1, 2, 3))
    assert (one < two).all()
    assert (two < three).all()


def test_memory_does_not_grow_with_the_samples(model: vf.VAE, digits: Tensor) -> None:
    peaks = [peak_megabytes(partial(all_of, model, digits[:50], samples, 0), "cpu") for samples in (200, 2000)]
    assert peaks[1] < 1.1 * peaks[0]
