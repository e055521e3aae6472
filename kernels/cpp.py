"""The C++ operators as PyTorch's compiler knows them: schemas, fakes, and what they can take.

The kernels are in csrc/ and run on a CPU in float32. Their gradients are operators as well, which compute the noise
and the sigmoid again from the inputs instead of storing them; csrc/gradients.cpp tells autograd of them.
"""

import torch
from torch import Tensor

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
