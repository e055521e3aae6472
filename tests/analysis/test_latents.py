"""How much each latent dimension carries."""

import math

import pytest
import torch

import vae_fast as vf
from vae_fast.analysis import latents
from vae_fast.training.validation import validate


@pytest.fixture
def model() -> vf.VAE:
    """Return a model whose dimension 0 follows the images, 1 is always N(1, 1) and 2 is always the prior."""
    torch.manual_seed(0)
    model = vf.VAE(hidden=(), latent=3)
    with torch.no_grad():
        model.encoder.stats.weight[1:] = 0
        model.encoder.stats.bias.copy_(torch.tensor([0.0, 1, 0, 0, 0, 0]))
    return model


def test_activity_and_kl_of_each_dimension(model: vf.VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    images = vf.load_images("digits").pixels[:100].flatten(1)
    monkeypatch.setattr(latents, "rows_at_once", lambda model: 33)
    found = latents.survey(model, images)
    with torch.no_grad():
        mu, logvar = model.encode(images)
    torch.testing.assert_close(found.kl, vf.kl_per_dimension(mu, logvar).double().mean(0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.variance, mu.double().var(0, correction=0), rtol=1e-5, atol=1e-7)
    assert found.kl[1:].tolist() == [0.5, 0]
    assert found.active() == 1
    assert found.active(threshold=0.0) == 1
    assert found.most_active() == ([0, 1, 2] if found.kl[0] > 0.5 else [1, 0, 2])


def test_information_of_posteriors_that_are_known(model: vf.VAE) -> None:
    """Posteriors far from each other tell which image it was, equal ones nothing; together they make up the KL."""
    images = vf.load_images("digits").pixels[:200].flatten(1)
    with torch.no_grad():
        model.encoder.stats.weight[0] *= 100_000
    told = latents.information(model, images, seed=3)
    assert told.mutual == pytest.approx(math.log(200), abs=0.1)
    assert (told.images, told.samples) == (200, 200)
    assert told.mutual + told.gap == pytest.approx(validate(model, images, 3)["kl"], rel=0.02)
    with torch.no_grad():
        model.encoder.stats.weight.zero_()
    told = latents.information(model, images, seed=3)
    assert told.mutual == pytest.approx(0, abs=1e-5)
    assert told.gap == pytest.approx(0.5, abs=4 * told.gap_error)
    assert latents.information(model, images[:1], seed=3).gap_error is None


def test_information_does_not_depend_on_parts(model: vf.VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    images = vf.load_images("digits").pixels[:50].flatten(1)
    whole = latents.information(model, images, seed=0)
    monkeypatch.setattr(latents, "PAIR_VALUES", 1000)
    assert latents.information(model, images, seed=0).mutual == pytest.approx(whole.mutual, rel=1e-5)
    monkeypatch.setattr(latents, "MOST_SAMPLES", 20)
    assert latents.information(model, images, seed=0).samples == 20
