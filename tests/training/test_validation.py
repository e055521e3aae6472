"""The test loss: its value, and its independence of the batch size."""

import pytest
import torch

import vae_fast as vf
from vae_fast.training.validation import validate


def test_evaluation_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, images = vf.VAE(hidden=(16,), latent=4), vf.load_images("digits").pixels[:64].flatten(1)
    whole = validate(model, images, seed=0)
    monkeypatch.setattr("vae_fast.training.validation.rows_at_once", lambda model: 7)
    parts = validate(model, images, seed=0)
    assert whole == pytest.approx(parts, rel=1e-5)
    assert whole["loss"] == whole["nll"] + whole["kl"]
    with torch.no_grad():
        mu, logvar = model.encode(images)
        z = vf.reparameterize(mu, logvar, 0, 0, stream=1)  # the design's stream and step
        nll = vf.elbo_loss(model.decode(z), images, mu, logvar).nll
    assert whole["nll"] == pytest.approx(nll.mean().item())
    assert validate(model, images, seed=1)["nll"] != whole["nll"]
