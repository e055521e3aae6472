"""The C++ operators as PyTorch's compiler and autograd know them: schemas, fakes, gradients, and what they can take.

The kernels are in csrc/ and run on a CPU in float32. Their gradients are operators as well, which compute the noise
and the sigmoid again from the inputs instead of storing them. Those have no gradient: a second derivative raises.
"""

from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]

torch.library.define(
    "vae_fast::random_bits",
    "(Tensor seed, Tensor step, SymInt rows, SymInt columns, SymInt row_offset, int stream) -> Tensor",
)
torch.library.define(
    "vae_fast::reparameterize",
    "(Tensor mu, Tensor logvar, Tensor seed, Tensor step, SymInt row_offset, int stream) -> Tensor",
)
torch.library.define(
    "vae_fast::reparameterize_backward",
    "(Tensor grad_z, Tensor logvar, Tensor seed, Tensor step, SymInt row_offset, int stream) -> (Tensor, Tensor)",
)
torch.library.define(
    "vae_fast::elbo_bernoulli", "(Tensor logits, Tensor target, Tensor mu, Tensor logvar) -> (Tensor, Tensor)"
)
torch.library.define(
    "vae_fast::elbo_bernoulli_backward",
    "(Tensor grad_nll, Tensor grad_kl, Tensor logits, Tensor target, Tensor mu, Tensor logvar)"
    " -> (Tensor, Tensor, Tensor)",
)


def why_not_reparameterize(mu: Tensor, logvar: Tensor) -> str | None:
    """What keeps C++ from these arguments, or None."""
    return _why_not(mu=mu, logvar=logvar)


def why_not_elbo(logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, likelihood: str) -> str | None:
    """What keeps C++ from these arguments, or None."""
    if likelihood != "bernoulli":
        return f"it has likelihood='bernoulli' only, got {likelihood!r}"
    if target.dtype not in (torch.uint8, torch.float32):
        return f"it takes target in uint8 or float32, got {target.dtype}"
    return _why_not(logits=logits, mu=mu, logvar=logvar)


def _why_not(**floating: Tensor) -> str | None:
    for name, tensor in floating.items():
        if tensor.device.type != "cpu":
            return f"it runs on a CPU, and {name} is on {tensor.device}"
        if tensor.dtype != torch.float32:
            return f"it takes {name} in float32, got {tensor.dtype}"
    return None


@torch.library.register_fake("vae_fast::random_bits")
def _random_bits_fake(seed: Tensor, step: Tensor, rows: int, columns: int, row_offset: int, stream: int) -> Tensor:
    return seed.new_empty((rows, columns))


@torch.library.register_fake("vae_fast::reparameterize")
def _reparameterize_fake(
    mu: Tensor, logvar: Tensor, seed: Tensor, step: Tensor, row_offset: int, stream: int
) -> Tensor:
    return mu.new_empty(mu.shape)


@torch.library.register_fake("vae_fast::reparameterize_backward")
def _reparameterize_backward_fake(
    grad_z: Tensor, logvar: Tensor, seed: Tensor, step: Tensor, row_offset: int, stream: int
) -> tuple[Tensor, Tensor]:
    return logvar.new_empty(logvar.shape), logvar.new_empty(logvar.shape)


@torch.library.register_fake("vae_fast::elbo_bernoulli")
def _elbo_fake(logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[:1]), logits.new_empty(logits.shape[:1])


@torch.library.register_fake("vae_fast::elbo_bernoulli_backward")
def _elbo_backward_fake(
    grad_nll: Tensor, grad_kl: Tensor, logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return logits.new_empty(logits.shape), mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _reparameterize_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, logvar, seed, step, ctx.row_offset, ctx.stream = inputs
    ctx.save_for_backward(logvar, seed, step)


def _reparameterize_grad(ctx: Any, grad_z: Tensor) -> Gradients:
    grad_mu, grad_logvar = torch.ops.vae_fast.reparameterize_backward(
        grad_z, *ctx.saved_tensors, ctx.row_offset, ctx.stream
    )
    return grad_mu, grad_logvar, None, None, None, None


def _elbo_save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _elbo_grad(ctx: Any, grad_nll: Tensor | None, grad_kl: Tensor | None) -> Gradients:
    logits, target, mu, logvar = ctx.saved_tensors
    # A term that nothing depends on gives no gradient, as in the reference, where 0 * inf would give NaN.
    for_nll, for_kl = (logits.new_zeros(logits.shape[:1]) if g is None else g for g in (grad_nll, grad_kl))
    grad_logits, grad_mu, grad_logvar = torch.ops.vae_fast.elbo_bernoulli_backward(
        for_nll, for_kl, logits, target, mu, logvar
    )
    if grad_kl is None:
        return grad_logits, None, None, None
    return None if grad_nll is None else grad_logits, None, grad_mu, grad_logvar


def _no_second_derivative(ctx: Any, *gradients: Tensor | None) -> Gradients:
    raise RuntimeError("the C++ operators have no second derivatives; use impl='reference'")


torch.library.register_autograd("vae_fast::reparameterize", _reparameterize_grad, setup_context=_reparameterize_save)
torch.library.register_autograd("vae_fast::elbo_bernoulli", _elbo_grad, setup_context=_elbo_save)
torch.library.register_autograd("vae_fast::reparameterize_backward", _no_second_derivative)
torch.library.register_autograd("vae_fast::elbo_bernoulli_backward", _no_second_derivative)
