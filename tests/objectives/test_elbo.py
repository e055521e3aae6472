"""Tests of the schedules of beta, of free bits, and of the gradients of the objective."""

import pytest
import torch

import vae_fast as vf
from vae_fast.kernels import Rates
from vae_fast.objectives.elbo import Noise, backward, forward, objective
from vae_fast.training.schedules import beta_at


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"beta": 2.0}, {0: 2, 99: 2}),
        ({"beta": 2.0, "beta_schedule": "linear", "beta_warmup": 2.0}, {0: 0, 10: 1, 20: 2, 99: 2}),
        ({"beta_schedule": "cyclical", "beta_cycles": 2}, {0: 0, 25: 1 / 1, 12: 0.48, 49: 1, 50: 0, 62: 0.48}),
    ],
)
def test_beta_follows_its_schedule(settings: dict[str, object], expected: dict[int, float]) -> None:
    config = vf.Config(epochs=10, **settings)
    assert {step: beta_at(step, config, steps_per_epoch=10) for step in expected} == pytest.approx(expected)


def model() -> vf.VAE:
    """Return a VAE that maps X to the means (0.1, 2) and (-0.1, 1), log variances 0, and logits independent of z."""
    torch.manual_seed(0)
    vae = vf.VAE((3,), hidden=(), latent=2)
    with torch.no_grad():
        for parameter in (vae.encoder.stats.weight, vae.encoder.stats.bias, vae.decoder.logits.weight):
            parameter.zero_()
        vae.encoder.stats.weight[:2, :2] = torch.tensor([[0.1, -0.1], [2.0, 1.0]])
    return vae


X = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_without_free_bits_the_objective_is_the_elbo() -> None:
    vae, x, beta = vf.VAE((3,), (4,), 2), torch.rand(5, 3), torch.tensor(0.3)
    out = vae(x, 1, 2, row_offset=3, stream=16)
    ours = objective(vae, x, 1, 2, beta=beta, row_offset=3, stream=16)
    torch.testing.assert_close(ours, vf.elbo_loss(out.logits, x, *out[1:3], beta=beta))


def test_free_bits_penalise_only_dimensions_above_lambda() -> None:
    """Use KLs that average 0.005 and 1.25 over the batch, so that only the second exceeds a lambda of 0.5."""
    vae = model()
    loss, nll, kl = objective(vae, X, 0, 0, beta=2.0, free_bits=0.5)
    assert loss.item() == pytest.approx(nll.mean().item() + 2 * (0.5 + 1.25))
    assert kl.tolist() == pytest.approx([0.005 + 2, 0.005 + 0.5])
    by_weight = torch.autograd.grad(loss, vae.encoder.stats.weight)[0][:2, :2]  # by the means, per image
    assert torch.equal(by_weight[0], torch.zeros(2))
    assert by_weight[1].tolist() == pytest.approx([2 * 2.0 / 2, 2 * 1.0 / 2])


@pytest.mark.parametrize("free_bits", [0.0, 0.077])
@pytest.mark.parametrize("split", [5, 2])
def test_the_gradients_of_a_step_are_those_of_the_objective(free_bits: float, split: int) -> None:
    """Compare in float64, for a batch whole or in two parts, which share the KLs that free bits depend on."""
    torch.manual_seed(0)
    vae, x = vf.VAE((3,), (4,), 2).double(), torch.rand(5, 3, dtype=torch.float64)
    seed, step, beta, scale = torch.tensor(1), torch.tensor(2), torch.tensor(0.3), torch.tensor(8.0)
    exact = objective(vae, x, seed, step, beta=beta, free_bits=free_bits)
    expected = torch.autograd.grad(8 * exact.loss, list(vae.parameters()))
    parts = [slice(0, split), slice(split, 5)] if split < 5 else [slice(0, 5)]
    with torch.no_grad():
        sums = vf.kl_per_dimension(*vae.encode(x)).sum(0)
    assert 0 < (sums / 5 >= free_bits).sum() < 2 or free_bits == 0, "free bits bind in some dimensions only"
    gradients, losses = [torch.zeros_like(g) for g in expected], []
    for part in parts:
        noise = Noise(seed, step, part.start)
        done, rates = forward(vae, x[part], noise), Rates(torch.tensor(1e-3), beta)
        settings = {"images": 5, "free_bits": free_bits, "total": lambda own: sums}
        terms, own = backward(vae, vae.likelihood, x[part], noise, done, rates, scale, **settings)
        gradients = [g + o for g, o in zip(gradients, own, strict=True)]
        losses.append(terms)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    nll, kl = (torch.cat([getattr(terms, name) for terms in losses]) for name in ("nll", "kl"))
    torch.testing.assert_close((nll, kl), (exact.nll, exact.kl))
    weighed = kl.mean() if losses[0].penalty is None else losses[0].penalty
    torch.testing.assert_close(nll.mean() + beta * weighed, exact.loss)
