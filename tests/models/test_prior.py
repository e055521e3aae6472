"""The priors: densities that are known, draws that follow them, and what each command makes of a run with one."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import vae_fast as vf
from vae_fast import evaluate, export, latents, report, sample, trace, traverse
from vae_fast.analysis import generate
from vae_fast.analysis.trained import Trained
from vae_fast.errors import ConfigError, RunError
from vae_fast.models.prior import Mixture, Prior, log_density
from vae_fast.models.vae import VAE
from vae_fast.objectives.importance import log_likelihoods
from vae_fast.train import Run
from vae_fast.training.validation import validate


def drawn(components: int, latent: int, seed: int) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    stats = 2 * torch.randn(components, 2 * latent, generator=generator)
    return Mixture(stats, torch.randn(components, generator=generator).log_softmax(0))


def distribution(mixture: Mixture) -> MixtureSameFamily:
    mixture = Mixture(*(t.detach() for t in mixture))
    normals = Independent(Normal(mixture.means.double(), mixture.deviations.double()), 1)
    return MixtureSameFamily(Categorical(logits=mixture.log_weights.double()), normals)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_the_density_is_that_of_pytorchs_distributions(components: int, latent: int, seed: int) -> None:
    mixture = drawn(components, latent, seed)
    z = distribution(mixture).sample((7, 3)).float()
    torch.testing.assert_close(log_density(z, mixture), distribution(mixture).log_prob(z.double()).float())


def test_one_component_at_0_is_the_normal_prior() -> None:
    z = torch.randn(9, 4)
    torch.testing.assert_close(log_density(z, Mixture(torch.zeros(1, 8), torch.zeros(1))), log_density(z, None))


def test_a_density_far_away_is_finite_and_has_gradients() -> None:
    mixture = drawn(3, 2, 0)
    z = torch.full((1, 2), 1e4, requires_grad=True)
    value = log_density(z, mixture)
    value.sum().backward()
    assert value.isfinite().all()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mixture", "vamp"])
def test_draws_follow_the_prior(name: str) -> None:
    """By the mean of their log density, against draws of PyTorch's, and by their quantiles."""
    torch.manual_seed(0)
    model = VAE((1, 4, 4), hidden=(8,), latent=3, prior=name, components=6)
    with torch.no_grad():
        for p in (model.encoder.stats.weight, model.prior.weights, model.prior.stats):
            if p is not None:
                p.mul_(3).add_(0.1 * torch.randn_like(p))
        mixture = model.mixture()
    assert mixture is not None
    of, count = distribution(mixture), 20_000
    ours, theirs = generate.prior(model, count, 3), of.sample((count,))
    densities = of.log_prob(ours.double()), of.log_prob(theirs)
    error = math.sqrt(sum(float(d.var()) for d in densities) / count)
    assert abs(float(densities[0].mean() - densities[1].mean())) < 5 * error
    torch.testing.assert_close(generate.prior_mean(model), of.mean.float())
    expected = theirs.float().quantile(torch.linspace(0.02, 0.98, 5), 0)
    torch.testing.assert_close(generate.prior_quantiles(model, 5).T, expected, atol=0.3, rtol=0.1)
    assert torch.equal(generate.prior(model, 5, 3), ours[:5])


def test_the_likelihood_under_a_mixture_of_a_linear_model_is_known() -> None:
    """p(x) = sum_n w_n N(x; W m_n + b, W S_n W^T + s^2 I)."""
    torch.manual_seed(0)
    model = VAE((5,), hidden=(), latent=2, likelihood="gaussian", scale=0.5, prior="mixture", components=3)
    weight, bias = (p.detach() for p in model.decoder.parameters())
    with torch.no_grad():
        mixture = model.mixture()
    assert mixture is not None
    x, parts = torch.rand(20, 5), []
    for n in range(3):
        covariance = weight @ torch.diag(mixture.deviations[n] ** 2) @ weight.T + 0.25 * torch.eye(5)
        normal = torch.distributions.MultivariateNormal(weight @ mixture.means[n] + bias, covariance)
        parts.append(mixture.log_weights[n] + normal.log_prob(x))
    found = torch.cat(list(log_likelihoods(model, x, 20_000, 0)))
    torch.testing.assert_close(found.float(), torch.stack(parts).logsumexp(0), atol=0.05, rtol=0.02)


def test_pseudo_inputs_begin_as_training_images_and_stay_in_range(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 5, 5)).astype(np.uint8)
    common: dict[str, Any] = {"hidden": (8,), "latent": 2, "prior": "vamp", "components": 9, "batch_size": 20}
    run = vf.fit(vf.Config(**common, epochs=1, lr=1e-12, out=str(tmp_path / "a")), images=images, test_images=images)
    begun = (run.model.prior.inputs() * 255).round().to(torch.uint8)
    known = {image.tobytes() for image in images}
    assert all(row.numpy().tobytes() in known for row in begun)
    run = vf.fit(vf.Config(**common, epochs=9, lr=0.05, out=str(tmp_path / "b")), images=images, test_images=images)
    inputs = run.model.prior.inputs().detach()
    assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("vamp") / "run"
    settings = {"hidden": (16,), "latent": 4, "epochs": 2, "prior": "vamp", "components": 12}
    return vf.fit(vf.Config(**settings, out=str(out)))


def test_commands_know_the_prior(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(run.directory)
    assert evaluate.main([place, "--iw", "20", "--count", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prior"] == "vamp"
    assert found["importance_weighted"]["nll"] < found["loss"]
    assert evaluate.main([place]) == 0
    assert "KL of each    to N(0, 1): " in capsys.readouterr().out
    assert trace.main([place, "--json"]) == 0
    traced = json.loads(capsys.readouterr().out)["loss"]
    first = validate(run.model, Trained.open(place, "cpu").images().pixels[:1].flatten(1), seed=0)
    assert traced["kl"] == pytest.approx(first["kl"], rel=1e-4)
    for command in (sample, traverse, report):
        assert command.main([place]) == 0
    page = (run.directory / "report.html").read_text()
    assert "draws of a mixture of 12 posteriors of pseudo-inputs" in page
    assert page.count('class="mark"') == 12
    assert latents.main([place]) == 0


def test_an_export_holds_the_prior(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "export"
    assert export.main([str(run.directory), "--out", str(out)]) == 0
    held = np.load(out / "prior.npz")
    with torch.no_grad():
        mixture = run.model.mixture()
    assert mixture is not None
    np.testing.assert_allclose(held["means"], mixture.means, atol=1e-6)
    np.testing.assert_allclose(held["deviations"], mixture.deviations, atol=1e-6)
    np.testing.assert_allclose(held["weights"], np.full(12, 1 / 12), rtol=1e-5)
    assert "prior of z: a mixture of 12 posteriors of pseudo-inputs" in (out / "README.md").read_text()
    assert torch.equal(generate.prior(vf.load(out), 4, 0), generate.prior(run.model, 4, 0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": "vamp", "conditional": True}, "prior: expected normal or mixture with --conditional"),
        ({"prior": "vamp", "free_bits": 0.1}, "prior: expected normal with free bits"),
        ({"prior": "mixture", "objective": "a.py:b"}, "prior: expected normal with an objective of your own"),
        ({"prior": "mixture", "components": 0}, "components: expected at least 1, got 0"),
        ({"prior": "gamma"}, "prior: expected"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vf.Config(**given)


def test_pseudo_inputs_and_batch_normalisation_are_refused(tmp_path: Path) -> None:
    make = "import torch.nn as nn\n\ndef make(shape, latent, outputs):\n    d = shape[0] * shape[1] * shape[2]\n"
    make += "    first = [nn.Flatten(), nn.Linear(d, 8), nn.BatchNorm1d(8), nn.Linear(8, 2 * latent)]\n"
    make += "    return nn.Sequential(*first), nn.Linear(latent, d)\n"
    (tmp_path / "network.py").write_text(make)
    network = f"{tmp_path / 'network.py'}:make"
    with pytest.raises(RunError, match=r"prior: expected normal or mixture, got vamp: network .* changes buffers"):
        vf.fit(vf.Config(network=network, latent=2, prior="vamp", components=5, out=str(tmp_path / "run")))


@pytest.mark.parametrize(
    "more",
    [
        {"prior": "mixture", "conditional": True},
        {"prior": "vamp", "feed": "stream", "data": "images.npy"},
        {"prior": "vamp", "standardize": True, "likelihood": "gaussian", "data": "table.npy"},
    ],
)
def test_priors_go_with_everything(more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.save("images.npy", random.integers(0, 256, (200, 5, 5)).astype(np.uint8))
    np.save("table.npy", random.normal(5, 3, (200, 6)).astype(np.float32))
    settings = {"hidden": (8,), "latent": 2, "components": 6, "batch_size": 20, "epochs": 2, "ema": 0.9, **more}
    run = vf.fit(vf.Config(**settings, out="run"))
    assert run.metrics[1]["test_loss"] < run.metrics[0]["test_loss"]
    assert evaluate.main(["run"]) == 0
    assert sample.main(["run"]) == 0
    assert report.main(["run"]) == 0


def test_arguments_of_the_model_and_the_density_are_checked() -> None:
    with pytest.raises(ValueError, match="prior: expected one of normal, mixture, vamp, got 'gamma'"):
        Prior("gamma", 2, 4, 3, True)
    with pytest.raises(ValueError, match="prior: expected normal or mixture with classes, got 'vamp'"):
        VAE(prior="vamp", classes=3)
    with pytest.raises(ValueError, match="components: expected a positive integer, got 0"):
        VAE(prior="vamp", components=0)
