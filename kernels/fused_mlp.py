"""Whole training steps of an MLP VAE on a CPU, as one operator: gather, forward, loss, backward, norm, clip and Adam.

One parallel region computes a step, on matrix products of its own. In float32 (csrc/simd/product.h) activations lie
with the images side by side, so that no weight is ever copied; in bfloat16 (csrc/simd/tiles.h) they lie as the CPU's
instructions want them, and of each weight there are two copies. Adam takes the gradient by a few rows of a weight while
they are in the cache, and writes the copies. `mlp_steps_` is for one process; `mlp_gradients` stops before Adam, for
several that average.

The network is vae_fast.models.vae.VAE's with the Bernoulli likelihood; the loss is objective.py's.
"""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from . import extension
from .finish_step import Record
from .reference import BETA1, BETA2, EPSILON

FUSED_ACTIVATIONS = ("relu", "leaky_relu", "elu", "silu", "gelu", "softplus", "tanh")
FLOAT32 = "float32"
HAS_LIBRARY = extension.load()

_OBJECTIVE = (
    "float free_bits, bool binarize, int row_offset, int stream, float weight, str products, Tensor({}!) workspace"
)
torch.library.define(
    "vae_fast::mlp_steps_",
    "(Tensor(a!)[] parameters, Tensor(b!)[] means, Tensor(c!)[] squares, Tensor(d!) count, Tensor(e!)? copies,"
    " Tensor images, Tensor? order, Tensor schedule, Tensor seed, Tensor(f!) step, Tensor(g!) sums, Tensor(h!) ring,"
    " int steps, str activation, float beta1, float beta2, float epsilon, float weight_decay, float max_norm, "
    + _OBJECTIVE.format("i")
    + ", Tensor(j!)? seconds) -> ()",
)
torch.library.define(
    "vae_fast::mlp_gradients",
    "(Tensor[] parameters, Tensor(a!)[] gradients, Tensor? copies, Tensor images, Tensor? rows, Tensor seed,"
    " Tensor step, Tensor beta, str activation, " + _OBJECTIVE.format("b") + ", Tensor(c!) terms) -> ()",
)
torch.library.define(
    "vae_fast::mlp_workspace", "(Tensor[] parameters, int batch, float free_bits, str products) -> int"
)
torch.library.define("vae_fast::mlp_copies_size", "(Tensor[] parameters) -> int")
torch.library.define("vae_fast::mlp_copy_", "(Tensor[] parameters, Tensor(a!) copies) -> ()")
torch.library.define("vae_fast::bf16_loops", "() -> str[]")
torch.library.define("vae_fast::step_terms", "() -> str[]")
torch.library.define("vae_fast::set_flush_denormal", "(bool on) -> bool")


@torch.library.register_fake("vae_fast::mlp_steps_")
@torch.library.register_fake("vae_fast::mlp_gradients")
def _mlp_fake(*arguments: object) -> None:
    return None


def mlp_refuses(parameters: Sequence[Tensor], activation: str, likelihood: str = "bernoulli") -> str | None:
    """Why a network cannot be trained by these operators, or None if it can."""
    if not HAS_LIBRARY:
        return extension.status()
    if activation not in FUSED_ACTIVATIONS:
        return f"the activation {activation!r} is none of {', '.join(FUSED_ACTIVATIONS)}"
    if likelihood != "bernoulli":
        return f"the likelihood {likelihood!r} is not 'bernoulli'"
    for tensor in parameters:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return f"a parameter is {tensor.dtype} on {tensor.device}, not float32 on a CPU"
    return None


def mlp_workspace(parameters: Sequence[Tensor], batch: int, free_bits: float = 0.0, products: str = FLOAT32) -> Tensor:
    """The memory that steps of a batch of this size or a smaller one need, float32 [...], for the threads set now.

    Free bits need more: they wait for the whole batch's KL before any gradient.
    """
    size = torch.ops.vae_fast.mlp_workspace(parameters, batch, free_bits, products)
    return torch.empty(size, dtype=torch.float32, device="cpu")


def bf16_loops() -> list[str]:
    """The loops for products in bfloat16 that this CPU has, the fastest first.

    amx: its tiles. avx512_bf16: `vdpbf16ps`. portable: the same sums as the latter, from floats, on any CPU. Two more
    serve tests: portable_as_amx adds up in the order of AMX, emulated_amx is the code for AMX on a model of its tiles.
    """
    loops: list[str] = torch.ops.vae_fast.bf16_loops()
    return loops


def mlp_copies(parameters: Sequence[Tensor]) -> Tensor:
    """The bfloat16 copies of the weights that products read, two of each, in tiles: int32 [...], two values in each."""
    copies = torch.empty(torch.ops.vae_fast.mlp_copies_size(parameters), dtype=torch.int32, device="cpu")
    mlp_copy_(parameters, copies)
    return copies


def mlp_copy_(parameters: Sequence[Tensor], copies: Tensor) -> None:
    """Make the copies those of parameters that something other than a step has changed."""
    torch.ops.vae_fast.mlp_copy_(parameters, copies)


def mlp_steps_(
    parameters: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    count: Tensor,
    copies: Tensor | None,
    images: Tensor,
    order: Tensor | None,
    schedule: Tensor,
    seed: Tensor,
    record: Record,
    *,
    activation: str,
    workspace: Tensor,
    steps: int = 1,
    weight_decay: float = 0.0,
    max_norm: float = inf,
    free_bits: float = 0.0,
    binarize: bool = False,
    row_offset: int = 0,
    stream: int = 0,
    weight: float = 1.0,
    products: str = FLOAT32,
    seconds: Tensor | None = None,
) -> None:
    """Train on some batches, one after the other: parameters, moments, count, copies and the record change in place.

    Of a step whose loss or gradients are not finite only the record changes. A step is the same to the bit as
    `mlp_gradients` and `adam_`, for any number of threads.

    Args:
        parameters: weight [N, M] and bias [N] of every layer in the order of VAE.parameters(): the encoder's hidden
            layers, stats [2 Z, M], the decoder's hidden layers, as many, and logits [D, M]; float32, contiguous.
        means, squares: Adam's moments, of equal shapes.
        count: the steps taken so far, 0-d float32.
        copies: `mlp_copies` of the parameters as they are, which become those of the new ones; None in float32.
        images: [N, D], uint8 (k is the pixel k/255) or float32.
        order: which images make the batches of an epoch, int64 [steps of an epoch, B]; None for images that are the
            batches of these steps, one after the other.
        schedule: learning rate and beta, the KL term's weight, of an epoch's steps, float32 [steps of an epoch, 2].
        seed: of the noise, 0-d int64, as for `reparameterize`; likewise row_offset and stream.
        record: its step, which is also the noise's, says where in order and schedule the steps begin; each enters its
            terms (loss B, sum of nll, sum of kl, B, 0), the loss being the batch's mean, or (0, 0, 0, 0, 1) if skipped.
        activation: one of `FUSED_ACTIVATIONS`.
        workspace: `mlp_workspace`'s; what it holds means nothing between calls.
        steps: how many.
        weight_decay: the share of each weight taken off, times lr.
        max_norm: gradients whose norm over all parameters is larger are scaled down to it.
        free_bits: in nats, for each latent dimension (Kingma et al. 2016, appendix C.8).
        binarize: train on Bernoulli samples of the pixels, drawn anew at every step.
        weight: a factor before the gradients, which are those of the mean over the batch.
        products: float32, or one of `bf16_loops`: then the operands of the products are rounded to bfloat16,
            activations and gradients once each. All else is float32.
        seconds: to which each thread adds what it spends on forward products, backward products, weights' gradients
            with Adam, the keeping of operands, and all together, float64 [threads, 5].

    Products and sums over a layer's inputs or the batch accumulate in float32, in the order of the inputs or images
    (csrc/simd/tiles.h says in which order bfloat16's do); the losses in float32 over 48 pixels of an image, then in
    float64.

    Raises TypeError, ValueError or IndexError for arguments that do not fit, before anything changes.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; for Adam see `adam_`.
    """
    torch.autograd.graph.increment_version(parameters)  # whoever saved one for a backward pass is to notice
    torch.ops.vae_fast.mlp_steps_(
        parameters,
        means,
        squares,
        count,
        copies,
        images,
        order,
        schedule,
        seed,
        *record,
        steps,
        activation,
        BETA1,
        BETA2,
        EPSILON,
        weight_decay,
        max_norm,
        free_bits,
        binarize,
        row_offset,
        stream,
        weight,
        products,
        workspace,
        seconds,
    )


def mlp_gradients(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    copies: Tensor | None,
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
    binarize: bool = False,
    row_offset: int = 0,
    stream: int = 0,
    weight: float = 1.0,
    products: str = FLOAT32,
) -> None:
    """The gradients of the loss of one batch, written to `gradients`, of the parameters' shapes.

    Args:
        rows: which of the images make the batch, int64 [B], or None for all in their order.
        step, beta: the noise's, and the weight of the KL term; 0-d int64 and float32.
        terms: float64 [5], what a step enters in its record.

    The other arguments are those of `mlp_steps_`. Where several processes share a batch, each passes as `weight` its
    part of the images, and the gradients add up. A loss that is not finite makes all of them NaN.
    """
    torch.ops.vae_fast.mlp_gradients(
        parameters,
        gradients,
        copies,
        images,
        rows,
        seed,
        step,
        beta,
        activation,
        free_bits,
        binarize,
        row_offset,
        stream,
        weight,
        products,
        workspace,
        terms,
    )


def set_flush_denormal(on: bool) -> bool:
    """Have every thread of PyTorch's pool take denormal numbers for zero, or not; whether the CPU can.

    `torch.set_flush_denormal` acts on the calling thread alone, and threads that exist already do not follow.
    """
    done: bool = torch.ops.vae_fast.set_flush_denormal(on)
    return done
