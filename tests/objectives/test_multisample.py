"""Objectives of several samples: gradients by float64 autograd, their means, a likelihood that is known, runs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from tests.own_objectives import sampled
from vae_fast.errors import ConfigError
from vae_fast.kernels import Rates, extension
from vae_fast.models import sizes
from vae_fast.models.prior import Mixture, log_density
from vae_fast.models.vae import VAE
from vae_fast.objectives import elbo
from vae_fast.objectives.elbo import Noise
from vae_fast.objectives.multisample import backward, forward, log_mean_exp
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.environment import cpp_compiler

BETA, SCALE, IMAGES = 0.7, 8.0, 10
Found = tuple[Any, tuple[Tensor, ...]]


def small(likelihood: str = "bernoulli", latent: int = 3, prior: str = "normal") -> VAE:
    torch.manual_seed(0)
    network = {"hidden": (9,), "latent": latent, "activation": "tanh"}
    return VAE((1, 4, 4), **network, likelihood=likelihood, prior=prior, components=5)


def gradients(model: VAE, x: Tensor, samples: int, objective: str, seed: int = 3, beta: float = BETA) -> Found:
    noise, rates = Noise(torch.tensor(seed), torch.tensor(4), 0), Rates(torch.tensor(1e-3), torch.tensor(beta))
    done = forward(model, x, noise, samples=samples, prior=model.prior)
    given = model, model.likelihood, x, noise, done, rates, torch.tensor(SCALE)
    return backward(*given, images=IMAGES, objective=objective, prior=model.prior)


def fixed(mixture: Mixture | None) -> Mixture | None:
    return None if mixture is None else Mixture(*(t.detach() for t in mixture))


def written_out(model: VAE, x: Tensor, samples: int, objective: str) -> Found:
    """Return the loss of each image and the gradients, by autograd in float64, with the same noise."""
    noise = Noise(torch.tensor(3), torch.tensor(4), 0)
    eps = forward(model, x, noise, samples=samples, prior=model.prior).eps.double()
    exact = VAE(**model.hyperparameters).double()
    exact.load_state_dict(model.state_dict())
    mu, logvar = exact.stats(x.double()).chunk(2, dim=-1)
    z = mu + (0.5 * logvar).exp() * eps
    nll = torch.stack([exact.likelihood.nll(exact.logits(each), x.double()) for each in z])
    constant = 0.5 * math.log(2 * math.pi)
    prior = log_density(z, exact.mixture())
    if objective == "dreg":  # the posterior's own parameters are held fixed, and the path's weights are squared
        density = -0.5 * (z - mu.detach()).square() / logvar.detach().exp() - 0.5 * logvar.detach() - constant
    else:
        density = -0.5 * (z - mu).square() / logvar.exp() - 0.5 * logvar - constant
    log_w = -nll + BETA * (prior - density.sum(-1))
    loss = -(log_w.logsumexp(0) - math.log(samples))
    if objective == "elbo":
        loss = -log_w.mean(0)
    if objective == "elbo" and model.prior.is_normal:
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)
        loss = nll.mean(0) + BETA * kl
    total, parameters = SCALE / IMAGES * loss.sum(), list(exact.parameters())
    found = torch.autograd.grad(total, parameters, retain_graph=True)
    if objective == "dreg":
        shares, encoder = log_w.softmax(0).detach(), list(exact.encoder.parameters())
        along_z = log_w - BETA * prior + BETA * log_density(z, fixed(exact.mixture()))
        surrogate = -SCALE / IMAGES * (shares * (1 - BETA + BETA * shares) * along_z).sum()
        of_encoder = torch.autograd.grad(surrogate, encoder)
        if model.prior.name == "vamp":  # whose pseudo-inputs go through the encoder, too
            loss_by_prior = -SCALE / IMAGES * BETA * (shares * log_density(z.detach(), exact.mixture())).sum()
            more = torch.autograd.grad(loss_by_prior, encoder)
            of_encoder = tuple(a + b for a, b in zip(of_encoder, more, strict=True))
        found = (*of_encoder, *found[len(of_encoder) :])
    return loss, found


@pytest.mark.parametrize(
    ("likelihood", "prior"), [("bernoulli", "normal"), ("gaussian", "vamp"), ("gaussian", "mixture")]
)
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("objective", ["elbo", "iwae", "dreg"])
def test_loss_and_gradients_are_those_of_the_written_out_formula(
    objective: str, samples: int, likelihood: str, prior: str
) -> None:
    model, x = small(likelihood, prior=prior), torch.rand(6, 16)
    terms, found = gradients(model, x, samples, objective)
    loss, expected = written_out(model, x, samples, objective)
    torch.testing.assert_close(terms.nll + BETA * terms.kl, loss.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, tuple(g.float() for g in expected), rtol=1e-4, atol=1e-4)


def test_one_sample_is_what_other_objectives_say() -> None:
    model, x = small(), torch.rand(6, 16)
    noise, rates = Noise(torch.tensor(3), torch.tensor(4), 0), Rates(torch.tensor(1e-3), torch.tensor(BETA))
    own = OwnObjective(f"{Path(__file__).parents[1] / 'own_objectives.py'}:{sampled.__name__}", model)
    for name, back in (("elbo", elbo.backward), ("iwae", own.backward)):
        done = elbo.forward(model, x, noise)
        expected = back(model, model.likelihood, x, noise, done, rates, torch.tensor(SCALE), images=IMAGES)
        torch.testing.assert_close(gradients(model, x, 1, name), expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_samples_that_are_enumerated() -> None:
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0], [4.0, 1e-30]])
    value, shares = log_mean_exp(weights.log() - 700)  # exp(-700) is 0 in float32
    torch.testing.assert_close(value, torch.tensor([8 / 3, 4 / 3]).log() - 700)
    torch.testing.assert_close(
        shares, torch.tensor([[1 / 8, 1 / 2], [3 / 8, 1 / 2], [4 / 8, 0.0]]), atol=1e-5, rtol=1e-4
    )


def test_a_weight_of_the_kl_of_0_gives_a_finite_loss() -> None:
    terms, found = gradients(small(), torch.rand(6, 16), 4, "iwae", beta=0.0)
    assert (terms.nll + 0 * terms.kl).isfinite().all()
    assert all(g.isfinite().all() for g in found)


def test_both_gradients_of_the_bound_have_the_same_mean_and_dregs_varies_less() -> None:
    model, x, draws = small(), torch.rand(4, 16), 600
    each = {}
    for objective in ("iwae", "dreg"):
        found = [gradients(model, x, 16, objective, seed=seed)[1] for seed in range(draws)]
        each[objective] = torch.stack([torch.cat([g.flatten() for g in one[:4]]) for one in found])  # the encoder's
    apart = each["iwae"] - each["dreg"]  # of the same samples
    error = apart.std(0) / math.sqrt(draws)
    assert ((apart.mean(0)).abs() <= 5 * error + 1e-6).all()
    assert each["dreg"].var(0).sum() < 0.7 * each["iwae"].var(0).sum()


def test_the_bound_rises_to_the_known_likelihood_of_a_linear_model() -> None:
    """Compare with log N(x; b, W W^T + s^2 I), where the posterior of the encoder is not the true one."""
    torch.manual_seed(1)
    scale = 0.4
    model = VAE((6,), hidden=(), latent=2, likelihood="gaussian", scale=scale)
    weight, bias = (p.detach() for p in model.decoder.parameters())
    x = torch.rand(40, 6)
    known = torch.distributions.MultivariateNormal(bias, weight @ weight.T + scale**2 * torch.eye(6)).log_prob(x).mean()
    bounds = []
    for samples in (1, 8, 64, 4096):
        terms, _ = gradients(model, x, samples, "iwae", beta=1.0)
        bounds.append(-float((terms.nll + terms.kl).mean()))
    assert bounds == sorted(bounds)
    assert bounds[0] < known - 0.1
    assert bounds[-1] == pytest.approx(float(known), abs=0.02)


def test_a_batch_in_parts_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"hidden": (16,), "latent": 4, "epochs": 1, "objective": "iwae", "samples": 3, "step": "autograd"}
    whole = vf.fit(vf.Config(**settings, out=str(tmp_path / "whole"))).metrics[-1]
    model = VAE((1, 28, 28), hidden=(16,), latent=4)
    monkeypatch.setattr(sizes, "PART_BYTES", 50 * sizes.image_memory(model, 3))
    assert [part.stop - part.start for part in sizes.parts_of(model, 128, 3)] == [50, 50, 28]
    parts = vf.fit(vf.Config(**settings, out=str(tmp_path / "parts"))).metrics[-1]
    for name in ("train_loss", "train_nll", "test_loss"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)


@pytest.mark.skipif(not extension.load(), reason="the C++ library is not built")
def test_the_fused_step_learns_the_same(tmp_path: Path) -> None:
    settings = {"hidden": (16,), "latent": 4, "epochs": 2, "objective": "dreg", "samples": 3}
    fused, autograd = (
        vf.fit(vf.Config(**settings, step=step, out=str(tmp_path / step))).metrics[-1] for step in ("fused", "autograd")
    )
    for name in ("train_loss", "train_nll", "train_kl", "test_loss"):
        assert fused[name] == pytest.approx(autograd[name], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(
    "more",
    [
        {"objective": "dreg", "amp_dtype": "bf16", "beta_schedule": "linear"},
        {"objective": "iwae", "compile": True, "likelihood": "gaussian", "step": "autograd"},
        {"objective": "iwae", "likelihood": "discretized_logistic"},
        {"objective": "elbo", "network": "conv", "network_options": {"width": 4}, "conditional": True},
        {"objective": "elbo", "prior": "vamp", "components": 20, "amp_dtype": "bf16", "binarize": "dynamic"},
        {"objective": "dreg", "prior": "mixture", "components": 20, "compile": True},
    ],
)
def test_a_run_resumes_bit_for_bit(more: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if more.get("compile") and cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    settings = {"latent": 4, "samples": 3, "epochs": 2, **({} if "network" in more else {"hidden": (16,)}), **more}
    run = vf.fit(vf.Config(out=str(tmp_path / "run"), **settings))
    assert f"objective: {settings['objective']} (3 samples of z an image)" in capsys.readouterr().out
    assert run.metrics[1]["test_loss"] < run.metrics[0]["test_loss"]
    assert run.metrics[1]["train_loss"] == pytest.approx(
        run.metrics[1]["train_nll"] + run.metrics[1]["train_kl"], rel=2e-2 if "beta_schedule" in more else 1e-5
    )
    once = vf.fit(vf.Config(out=str(tmp_path / "once"), **{**settings, "epochs": 1}))
    if "beta_schedule" in more:
        return
    resumed = vf.fit(vf.Config.from_toml(once.directory / "config.toml", resume=str(once.directory), epochs=2))
    assert all(map(torch.equal, run.model.state_dict().values(), resumed.model.state_dict().values()))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"objective": "iwae", "free_bits": 0.1},
            ConfigError,
            "free_bits: expected 0 unless the objective is elbo with",
        ),
        ({"samples": 0}, ConfigError, "samples: expected at least 1, got 0"),
        (
            {"objective": "a.py:b", "samples": 2},
            ConfigError,
            "samples: expected 1 with an objective of your own, got 2",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        vf.fit(vf.Config(**settings, out=str(tmp_path / "run")))
