"""The public operators: what they take, what they refuse, and which implementation answers.

`impl="auto"` chooses, any other name works or raises. The reference implements everything; Triton, on a GPU, everything
but float64; C++, on a CPU where the library is built, the random bits, and in float32 reparameterization and the ELBO
of the Bernoulli likelihood.
"""

import functools
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import library, operators, philox, reference

IMPLEMENTATIONS = ("auto", "triton", "cpp", "reference")
REDUCTIONS = ("mean", "sum", "none")
MAX_SEED = 2**63 - 1
HAS_LIBRARY = library.load()  # a constant, because torch.compile could not trace the loading of a file


class Elbo(NamedTuple):
    """The negative ELBO: `loss` is what training minimises; `nll` and `kl` are [B], in nats per image."""

    loss: Tensor
    nll: Tensor
    kl: Tensor


def random_bits(
    rows: int,
    columns: int,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int = 0,
    stream: int = 0,
    impl: str = "auto",
    device: torch.device | str | None = None,
) -> Tensor:
    """32 random bits for each of `rows` x `columns` places: Philox4x32-10, a pure function of its arguments.

    Args:
        rows, columns: the shape. Column j of row r has counter (j // 4, row_offset + r, step mod 2^32, stream).
        seed, step: ints, or 0-d int64 tensors on one device; 0 <= seed < 2^63.
        row_offset: what to add to the row's index, so that parts of a batch draw what the whole would.
        stream: keeps uses apart: 0 training, 1 evaluation, 2 sampling, 3 binarization, 4 shuffle, 16 and up yours.
        impl: "auto", "reference", "triton" (on a GPU), or "cpp" (on a CPU, where the library is built); all yield the
            same integers.
        device: where the result goes when seed and step are ints; the CPU by default.

    Returns:
        int64 [rows, columns], values in [0, 2^32).

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    given = next((value.device for value in (seed, step) if isinstance(value, Tensor)), device)
    seed_tensor, step_tensor = _counter("seed", seed, given), _counter("step", step, given)
    _check_device(seed_tensor.device, step=step_tensor)
    _check_counts(rows=rows, columns=columns, row_offset=row_offset, stream=stream)
    _check_choice("impl", impl, IMPLEMENTATIONS)
    if _chosen("random_bits", impl, {"seed": seed_tensor}) != "reference":
        bits: Tensor = torch.ops.vae_fast.random_bits(seed_tensor, step_tensor, rows, columns, row_offset, stream)
        return bits
    return philox.random_bits(rows, columns, seed_tensor, step_tensor, row_offset, stream)


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int = 0,
    stream: int = 0,
    impl: str = "auto",
) -> Tensor:
    """Draw z = mu + exp(logvar / 2) * eps with noise that is a pure function of (seed, step, row, column, stream).

    No generator is involved: the same arguments give the same z, on any device, for any split of the batch.

    Args:
        mu, logvar: [..., Z], the same shape and device; float32, float16, bfloat16 or float64. Leading dimensions are
            flattened into rows.
        seed, step: ints, or 0-d int64 tensors on the same device; 0 <= seed < 2^63, step counts training steps from 0.
        row_offset: the index of the first row in the global batch.
        stream: keeps uses apart: 0 training, 1 evaluation, 2 sampling, 3 binarization, 4 shuffle, 16 and up yours.
        impl: "auto", "reference", "triton" (on a GPU, not float64), or "cpp" (float32 on a CPU, where the library is
            built); "auto" takes one of the latter two where it can. They agree within float32's rounding. The latter
            two have no second derivatives: asking for one raises.

    Returns:
        z, [..., Z], of the promoted dtype of mu and logvar; computed in float32, or in float64 if either is float64.
        Differentiable in mu and logvar; each gradient has its input's dtype.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013, section 2.4; noise: `random_bits`.
    """
    _check_floating(mu=mu, logvar=logvar)
    if mu.dim() == 0 or mu.shape != logvar.shape:
        raise ValueError(
            f"mu and logvar: expected the same shape [..., Z], got {list(mu.shape)} and {list(logvar.shape)}"
        )
    _check_device(mu.device, logvar=logvar)
    seed, step = _counter("seed", seed, mu.device), _counter("step", step, mu.device)
    _check_device(mu.device, seed=seed, step=step)
    _check_counts(row_offset=row_offset, stream=stream)
    _check_choice("impl", impl, IMPLEMENTATIONS)
    if _chosen("reparameterize", impl, {"mu": mu, "logvar": logvar}) != "reference":
        dtype = torch.promote_types(mu.dtype, logvar.dtype)
        z: Tensor = torch.ops.vae_fast.reparameterize(mu.to(dtype), logvar.to(dtype), seed, step, row_offset, stream)
        return z
    rows, latent = mu.shape[:-1].numel(), mu.shape[-1]
    bits = random_bits(rows, latent + latent % 2, seed, step, row_offset=row_offset, stream=stream, impl=impl)
    return reference.reparameterize(mu, logvar, bits)


def elbo_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    beta: float | Tensor = 1.0,
    likelihood: str = "bernoulli",
    log_scale: float | Tensor | None = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Elbo:
    """The negative evidence lower bound, loss_b = nll_b + beta kl_b, in nats per image.

    nll_b = -sum_d log p(x_bd | z_b) and kl_b = -1/2 sum_j (1 + logvar - mu^2 - e^logvar), sums taken in float32, or
    in float64 if any floating input is float64.

    Args:
        logits: [B, ...], the decoder's output; for "gaussian" and "discretized_logistic" it is the mean.
        target: the images, of the logits' shape or either of the two flattened to [B, D]; uint8 (k stands for
            k / 255) or float in [0, 1] (the range is not checked: that would synchronise). No gradient.
        mu, logvar: [B, Z]. Large logvar is not clamped: e^logvar overflows float32 at 88.7, and kl is then inf.
        beta: the weight of the KL term: a float, or a 0-d or [B] tensor. No gradient.
        likelihood: "bernoulli", "continuous_bernoulli", "gaussian" or "discretized_logistic".
        log_scale: the log of the scale, for the last two only: a float, or a 0-d or [D] tensor. Differentiable.
        reduction: "mean", "sum" or "none", over the batch; of `loss` only.
        impl: "auto", "reference", "triton" (on a GPU, not float64), or "cpp" (on a CPU, where the library is built:
            "bernoulli" with logits, mu and logvar in float32, target in uint8 or float32); "auto" takes one of the
            latter two where it can. They agree within float32's rounding. The latter two have no second derivatives:
            asking for one raises; and their nll and kl are one node of the graph, so that going back through one and
            then the other takes retain_graph=True.

    Returns:
        Elbo(loss, nll, kl): loss 0-d, or [B] with "none"; nll and kl always [B]; all three float32 (float64 if any
        input is) and differentiable in logits, mu, logvar and log_scale, each gradient of its input's dtype. An empty
        batch gives [0], 0 or NaN for "none", "sum" or "mean".

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; beta: Higgins et al., beta-VAE, 2017.
    """
    _check_floating(logits=logits, mu=mu, logvar=logvar)
    _check_target(logits, target)
    _check_posterior(logits.shape[0], mu, logvar)
    _check_choice("likelihood", likelihood, tuple(reference.LIKELIHOODS))
    _check_choice("reduction", reduction, REDUCTIONS)
    scale = _log_scale(log_scale, likelihood, logits)
    if not isinstance(beta, Tensor | float | int):
        raise TypeError(f"beta: expected a float or a tensor, got {type(beta).__name__}")
    if isinstance(beta, Tensor) and beta.shape not in ((), logits.shape[:1]):
        raise ValueError(f"beta: expected a float or a tensor of shape [] or [B], got {list(beta.shape)}")
    tensors = {"target": target, "mu": mu, "logvar": logvar, "log_scale": scale, "beta": beta}
    _check_device(logits.device, **{name: t for name, t in tensors.items() if isinstance(t, Tensor)})
    _check_choice("impl", impl, IMPLEMENTATIONS)
    computed = {"logits": logits, "mu": mu, "logvar": logvar, "target": target}
    computed |= {} if scale is None else {"log_scale": scale}
    if _chosen("elbo_loss", impl, computed, likelihood) != "reference":
        nll, kl = torch.ops.vae_fast.elbo(logits, target, mu, logvar, scale, likelihood)
    else:
        nll, kl = reference.elbo(logits, target.detach(), mu, logvar, likelihood, scale)
    weight = beta.detach().to(kl.dtype) if isinstance(beta, Tensor) else beta
    return Elbo(_reduce(nll + weight * kl, reduction), nll, kl)


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) of every latent dimension, in nats: [B, Z] for mu and logvar [B, Z].

    float32, or float64 if either input is; differentiable. Its sum over Z is `elbo_loss`'s kl; free bits (Kingma et
    al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, appendix C.8) are made from it.

    Raises TypeError or ValueError for other shapes, dtypes and devices.
    """
    _check_floating(mu=mu, logvar=logvar)
    _check_posterior(mu.shape[0] if mu.dim() else 0, mu, logvar)
    _check_device(mu.device, logvar=logvar)
    return reference.kl_per_dimension(mu, logvar)


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _counter(name: str, value: int | Tensor, device: torch.device | str | None) -> Tensor:
    """A seed or step as the 0-d int64 tensor that the noise reads; only an int's range can be checked."""
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.dim() != 0:
            raise ValueError(f"{name}: expected a 0-d int64 tensor, got {value.dtype} {list(value.shape)}")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int or a 0-d int64 tensor, got {type(value).__name__}")
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"{name}: expected 0 <= {name} < 2^63, got {value}")
    return torch.full((), value, dtype=torch.int64, device=device)


def _log_scale(value: float | Tensor | None, likelihood: str, logits: Tensor) -> Tensor | None:
    if (value is not None) != (likelihood in reference.SCALED):
        wanted = "a float or tensor" if value is None else "None"
        raise ValueError(f"log_scale: expected {wanted} with likelihood={likelihood!r}, got {value!r}")
    if value is None:
        return None
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=torch.float32, device=logits.device)
    _check_floating(log_scale=value)
    pixels = logits.shape[1:].numel()
    if value.shape not in ((), (pixels,)):
        raise ValueError(f"log_scale: expected shape [] or [{pixels}], got {list(value.shape)}")
    return value


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int | torch.SymInt):
            raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
        if value < 0 or (name == "stream" and value >= 2**32):
            raise ValueError(f"{name}: expected an int in [0, {'2^32' if name == 'stream' else '2^63'}), got {value}")


def _check_floating(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")


def _check_target(logits: Tensor, target: Tensor) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected a tensor, got {type(target).__name__}")
    if target.dtype != torch.uint8 and not target.is_floating_point():
        raise TypeError(f"target: expected uint8 or a floating dtype, got {target.dtype}")
    if logits.dim() < 2:
        raise ValueError(f"logits: expected [B, ...], got {list(logits.shape)}")
    flat = (logits.shape[0], logits.shape[1:].numel())
    same = target.shape == logits.shape
    one_is_flat = target.shape == flat or (logits.dim() == 2 and _flat_shape(target) == flat)
    if not same and not one_is_flat:
        raise ValueError(
            f"target: expected the logits' shape {list(logits.shape)} or one of the two flattened to {list(flat)}, "
            f"got {list(target.shape)}"
        )


def _flat_shape(tensor: Tensor) -> tuple[int, int]:
    return (tensor.shape[0], tensor.shape[1:].numel()) if tensor.dim() > 1 else (-1, -1)


def _check_posterior(batch: int, mu: Tensor, logvar: Tensor) -> None:
    if mu.dim() != 2 or mu.shape[0] != batch or mu.shape != logvar.shape:
        raise ValueError(f"mu and logvar: expected [{batch}, Z] each, got {list(mu.shape)} and {list(logvar.shape)}")


def _check_device(device: torch.device, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"{name}: expected a tensor on {device}, got one on {tensor.device}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _chosen(operator: str, impl: str, tensors: dict[str, Tensor], likelihood: str = "bernoulli") -> str:
    """The implementation that answers: the one asked for, or with "auto" the device's, if it can."""
    why_not: dict[str, Callable[[], str | None]] = {
        "triton": lambda: _why_not_triton(tensors),
        "cpp": lambda: _why_not_cpp(tensors, likelihood),
        "reference": lambda: None,
    }
    if impl == "auto":
        first = "triton" if next(iter(tensors.values())).device.type == "cuda" else "cpp"
        return first if why_not[first]() is None else "reference"
    reason = why_not[impl]()
    if reason is not None:
        raise RuntimeError(f"impl={impl!r} of {operator} is not available: {reason}")
    return impl


@functools.cache
def _has_c_compiler() -> bool:
    return any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))))


def _why_not_triton(tensors: dict[str, Tensor]) -> str | None:
    """What keeps Triton from these arguments, or None."""
    name, first = next(iter(tensors.items()))
    if not operators.HAS_TRITON:
        return "Triton is not installed"
    if operators.INTERPRETED and first.device.type != "cpu":
        return f"under TRITON_INTERPRET it runs on a CPU, and {name} is on {first.device}"
    if not operators.INTERPRETED and first.device.type != "cuda":
        return f"it runs on a GPU, and {name} is on {first.device}"
    if not operators.INTERPRETED and not _has_c_compiler():
        return "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    return next((f"it does not take {n} in {t.dtype}" for n, t in tensors.items() if t.dtype == torch.float64), None)


def _why_not_cpp(tensors: dict[str, Tensor], likelihood: str) -> str | None:
    """What keeps C++ from these arguments, or None."""
    if not HAS_LIBRARY:
        return library.status()
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            return f"it runs on a CPU, and {name} is on {tensor.device}"
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, *_ALSO_TAKEN.get(name, ())):
            return f"it does not take {name} in {tensor.dtype}"
    return None


_ALSO_TAKEN = {"target": (torch.uint8,), "seed": (torch.int64,)}  # by C++, besides float32
