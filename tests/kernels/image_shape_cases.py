"""Checks of latents with channels and scales per channel against the formulas with PyTorch's broadcasting."""

import torch
from torch import Tensor

import vae_fast as vf
from tests.kernels.operator_calls import normal
from tests.kernels.operator_cases import sizes, within
from vae_fast.kernels import kl_per_dimension, nll, reference, sample_posterior, sample_posterior_gradient

LATENTS = [(3, 2, 5, 7), (1, 1, 1), (4, 3, 1), (0, 2, 3), (2, 0, 3), (2, 3, 2, 2, 3)]
# An image's shape, and shapes of scales that broadcast to it.
SCALES = {
    (3, 5, 7): [(3, 1, 1), (1, 3, 1, 1), (1, 5, 1), (1, 1, 7), (3, 5, 7), (1, 3, 5, 7), (5, 7), (1, 1, 1), (1,)],
    (1, 4): [(1, 1, 4), (1, 4)],
    (11,): [(1, 11), (1, 1)],
    (2, 0): [(2, 1)],
}


def encoded(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Return an encoder's output [B, 2 C, ...] for mu and logvar of the shape [B, C, ...]."""
    stats = normal(shape[0], 2 * shape[1], *shape[2:], dtype=dtype)
    return stats.transpose(1, -1).contiguous().transpose(1, -1) if channels_last else stats


def check_latents_of_elbo(impl: str, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> None:
    """Check the kl and its gradients for latents of this shape."""
    leaves = [t.detach().requires_grad_() for t in encoded(shape, dtype, channels_last).chunk(2, dim=1)]
    b = shape[0]
    kl = vf.elbo_loss(normal(b, 6, dtype=dtype), torch.zeros(b, 6), *leaves, impl=impl).kl
    weight = torch.linspace(-1, 2, b).to(kl.dtype)
    grads = torch.autograd.grad(kl, leaves, weight)

    m, v = exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = (-0.5 * (1 + v - m.square() - v.exp())).flatten(1).sum(1)
    exact_grads = torch.autograd.grad(exact, exact_leaves, weight.double())
    assert [(g.dtype, g.shape) for g in grads] == [(dtype, shape)] * 2
    m, v = m.detach(), v.detach()
    within(kl, exact, 20, (1 + v.abs() + m.square() + v.exp()).flatten(1).sum(1))
    within(grads[0], exact_grads[0], 1, exact_grads[0].abs())
    within(grads[1], exact_grads[1], 5, weight.double().abs().view(-1, *[1] * (v.dim() - 1)) * (1 + v.exp()))
    each = kl_per_dimension(*(t.detach() for t in leaves))
    assert each.shape == shape
    within(each.flatten(1).sum(1), exact, 20, (1 + v.abs() + m.square() + v.exp()).flatten(1).sum(1))


def check_sample_of_channels(impl: str, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> None:
    """Check that z, kl and their gradient are those of the flattened encoder's output, in their own shapes."""
    stats = encoded(shape, dtype, channels_last).detach().requires_grad_()
    z, kl = sample_posterior(stats, 3, 4, row_offset=5, impl=impl)
    mu, logvar = (t.flatten(1) for t in stats.chunk(2, dim=1))
    assert (z.shape, kl.shape) == (shape, shape[:1])
    assert torch.equal(z.flatten(1), vf.reparameterize(mu, logvar, 3, 4, row_offset=5, impl=impl))
    torch.testing.assert_close(kl, kl_per_dimension(mu, logvar).sum(1))

    grad_z, weight = normal(*shape, seed=1, dtype=dtype), normal(*shape[1:], seed=2)
    for kl_weight in (torch.tensor(0.7), weight):
        ours = sample_posterior_gradient(grad_z, kl_weight, stats, 3, 4, row_offset=5, impl=impl)
        each = (kl_weight * kl_per_dimension(*stats.chunk(2, dim=1))).sum()
        z = sample_posterior(stats, 3, 4, row_offset=5, impl=impl).z
        (by_both,) = torch.autograd.grad((z.to(each.dtype) * grad_z).sum() + each, stats)
        assert ours.shape == by_both.shape == stats.shape
        # two gradients of the narrower dtype are rounded before they are added
        torch.testing.assert_close(ours, by_both, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


def check_broadcast_scale(
    impl: str, likelihood: str, b: int, image: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, flat: str
) -> None:
    """Check value and gradients of `nll` and `elbo_loss`; `flat` names the argument to flatten to [B, D], if any."""
    logits = normal(b, *image, dtype=dtype).requires_grad_()
    x = (normal(b, *image, seed=1).abs() / 4).clamp(max=1)
    scale = (normal(*shape, seed=2, dtype=dtype) / 4 - 1).detach().requires_grad_()
    given = logits.flatten(1) if flat == "logits" else logits, x.flatten(1) if flat == "target" else x
    options = {"likelihood": likelihood, "log_scale": scale, "impl": impl}
    mu = torch.zeros(b, 2)
    weight = torch.linspace(0.5, 1, b).to(torch.float64 if dtype == torch.float64 else torch.float32)
    terms = nll(*given, **options), vf.elbo_loss(*given, mu, mu, **options).nll
    exact_logits, exact_scale = (t.detach().double().requires_grad_() for t in (logits, scale))
    each = reference.LIKELIHOODS[likelihood](exact_logits, x.double(), exact_scale)
    exact = each.flatten(1).sum(1)
    exact_grads = torch.autograd.grad(exact, (exact_logits, exact_scale), weight.double())

    exact_logits, exact_scale = exact_logits.detach(), exact_scale.detach()
    size = sizes(likelihood, exact_logits, x.double(), exact_scale)
    by_nll = weight.double().view(-1, *[1] * len(image))
    by_scale = (by_nll * size.by_scale).expand(b, *image).sum_to_size(shape)
    for value in terms:
        grads = torch.autograd.grad(value, (logits, scale), weight)
        assert [(g.dtype, g.shape) for g in grads] == [(dtype, logits.shape), (dtype, shape)]
        within(value, exact, 20, size.value.expand(b, *image).flatten(1).sum(1))
        within(grads[0], exact_grads[0], 8, by_nll * size.by_logit)
        within(grads[1], exact_grads[1], 20, by_scale)
