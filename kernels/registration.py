"""The registration of the operators with PyTorch: schemas, shapes of results, gradients, and the Triton kernels.

A schema belongs to no implementation. PyTorch picks the kernel by the device of the arguments: on a CPU that of the C++
library, which registers itself when it is loaded; on a GPU Triton's, registered here by functions that import Triton
when they are first called. Under TRITON_INTERPRET=1 the Triton kernels are registered for the CPU, for tests without a
GPU.

Backward operators recompute the noise and the likelihood's derivative from the inputs instead of storing them. They
have no gradients of their own: a second derivative raises. On a CPU csrc/autograd.cpp does what the autograd functions
below do, in a fraction of the time.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import transforms

Gradients = tuple[Tensor | None, ...]
Noise = tuple[Tensor, Tensor, int, int]  # seed, step, row_offset, stream

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
DISPATCH_KEY = "CPU" if INTERPRETED else "CUDA"  # of the Triton kernels
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
    "sample_posterior_from(Tensor stats, Tensor seed, Tensor step, Tensor row_offset, int stream) -> (Tensor, Tensor)",
    f"sample_posterior_gradient(Tensor grad_z, Tensor kl_weight, Tensor stats, {_NOISE}) -> Tensor",
    "mixture_joint(Tensor z, Tensor stats, Tensor log_weights) -> Tensor",
    f"nll({_PIXELS}, Tensor? log_scale, str likelihood) -> Tensor",
    f"nll_backward(Tensor grad_nll, {_PIXELS}, Tensor? log_scale, str likelihood) -> (Tensor, Tensor)",
    f"nll_with_gradient({_PIXELS}, Tensor weight, Tensor? log_scale, str likelihood) -> (Tensor, Tensor, Tensor)",
):
    torch.library.define(f"vae_fast::{_schema.partition('(')[0]}", _schema[_schema.index("(") :])


# A number as a tensor that compilers treat as opaque: given a constant seed, Inductor would expand all of Philox, each
# round nested in the next, and not terminate.
torch.library.define("vae_fast::scalar", "(SymInt value, Device device) -> Tensor")


@torch.library.impl("vae_fast::scalar", "CompositeExplicitAutograd")
def _scalar(value: int, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=torch.int64, device=device)


@torch.library.register_fake("vae_fast::scalar")
def _scalar_fake(value: int, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


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


@torch.library.register_fake("vae_fast::mixture_joint")
def _mixture_joint_fake(z: Tensor, stats: Tensor, log_weights: Tensor) -> Tensor:
    return z.new_empty((z.shape[0], stats.shape[0]), dtype=torch.float32)


@torch.library.register_fake("vae_fast::sample_posterior_from")
@torch.library.register_fake("vae_fast::sample_posterior")
def _sample_posterior_fake(stats: Tensor, *noise: Any) -> tuple[Tensor, Tensor]:
    rows, columns = stats.shape
    return stats.new_empty((rows, columns // 2)), stats.new_empty(rows, dtype=torch.float32)


@torch.library.register_fake("vae_fast::sample_posterior_backward")
def _sample_posterior_backward_fake(
    grad_z: Tensor | None, grad_kl: Tensor | None, stats: Tensor, *noise: Any
) -> Tensor:
    return stats.new_empty(stats.shape)


@torch.library.register_fake("vae_fast::sample_posterior_gradient")
def _sample_posterior_gradient_fake(grad_z: Tensor, kl_weight: Tensor, stats: Tensor, *noise: Any) -> Tensor:
    return stats.new_empty(stats.shape)


@torch.library.register_fake("vae_fast::nll")
def _nll_fake(logits: Tensor, *others: Any) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.float32)


@torch.library.register_fake("vae_fast::nll_backward")
def _nll_backward_fake(
    grad_nll: Tensor, logits: Tensor, target: Tensor, log_scale: Tensor | None, likelihood: str
) -> tuple[Tensor, Tensor]:
    by_scale = logits.new_empty(0) if log_scale is None else log_scale.new_empty(log_scale.shape)
    return logits.new_empty(logits.shape), by_scale


@torch.library.register_fake("vae_fast::nll_with_gradient")
def _nll_with_gradient_fake(
    logits: Tensor, target: Tensor, weight: Tensor, log_scale: Tensor | None, likelihood: str
) -> tuple[Tensor, Tensor, Tensor]:
    by_scale = logits.new_empty(0) if log_scale is None else log_scale.new_empty(log_scale.shape)
    return logits.new_empty(logits.shape[0], dtype=torch.float32), logits.new_empty(logits.shape), by_scale


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
    if grad_nll is None and grad_kl is None:
        return (None,) * 6
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


def _sample_posterior_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.row_offset, ctx.stream = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _sample_posterior_grad(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> Gradients:
    if grad_z is None and grad_kl is None:
        return (None,) * 5
    grad_stats = torch.ops.vae_fast.sample_posterior_backward(
        grad_z, grad_kl, *ctx.saved_tensors, ctx.row_offset, ctx.stream
    )
    return grad_stats, None, None, None, None


def _nll_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.likelihood = inputs
    ctx.save_for_backward(*tensors)


def _nll_grad(ctx: Any, grad_nll: Tensor) -> Gradients:
    logits, target, log_scale = ctx.saved_tensors
    by_logits, by_scale = torch.ops.vae_fast.nll_backward(grad_nll, logits, target, log_scale, ctx.likelihood)
    return by_logits, None, None if log_scale is None else by_scale, None


def _no_second_derivative(operator: str) -> Callable[..., Gradients]:
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:
        raise transforms.no_second_derivative(operator)

    return backward


for _name, _grad, _save in (
    ("reparameterize", _reparameterize_grad, _reparameterize_save),
    ("elbo", _elbo_grad, _elbo_save),
    ("sample_posterior", _sample_posterior_grad, _sample_posterior_save),
    ("nll", _nll_grad, _nll_save),
):
    torch.library.register_autograd(f"vae_fast::{_name}", _grad, setup_context=_save)
    torch.library.register_autograd(f"vae_fast::{_name}_backward", _no_second_derivative(_name))
for _name in ("sample_posterior_from", "sample_posterior_gradient", "nll_with_gradient"):
    torch.library.register_autograd(f"vae_fast::{_name}", _no_second_derivative(_name))


def _random_bits_triton(*arguments: Any) -> Tensor:
    from .triton.philox import random_bits_triton

    return random_bits_triton(*arguments)


def _reparameterize_triton(mu: Tensor, logvar: Tensor, *noise: *Noise) -> Tensor:
    from .triton.reparameterize import reparameterize_fwd_triton

    return reparameterize_fwd_triton(mu, logvar, *noise, with_kl=False)[0]


def _reparameterize_backward_triton(grad_z: Tensor, logvar: Tensor, *noise: *Noise) -> tuple[Tensor, Tensor]:
    from .triton.reparameterize import reparameterize_bwd_triton

    out = logvar.new_empty(logvar.shape), logvar.new_empty(logvar.shape)
    reparameterize_bwd_triton(grad_z, None, None, logvar, *noise, out)
    return out


def _sample_posterior_triton(stats: Tensor, *noise: *Noise) -> tuple[Tensor, Tensor | None]:
    from .triton.reparameterize import reparameterize_fwd_triton

    mu, logvar = _halves(stats)
    return reparameterize_fwd_triton(mu, logvar, *noise, with_kl=True)


def _sample_posterior_backward_triton(
    grad_z: Tensor | None, grad_kl: Tensor | None, stats: Tensor, *noise: *Noise
) -> Tensor:
    from .triton.reparameterize import reparameterize_bwd_triton

    grad_stats = stats.new_empty(stats.shape)
    mu, logvar = _halves(stats)
    reparameterize_bwd_triton(grad_z, grad_kl, mu, logvar, *noise, _halves(grad_stats))
    return grad_stats


def _sample_posterior_gradient_triton(grad_z: Tensor, kl_weight: Tensor, stats: Tensor, *noise: *Noise) -> Tensor:
    from .triton.reparameterize import reparameterize_bwd_triton

    grad_stats = stats.new_empty(stats.shape)
    mu, logvar = _halves(stats)
    by_dimension = 0, kl_weight.stride(0) if kl_weight.dim() else 0
    reparameterize_bwd_triton(grad_z, kl_weight, mu, logvar, *noise, _halves(grad_stats), by_dimension)
    return grad_stats


def _halves(stats: Tensor) -> tuple[Tensor, Tensor]:
    latent = stats.shape[1] // 2
    return stats[:, :latent], stats[:, latent:]


def _elbo_triton(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    from .triton.elbo import elbo_fwd_triton

    return elbo_fwd_triton(*arguments)


def _elbo_backward_triton(*arguments: Any) -> tuple[Tensor | None, ...]:
    from .triton.elbo import elbo_bwd_triton

    return elbo_bwd_triton(*arguments)


def _nll_triton(logits: Tensor, target: Tensor, *others: Any) -> Tensor:
    from .triton.elbo import elbo_fwd_triton

    return elbo_fwd_triton(logits, target, None, None, *others)[0]


def _nll_backward_triton(grad_nll: Tensor, logits: Tensor, target: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    from .triton.elbo import elbo_bwd_triton

    by_logits, _, _, by_scale = elbo_bwd_triton(grad_nll, None, logits, target, None, None, *others)
    return by_logits, by_scale


def _nll_with_gradient_triton(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from .triton.nll_with_gradient import nll_with_gradient_triton

    return nll_with_gradient_triton(*arguments)


def on_its_device(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a kernel to run on its arguments' device: Triton launches on the current one, which may be another."""

    @functools.wraps(kernel)
    def guarded(*arguments: Any) -> Any:
        with torch.cuda.device_of(next(a for a in arguments if a is not None)):
            return kernel(*arguments)

    return guarded


for _name, _kernel in (
    ("random_bits", _random_bits_triton),
    ("reparameterize", _reparameterize_triton),
    ("reparameterize_backward", _reparameterize_backward_triton),
    ("elbo", _elbo_triton),
    ("elbo_backward", _elbo_backward_triton),
    ("sample_posterior", _sample_posterior_triton),
    ("sample_posterior_backward", _sample_posterior_backward_triton),
    ("sample_posterior_from", _sample_posterior_triton),
    ("sample_posterior_gradient", _sample_posterior_gradient_triton),
    ("nll", _nll_triton),
    ("nll_backward", _nll_backward_triton),
    ("nll_with_gradient", _nll_with_gradient_triton),
):
    torch.library.impl(f"vae_fast::{_name}", DISPATCH_KEY, on_its_device(_kernel))
