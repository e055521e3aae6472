"""A mixture fitted to the posteriors of a model, and samples from it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast import sample
from vae_fast.analysis import fitted


def test_the_fit_recovers_what_posteriors_were_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Posterior means that form two Gaussians, of which one is correlated."""
    torch.manual_seed(0)
    factors = torch.tensor([[[1.0, 0], [0.8, 0.6]], [[0.5, 0], [0, 0.5]]])
    means = torch.tensor([[3.0, 0], [-3, 1]])
    chosen = (torch.arange(6000) % 3 == 0).long()
    z = means[chosen] + torch.einsum("bij,bj->bi", factors[chosen], torch.randn(6000, 2))
    monkeypatch.setattr(fitted, "posteriors", lambda *args, **named: [(z, torch.full_like(z, -20.0))])
    found = fitted.fit(vf.VAE((4,), hidden=(), latent=2), torch.zeros(6000, 4), components=2)
    order = found.means[:, 0].argsort(descending=True)
    torch.testing.assert_close(found.log_weights.exp()[order], torch.tensor([2 / 3, 1 / 3]), atol=0.03, rtol=0)
    torch.testing.assert_close(found.means[order], means, atol=0.1, rtol=0)
    torch.testing.assert_close(found.factors[order], factors, atol=0.1, rtol=0)
    drawn = found.draw(20_000, seed=1)
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), z.T.cov(), atol=0.2, rtol=0.05)
    assert torch.equal(found.draw(7, seed=1), drawn[:7])


def test_samples_from_a_mixture_are_a_command(trained_run: Path, tmp_path: Path) -> None:
    place = [str(trained_run), "--from", "mixture", "--components", "3", "--count", "6"]
    assert sample.main([*place, "--out", str(tmp_path / "a")]) == 0
    assert sample.main([*place, "--out", str(tmp_path / "b")]) == 0
    a, b = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    assert a.shape == (6, 1, 28, 28)
    assert (a == b).all()
    assert sample.main([str(trained_run), "--count", "6", "--out", str(tmp_path / "c")]) == 0
    assert not (np.load(tmp_path / "c.npy") == a).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--components", "3"], "--components: expected it with --from mixture, got 3 alone"),
        (["--data", "mnist"], "--data: expected it with --from mixture, got mnist alone"),
        (["--from", "mixture", "--components", "5000"], "--components: expected at most the 1000 images to fit to"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], message: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample.main([str(trained_run), *arguments]) != 0
    assert message in capsys.readouterr().err


def test_a_missing_scikit_learn_is_named(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    assert sample.main([str(trained_run), "--from", "mixture"]) != 0
    assert "scikit-learn is not installed: pip install 'vae_fast[mixture]'" in capsys.readouterr().err
