"""Tests of the likelihoods: their means, scales and gradients, and runs that train with them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast import report
from vae_fast.analysis import generate
from vae_fast.config import Config
from vae_fast.config_rules import LEARNED_SCALES, SCALED_LIKELIHOODS
from vae_fast.errors import ConfigError, DataError
from vae_fast.evaluate import evaluate, table
from vae_fast.export import export
from vae_fast.kernels import extension, reference
from vae_fast.models.likelihood import FAMILIES, LEAST_LOG_SCALE, Likelihood

SHAPE = (3, 4, 5)
SCALES: list[float | str | None] = [None, 0.1, *LEARNED_SCALES]
CASES = [(name, scale) for name in FAMILIES for scale in (SCALES if name in SCALED_LIKELIHOODS else [None])]


def test_every_list_of_likelihoods_is_the_same() -> None:
    assert set(FAMILIES) == set(reference.LIKELIHOODS)
    assert set(SCALED_LIKELIHOODS) == set(reference.SCALED)
    assert {name for name, family in FAMILIES.items() if family.first_scale} == set(reference.SCALED)


def test_the_mean_of_the_continuous_bernoulli_is_the_mean_of_its_density() -> None:
    logits = torch.tensor([-80, -20, -3, -0.11, -0.09, -1e-4, 0, 0.05, 0.1, 0.5, 7, 30, 90.0], dtype=torch.float64)
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = (-reference.continuous_bernoulli(*torch.broadcast_tensors(logits[:, None], x))).exp()
    expected = torch.trapezoid(density * x, x)
    torch.testing.assert_close(FAMILIES["continuous_bernoulli"].mean(logits), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_explicit_gradients_are_those_of_autograd(name: str, scale: float | str | None) -> None:
    torch.manual_seed(0)
    likelihood = Likelihood(name, scale, SHAPE)
    count = {"per-channel": 3, "per-value": 60}.get(str(scale), 1)
    learned = likelihood.log_scale
    assert (learned is None) == (scale == 0.1 or name not in SCALED_LIKELIHOODS)
    if learned is not None:
        assert learned.shape == (count,)
        learned.data = torch.linspace(LEAST_LOG_SCALE - 1 if count > 1 else -1, 0, count)
    logits, x = torch.rand(7, *SHAPE).requires_grad_(), torch.randint(0, 256, (7, 60), dtype=torch.uint8)
    weight = torch.tensor(0.3)
    value, by_logits, of_scale = likelihood.nll_with_gradient(logits.flatten(1), x, weight)
    expected = likelihood.nll(logits, x.view(7, *SHAPE))
    (0.3 * expected).sum().backward()
    assert torch.equal(value, expected)
    torch.testing.assert_close(by_logits.view_as(logits), logits.grad)
    assert len(of_scale) == (learned is not None)
    if learned is not None:
        torch.testing.assert_close(of_scale[0], learned.grad)
        assert (of_scale[0] == 0).sum() == (learned < LEAST_LOG_SCALE).sum()


@pytest.mark.parametrize("given", [("cauchy", None), ("bernoulli", 0.1), ("gaussian", 0.0), ("gaussian", "wide")])
def test_unknown_likelihoods_and_scales_are_refused(given: tuple[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(likelihood|scale): expected .*, got"):
        vf.VAE(likelihood=given[0], scale=given[1])
    with pytest.raises(ConfigError, match=r"(likelihood|scale): expected .*, got"):
        Config(likelihood=given[0], scale=given[1])


def test_bits_per_dimension_exist_where_pixels_are_discrete() -> None:
    nats = 60 * math.log(2)
    for name, binarize, bits in (
        ("discretized_logistic", "none", 1.0), ("bernoulli", "dynamic", 1.0), ("bernoulli", "none", None),
        ("gaussian", "none", None), ("continuous_bernoulli", "none", None),
    ):  # fmt: skip
        assert Likelihood(name, None, SHAPE).bits_per_dimension(nats, binarize) == pytest.approx(bits)


def test_settings_and_data_that_do_not_fit_a_likelihood_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="binarize: expected none with likelihood 'gaussian', got 'static'"):
        Config(likelihood="gaussian", binarize="static")
    with pytest.raises(DataError, match=r"likelihood: expected pixels in levels of 1/255 with discretized_logistic"):
        vf.fit(Config(likelihood="discretized_logistic", out=tmp_path / "run"), images=np.random.rand(200, 4, 5))


def logistic(shape: tuple[int, ...], scale: float) -> Tensor:
    u = torch.rand(shape, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return scale * (u.log() - (1 - u).log())


@pytest.mark.parametrize("name", SCALED_LIKELIHOODS)
def test_a_fit_recovers_known_means_and_scales(name: str, tmp_path: Path) -> None:
    """Learn values that depend on nothing: means of each value, and one scale for each of two channels."""
    torch.manual_seed(0)
    means, scales = torch.linspace(0.3, 0.7, 8), torch.tensor([0.03, 0.06]).repeat_interleave(4)
    noise = torch.randn(4000, 8) if name == "gaussian" else logistic((4000, 8), 1.0)
    images = (means + scales * noise).clamp(0, 1).float().view(4000, 2, 2, 2)
    if name == "discretized_logistic":
        images = (255 * images).round().to(torch.uint8)
    run = vf.fit(
        Config(
            likelihood=name, scale="per-channel", hidden=(), latent=1, batch_size=200, epochs=60, lr=0.05,
            lr_schedule="cosine", out=tmp_path / "run",
        ),
        images=images,
    )  # fmt: skip
    learned = run.model.likelihood.log_scale.detach().exp()
    error = 4 / math.sqrt(4 * 3600)  # four standard errors, of a log of a scale from 4 values of each image
    torch.testing.assert_close(learned, scales[::4], rtol=1.5 * error, atol=0)
    decoded = generate.decode(run.model, torch.zeros(1, 1)).flatten()
    assert (decoded - means).abs().max() < 4 * 0.06 * 2 / math.sqrt(3600)


@pytest.mark.skipif(not extension.load(), reason=extension.status())
@pytest.mark.parametrize(("name", "scale"), [("continuous_bernoulli", None), ("gaussian", None),
                                             ("discretized_logistic", "per-value")])  # fmt: skip
def test_a_run_with_any_likelihood_does_all_that_runs_do(name: str, scale: str | None, tmp_path: Path) -> None:
    """Train by both steps, resume to the bit, evaluate, draw, export and load."""
    settings = {"likelihood": name, "scale": scale, "hidden": (16,), "latent": 3, "batch_size": 100, "seed": 3}
    losses = {}
    for step in ("fused", "autograd"):
        whole = vf.fit(Config(**settings, step=step, epochs=2, out=tmp_path / step))
        parts = tmp_path / f"{step}-parts"
        vf.fit(Config(**settings, step=step, epochs=1, out=parts))
        vf.fit(Config.from_toml(parts / "config.toml", resume=parts, epochs=2))
        saved = "checkpoints/latest/model.safetensors"
        assert (whole.directory / saved).read_bytes() == (parts / saved).read_bytes()
        losses[step] = whole.metrics[-1]["test_loss"]
    assert losses["fused"] == pytest.approx(losses["autograd"], rel=1e-5)

    trained = vf.Trained.open(whole.directory)
    found = evaluate(trained, trained.images("test"), seed=3, iw=4)
    assert found["loss"] == pytest.approx(losses["autograd"], rel=1e-6)
    assert found["importance_weighted"]["nll"] < found["loss"]
    assert (found["bits_per_dimension"] is None) == (name != "discretized_logistic")
    assert found["nll_minus_entropy"] is None
    assert ("bits/dim" in "\n".join(table(found))) == (name == "discretized_logistic")
    pictures = generate.sample(trained.model, 5, 0)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert f'"likelihood": "{name}"' in report.report(trained, trained.images("test"))
    export(trained, tmp_path / "export")
    loaded = vf.load(tmp_path / "export")
    assert loaded.hyperparameters == trained.model.hyperparameters
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trained.model.parameters(), strict=True))
