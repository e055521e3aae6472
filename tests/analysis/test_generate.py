"""Images that a trained model generates from latents and from images."""

import pytest
import torch

import vae_fast as vf
from vae_fast.analysis import generate


def test_latents_are_decoded_to_images(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = vf.VAE(hidden=(16,), latent=4)
    z = generate.prior(model, 10, seed=0)
    assert torch.equal(generate.prior(model, 3, seed=0), z[:3])
    assert not torch.equal(generate.prior(model, 3, seed=1), z[:3])
    values = generate.prior_quantiles(model, 11)
    torch.testing.assert_close(values, -values.flip(1))
    assert torch.special.ndtr(values[3])[[0, 5, -1]].tolist() == pytest.approx([0.02, 0.5, 0.98])
    whole = generate.decode(model, z.view(2, 5, 4))
    assert whole.shape == (2, 5, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(whole.flatten(0, 1), model.decode(z).sigmoid())
    monkeypatch.setattr(generate, "rows_at_once", lambda model: 3)
    torch.testing.assert_close(generate.decode(model, z.view(2, 5, 4)), whole)
    images = vf.load_images("digits").pixels[:7]
    with torch.no_grad():
        torch.testing.assert_close(generate.means(model, images), model.encode(images)[0])
