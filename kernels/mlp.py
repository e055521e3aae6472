"""A whole training step of an MLP VAE on a CPU, as one operator: gather, forward, loss, backward, norm, clip and Adam.

One parallel region computes it all, on matrix products of its own (csrc/loops/product.h): activations lie with the
images side by side, so that no weight is ever copied, and Adam takes the gradient by a few rows of a weight while they
are in the cache. `mlp_step_` is for one process; `mlp_gradients` stops before Adam, for several that average.

The network is vae_fast.model.VAE's with the Bernoulli likelihood; the loss is objective.py's.
"""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from . import library
from .reference import BETA1, BETA2, EPSILON

ACTIVATIONS = ("relu", "leaky_relu", "elu", "silu", "gelu", "softplus", "tanh")
HAS_LIBRARY = library.load()

_OBJECTIVE = (
    "float free_bits, int row_offset, int stream, float weight, Tensor({}!) workspace, Tensor({}!) terms) -> ()"
)
torch.library.define(
    "vae_fast::mlp_step_",
    "(Tensor(a!)[] parameters, Tensor(b!)[] means, Tensor(c!)[] squares, Tensor(d!) count, Tensor images, Tensor? rows,"
    " Tensor seed, Tensor step, Tensor lr, Tensor beta, str activation, float beta1, float beta2, float epsilon,"
    " float weight_decay, float max_norm, " + _OBJECTIVE.format("e", "f"),
)
torch.library.define(
    "vae_fast::mlp_gradients",
    "(Tensor[] parameters, Tensor(a!)[] gradients, Tensor images, Tensor? rows, Tensor seed, Tensor step, Tensor beta,"
    " str activation, " + _OBJECTIVE.format("b", "c"),
)
torch.library.define("vae_fast::mlp_workspace", "(Tensor[] parameters, int batch, float free_bits) -> int")
torch.library.define("vae_fast::set_flush_denormal", "(bool on) -> bool")


@torch.library.register_fake("vae_fast::mlp_step_")
@torch.library.register_fake("vae_fast::mlp_gradients")
def _mlp_fake(*arguments: object) -> None:
    return None


def mlp_refuses(parameters: Sequence[Tensor], activation: str, likelihood: str = "bernoulli") -> str | None:
    """Why a network cannot be trained by these operators, or None if it can."""
    if not HAS_LIBRARY:
        return library.status()
    if activation not in ACTIVATIONS:
        return f"the activation {activation!r} is none of {', '.join(ACTIVATIONS)}"
    if likelihood != "bernoulli":
        return f"the likelihood {likelihood!r} is not 'bernoulli'"
    for tensor in parameters:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return f"a parameter is {tensor.dtype} on {tensor.device}, not float32 on a CPU"
    return None


def mlp_workspace(parameters: Sequence[Tensor], batch: int, free_bits: float = 0.0) -> Tensor:
    """The memory that steps of a batch of this size or a smaller one need, float32 [...], for the threads set now.

    Free bits need more: they wait for the whole batch's KL before any gradient.
    """
    return torch.empty(torch.ops.vae_fast.mlp_workspace(parameters, batch, free_bits))


def mlp_step_(
    parameters: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    count: Tensor,
    images: Tensor,
    rows: Tensor | None,
    seed: Tensor,
    step: Tensor,
    lr: Tensor,
    beta: Tensor,
    *,
    activation: str,
    workspace: Tensor,
    terms: Tensor,
    weight_decay: float = 0.0,
    max_norm: float = inf,
    free_bits: float = 0.0,
    row_offset: int = 0,
    stream: int = 0,
    weight: float = 1.0,
) -> None:
    """Train on one batch: parameters, moments and count change in place, unless loss or gradients are not finite.

    The same to the bit as `mlp_gradients` and `adam_`, for any number of threads.

    Args:
        parameters: weight [N, M] and bias [N] of every layer in the order of VAE.parameters(): the encoder's hidden
            layers, stats [2 Z, M], the decoder's hidden layers, as many, and logits [D, M]; float32, contiguous.
        means, squares: Adam's moments, of equal shapes.
        count: the steps taken so far, 0-d float32.
        images: [N, D], uint8 (k is the pixel k/255) or float32.
        rows: which images make the batch, int64 [B], or None for all in their order.
        seed, step: of the noise, 0-d int64, as for `reparameterize`; likewise row_offset and stream.
        lr: the learning rate, 0-d float32.
        beta: the weight of the KL term, 0-d float32.
        activation: one of `ACTIVATIONS`.
        workspace: `mlp_workspace`'s; what it holds means nothing between steps.
        terms: float64 [5], where the results go.
        weight_decay: the share of each weight taken off, times lr.
        max_norm: gradients whose norm over all parameters is larger are scaled down to it.
        free_bits: in nats, for each latent dimension (Kingma et al. 2016, appendix C.8).
        weight: a factor before the gradients, which are those of the mean over the batch.

    `terms` becomes (loss B, sum of nll, sum of kl, B, 0), the loss being the batch's mean, or (0, 0, 0, 0, 1) for a
    step that was skipped.

    Products and sums over a layer's inputs or the batch accumulate in float32, in the order of the inputs or images;
    the losses in float32 over 48 pixels of an image, then in float64.

    Raises TypeError, ValueError or IndexError for arguments that do not fit.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; for Adam see `adam_`.
    """
    torch.autograd.graph.increment_version(parameters)  # whoever saved one for a backward pass is to notice
    torch.ops.vae_fast.mlp_step_(
        parameters,
        means,
        squares,
        count,
        images,
        rows,
        seed,
        step,
        lr,
        beta,
        activation,
        BETA1,
        BETA2,
        EPSILON,
        weight_decay,
        max_norm,
        free_bits,
        row_offset,
        stream,
        weight,
        workspace,
        terms,
    )


def mlp_gradients(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    images: Tensor,
    rows: Tensor | None,
    seed: Tensor,
    step: Tensor,
    beta: Tensor,
    *,
    activation: str,
    workspace: Tensor,
    terms: Tensor,
    free_bits: float = 0.0,
    row_offset: int = 0,
    stream: int = 0,
    weight: float = 1.0,
) -> None:
    """The gradients of the loss of one batch, written to `gradients`, of the parameters' shapes.

    Arguments and `terms` are those of `mlp_step_`. Where several processes share a batch, each passes as `weight` its
    part of the images, and the gradients add up. A loss that is not finite makes all of them NaN.
    """
    torch.ops.vae_fast.mlp_gradients(
        parameters,
        gradients,
        images,
        rows,
        seed,
        step,
        beta,
        activation,
        free_bits,
        row_offset,
        stream,
        weight,
        workspace,
        terms,
    )


def set_flush_denormal(on: bool) -> bool:
    """Have every thread of PyTorch's pool take denormal numbers for zero, or not; whether the CPU can.

    `torch.set_flush_denormal` acts on the calling thread alone, and threads that exist already do not follow.
    """
    done: bool = torch.ops.vae_fast.set_flush_denormal(on)
    return done
