"""Whole training steps of an MLP VAE on a CPU, as one operator: gather, forward, loss, backward, norm, clip and Adam.

One parallel region computes a step, with its own matrix products. In float32 (csrc/simd/product.h) activations are
stored with the images side by side, so that no weight is ever copied; in bfloat16 (csrc/simd/tiles.h) they are stored
in the layout of the CPU's instructions, and each weight has two copies. Adam uses the gradient by a few rows of a
weight while they are in the cache, and writes the copies. `mlp_steps_` is for one process; `mlp_gradients` stops before
Adam, for several processes that average gradients.

The network is that of vae_fast.models.vae.VAE, with any likelihood; the loss is that of objectives/elbo.py.
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
    "float free_bits, bool binarize, int row_offset, int stream, float weight, str products, str likelihood,"
    " float? log_scale, str objective, int samples, Tensor({}!) workspace"
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
    "vae_fast::mlp_workspace", "(Tensor[] parameters, int batch, float free_bits, str products, int samples) -> int"
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


def mlp_refuses(parameters: Sequence[Tensor], activation: str) -> str | None:
    """Return why a network cannot be trained by these operators, or None if it can."""
    if not HAS_LIBRARY:
        return extension.status()
    if activation not in FUSED_ACTIVATIONS:
        return f"the activation {activation!r} is none of {', '.join(FUSED_ACTIVATIONS)}"
    for tensor in parameters:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return f"a parameter is {tensor.dtype} on {tensor.device}, not float32 on a CPU"
    return None


def mlp_workspace(
    parameters: Sequence[Tensor], batch: int, free_bits: float = 0.0, products: str = FLOAT32, samples: int = 1
) -> Tensor:
    """Allocate the memory that steps need, float32 [...], for batches of up to this size and the current thread count.

    Free bits need more: no gradient can be computed before the whole batch's KL is known.
    """
    size = torch.ops.vae_fast.mlp_workspace(parameters, batch, free_bits, products, samples)
    return torch.empty(size, dtype=torch.float32, device="cpu")


def bf16_loops() -> list[str]:
    """Return the names of the bfloat16 product loops that this CPU can run, the fastest first.

    amx: its tiles. avx512_bf16: `vdpbf16ps`. portable: the same sums as avx512_bf16, from floats, on any CPU. Two more
    are for tests: portable_as_amx adds in the order of AMX, emulated_amx is the code for AMX on a model of its tiles.
    """
    loops: list[str] = torch.ops.vae_fast.bf16_loops()
    return loops


def mlp_copies(parameters: Sequence[Tensor]) -> Tensor:
    """Make the bfloat16 weight copies that products read, two per weight, in tiles: int32 [...], two values in each."""
    copies = torch.empty(torch.ops.vae_fast.mlp_copies_size(parameters), dtype=torch.int32, device="cpu")
    mlp_copy_(parameters, copies)
    return copies


def mlp_copy_(parameters: Sequence[Tensor], copies: Tensor) -> None:
    """Refresh the copies of parameters that something other than a step has changed."""
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
    likelihood: str = "bernoulli",
    log_scale: float | None = None,
    objective: str = "elbo",
    samples: int = 1,
    seconds: Tensor | None = None,
) -> None:
    """Train on some batches, one after the other: update parameters, moments, count, copies and the record in place.

    A step with a loss or gradients that are not finite changes only the record. A step gives the same bits as
    `mlp_gradients` followed by `adam_`, for any number of threads.

    Args:
        parameters: weight [N, M] and bias [N] of every layer in the order of VAE.parameters(): the encoder's hidden
            layers, stats [2 Z, M], the same number of decoder's hidden layers, and logits [D, M]; if the scale is
            learned, also its log [S], where S divides D and each value holds for D / S pixels; float32, contiguous. A
            log below -6 counts as -6, and has no gradient.
        means, squares: Adam's moments, of equal shapes.
        count: the steps taken so far, 0-d float32.
        copies: `mlp_copies` of the current parameters, updated with them; None in float32.
        images: [N, D], uint8 (k is the pixel k/255) or float32.
        order: the indices of the images in an epoch's batches, int64 [steps of an epoch, B]; None if the images are the
            batches of these steps, one after the other.
        schedule: learning rate and beta, the KL term's weight, of an epoch's steps, float32 [steps of an epoch, 2].
        seed: the noise's seed, 0-d int64, as for `reparameterize`; likewise row_offset and stream.
        record: its step, which is also the noise's, determines where in order and schedule the steps begin; each
            records its terms (loss B, sum of nll, sum of kl, B, 0), the loss being the batch's mean, or (0, 0, 0, 0, 1)
            if it is skipped.
        activation: one of `FUSED_ACTIVATIONS`.
        workspace: from `mlp_workspace`; its contents mean nothing between calls.
        steps: the number of steps.
        weight_decay: lr times this fraction of each weight is subtracted.
        max_norm: gradients whose norm over all parameters is larger are scaled down to it.
        free_bits: in nats, for each latent dimension (Kingma et al. 2016, appendix C.8).
        binarize: train on Bernoulli samples of the pixels, drawn again at every step.
        weight: a factor for the gradients, which are those of the mean over the batch.
        products: float32, or one of `bf16_loops`: then the operands of the products are rounded to bfloat16,
            activations and gradients once each. All else is float32.
        likelihood: one of `reference.LIKELIHOODS`.
        log_scale: the log of a fixed scale, for the likelihoods of `reference.SCALED` if it is not learned.
        objective, samples: what is minimised, "elbo", "iwae" or "dreg", with this many samples of z for each image: see
            vae_fast/objectives/multisample.py. The terms nll and kl are those of its `backward`, summed.
        seconds: float64 [threads, 5]; each thread adds the time it spends on forward products, backward products,
            weight gradients with Adam, storing operands, and everything together.

    Products and sums over a layer's inputs or the batch accumulate in float32, in the order of the inputs or images
    (csrc/simd/tiles.h documents the order in bfloat16); the losses accumulate in float32 over 48 pixels of an image,
    then in float64.

    Raises TypeError, ValueError or IndexError for arguments that do not fit, before anything changes.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; for Adam see `adam_`.
    """
    torch.autograd.graph.increment_version(parameters)  # so that autograd notices if one was saved for a backward pass
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
        likelihood,
        log_scale,
        objective,
        samples,
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
    likelihood: str = "bernoulli",
    log_scale: float | None = None,
    objective: str = "elbo",
    samples: int = 1,
) -> None:
    """Compute the gradients of the loss of one batch and write them to `gradients`, which have the parameters' shapes.

    Args:
        rows: the indices of the batch's images, int64 [B], or None for all in their order.
        step: the noise's step, 0-d int64.
        beta: the weight of the KL term, 0-d float32.
        terms: float64 [5], filled with what a step adds to its record.

    The other arguments are those of `mlp_steps_`. If several processes share a batch, each passes its fraction of the
    images as `weight`, and the sum of their gradients is the batch's. A loss that is not finite makes all of them NaN.
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
        likelihood,
        log_scale,
        objective,
        samples,
        workspace,
        terms,
    )


def set_flush_denormal(on: bool) -> bool:
    """Make every thread of PyTorch's pool treat denormal numbers as zero, or not; return whether the CPU can.

    `torch.set_flush_denormal` affects the calling thread only, not other threads that already exist.
    """
    done: bool = torch.ops.vae_fast.set_flush_denormal(on)
    return done
