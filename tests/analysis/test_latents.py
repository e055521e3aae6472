"""How much each latent dimension carries."""

import pytest
import torch

import vae_fast as vf
from vae_fast.analysis import latents


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
