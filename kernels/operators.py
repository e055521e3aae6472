"""The operators as PyTorch knows them: schemas, what their results look like, gradients, and the Triton kernels.

A schema belongs to no implementation. PyTorch picks the kernel by the device of the arguments: on a CPU that of the C++
library, which registers itself when it is loaded, on a GPU Triton's, registered here by functions that import Triton
when they are first called. Under TRITON_INTERPRET=1 the Triton kernels take the CPU's place, for tests without a GPU.

Backward operators compute the noise and the likelihood's derivative again from the inputs instead of storing them. They
have no gradients of their own: a second derivative raises. On a CPU csrc/gradients.cpp tells autograd the same as the
functions below, in a fraction of the time.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
HAS_TRITON = importlib.util.find_spec("triton") is not None
_NOISE = "Tensor seed, Tensor step, SymInt row_offset, int stream"
_POSTERIOR = "Tensor mu, Tensor logvar"
_PIXELS = "Tensor logits, Tensor target"

for _schema in (
    "random_bits(Tensor seed, Tensor step, SymInt rows, SymInt columns, SymInt row_offset, int stream) -> Tensor",
    f"reparameterize({_POSTERIOR}, {_NOISE}) -> Tensor",
    f"reparameterize_backward(Tensor grad_z, Tensor logvar, {_NOISE}) -> (Tensor, Tensor)",
    f"elbo({_PIXELS}, {_POSTERIOR}, Tensor? log_scale, str likelihood) -> (Tensor, Tensor)",
    f"elbo_backward(Tensor grad_nll, Tensor grad_kl, {_PIXELS}, {_POSTERIOR}, Tensor? log_scale, str likelihood)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    f"sample_posterior(Tensor stats, {_NOISE}) -> (Tensor, Tensor)",
    f"sample_posterior_backward(Tensor? grad_z, Tensor? grad_kl, Tensor stats, {_NOISE}) -> Tensor",
    f"nll({_PIXELS}, Tensor? log_scale, str likelihood) -> Tensor",
    f"nll_backward(Tensor grad_nll, {_PIXELS}, Tensor? log_scale, str likelihood) -> (Tensor, Tensor)",
):
    torch.library.define(f"vae_fast::{_schema.partition('(')[0]}", _schema[_schema.index("(") :])


@torch.library.register_fake("vae_fast::random_bits")
def _random_bits_fake(seed: Tensor, step: Tensor, rows: int, columns: int, row_offset: int, stream: int) -> Tensor:
    return seed.new_empty((rows, columns))


@torch.library.register_fake("vae_fast::reparameterize")
def _reparameterize_fake(mu: Tensor, logvar: Tensor, *noise: Any) -> Tensor:
    return mu.new_empty(mu.shape)


@torch.library.register_fake("vae_fast::reparameterize_backward")
def _reparameterize_backward_fake(grad_z: Tensor, logvar: Tensor, *noise: Any) -> tuple[Tensor, Tensor]:
    return logvar.new_empty(logvar.shape), logvar.new_empty(logvar.shape)


@torch.library.register_fake("vae_fast::elbo")
def _elbo_fake(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0]
    return logits.new_empty(rows, dtype=torch.float32), logits.new_empty(rows, dtype=torch.float32)


@torch.library.register_fake("vae_fast::elbo_backward")
def _elbo_backward_fake(
    grad_nll: Tensor,
    grad_kl: Tensor,
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_scale: Tensor | None,
    likelihood: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by_scale = logits.new_empty(0) if log_scale is None else log_scale.new_empty(log_scale.shape)
    return logits.new_empty(logits.shape), mu.new_empty(mu.shape), logvar.new_empty(logvar.shape), by_scale


def _reparameterize_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, logvar, seed, step, ctx.row_offset, ctx.stream = inputs
    ctx.save_for_backward(logvar, seed, step)


def _reparameterize_grad(ctx: Any, grad_z: Tensor) -> Gradients:
    grad_mu, grad_logvar = torch.ops.vae_fast.reparameterize_backward(
        grad_z, *ctx.saved_tensors, ctx.row_offset, ctx.stream
    )
    return grad_mu, grad_logvar, None, None, None, None


def _elbo_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.likelihood = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _elbo_grad(ctx: Any, grad_nll: Tensor | None, grad_kl: Tensor | None) -> Gradients:
    logits, target, mu, logvar, log_scale = ctx.saved_tensors
    zeros = logits.new_zeros(logits.shape[:1], dtype=torch.float32) if grad_nll is None or grad_kl is None else None
    by_logits, by_mu, by_logvar, by_scale = torch.ops.vae_fast.elbo_backward(
        zeros if grad_nll is None else grad_nll,
        zeros if grad_kl is None else grad_kl,
        logits,
        target,
        mu,
        logvar,
        log_scale,
        ctx.likelihood,
    )
    # A term that nothing depends on gives no gradient, as in the reference, where 0 * inf would give NaN.
    of_nll = (None, None) if grad_nll is None else (by_logits, None if log_scale is None else by_scale)
    of_kl = (None, None) if grad_kl is None else (by_mu, by_logvar)
    return of_nll[0], None, *of_kl, of_nll[1], None


def _no_second_derivative(ctx: Any, *gradients: Tensor | None) -> Gradients:
    raise RuntimeError("the fused operators have no second derivatives; use impl='reference'")


torch.library.register_autograd("vae_fast::reparameterize", _reparameterize_grad, setup_context=_reparameterize_save)
torch.library.register_autograd("vae_fast::elbo", _elbo_grad, setup_context=_elbo_save)
torch.library.register_autograd("vae_fast::reparameterize_backward", _no_second_derivative)
torch.library.register_autograd("vae_fast::elbo_backward", _no_second_derivative)


def _random_bits_triton(*arguments: Any) -> Tensor:
    from .triton.philox import random_bits_triton

    return random_bits_triton(*arguments)


def _reparameterize_triton(
    mu: Tensor, logvar: Tensor, seed: Tensor, step: Tensor, row_offset: int, stream: int
) -> Tensor:
    from .triton.reparameterize import reparameterize_fwd_triton

    return reparameterize_fwd_triton(mu, logvar, seed, step, row_offset, stream, with_kl=False)[0]


def _reparameterize_backward_triton(
    grad_z: Tensor, logvar: Tensor, seed: Tensor, step: Tensor, row_offset: int, stream: int
) -> tuple[Tensor, Tensor]:
    from .triton.reparameterize import reparameterize_bwd_triton

    out = logvar.new_empty(logvar.shape), logvar.new_empty(logvar.shape)
    reparameterize_bwd_triton(grad_z, None, None, logvar, seed, step, row_offset, stream, out)
    return out


def _elbo_triton(*arguments: Any) -> tuple[Tensor, Tensor]:
    from .triton.elbo import elbo_fwd_triton

    return elbo_fwd_triton(*arguments)


def _elbo_backward_triton(*arguments: Any) -> tuple[Tensor, ...]:
    from .triton.elbo import elbo_bwd_triton

    return elbo_bwd_triton(*arguments)


def _on_its_device(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, which need not be the one where the arguments are."""

    @functools.wraps(kernel)
    def guarded(first: Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(first):
            return kernel(first, *others)

    return guarded


for _name, _kernel in (
    ("random_bits", _random_bits_triton),
    ("reparameterize", _reparameterize_triton),
    ("reparameterize_backward", _reparameterize_backward_triton),
    ("elbo", _elbo_triton),
    ("elbo_backward", _elbo_backward_triton),
):
    torch.library.impl(f"vae_fast::{_name}", "CPU" if INTERPRETED else "CUDA", _on_its_device(_kernel))
