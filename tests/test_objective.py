"""beta on its schedules, and free bits."""

import pytest
import torch

import vae_fast as vf
from vae_fast.model import VAEOutput
from vae_fast.objective import beta_at, objective


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"beta": 2.0}, {0: 2, 99: 2}),
        ({"beta": 2.0, "beta_schedule": "linear", "beta_warmup": 2.0}, {0: 0, 10: 1, 20: 2, 99: 2}),
        ({"beta_schedule": "cyclical", "beta_cycles": 2}, {0: 0, 25: 1 / 1, 12: 0.48, 49: 1, 50: 0, 62: 0.48}),
    ],
)
def test_schedules_of_beta(settings: dict[str, object], expected: dict[int, float]) -> None:
    config = vf.Config(epochs=10, **settings)
    assert {step: beta_at(step, config, steps_per_epoch=10) for step in expected} == pytest.approx(expected)


def output() -> VAEOutput:
    torch.manual_seed(0)
    mu = torch.tensor([[0.1, 2.0], [-0.1, 1.0]]).requires_grad_()
    return VAEOutput(torch.randn(2, 3), mu, torch.zeros(2, 2, requires_grad=True), mu)


def test_without_free_bits_it_is_the_elbo() -> None:
    out, x, beta = output(), torch.rand(2, 3), torch.tensor(0.3)
    for ours, theirs in zip(objective(out, x, beta), vf.elbo_loss(out.logits, x, *out[1:3], beta=beta), strict=True):
        assert torch.equal(ours, theirs)


def test_free_bits_press_only_dimensions_above_lambda() -> None:
    """The KLs, averaged over the batch, are 0.005 and 1.25: of a floor of 0.5 only the second exceeds it."""
    out, x, beta = output(), torch.rand(2, 3), torch.tensor(2.0)
    loss, nll, kl = objective(out, x, beta, free_bits=0.5)
    assert loss.item() == pytest.approx(nll.mean().item() + 2 * (0.5 + 1.25))
    assert kl.tolist() == pytest.approx([0.005 + 2, 0.005 + 0.5])
    gradient = torch.autograd.grad(loss, out.mu)[0]
    assert torch.equal(gradient[:, 0], torch.zeros(2))
    assert gradient[:, 1].tolist() == pytest.approx([2 * 2.0 / 2, 2 * 1.0 / 2])
