"""Checks of the public operators' arguments. Each error names the argument, what was expected and what was passed.

They run on every call of a training step, so the cheapest come first and no container is built for the arguments:
reading a tensor's dtype or shape takes 0.05 to 0.1 us, and on a CPU these checks took as long as the operators
themselves.
"""

import numpy as np
import torch
from torch import Tensor

from . import reference

REDUCTIONS = ("mean", "sum", "none")
MAX_SEED = 2**63 - 1
_INTEGERS = (int, torch.SymInt)
_NUMBERS = (float, int)


def _kind(value: object) -> str:
    """Return the name of a value's type, with its module for others than Python's and PyTorch's: "numpy.float32"."""
    kind = type(value)
    return kind.__name__ if kind.__module__ in ("builtins", "torch") else f"{kind.__module__}.{kind.__name__}"


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {_kind(tensor)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")


def on_device(name: str, tensor: Tensor, device: torch.device | str | None) -> None:
    if tensor.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {tensor.device}")


def count(name: str, value: int, bits: int = 63) -> None:
    """Raise unless the value is an int in [0, 2^bits)."""
    if not isinstance(value, _INTEGERS) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, got {_kind(value)}")
    if value < 0 or value >= 1 << bits:
        raise ValueError(f"{name}: expected an int in [0, 2^{bits}), got {value}")


def counter(name: str, value: int | Tensor, device: torch.device | str | None) -> Tensor:
    """Return a seed or step as the 0-d int64 tensor that the noise reads; the range is checked for an int only."""
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.dim() != 0:
            raise ValueError(f"{name}: expected a 0-d int64 tensor, got {value.dtype} {list(value.shape)}")
        on_device(name, value, device)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an int or a 0-d int64 tensor, got {_kind(value)}")
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"{name}: expected 0 <= {name} < 2^63, got {value}")
    if torch.compiler.is_compiling():
        tensor: Tensor = torch.ops.vae_fast.scalar(value, torch.device(device or "cpu"))
        return tensor
    return torch.full((), int(value), dtype=torch.int64, device=device)


def images(logits: Tensor, target: Tensor) -> None:
    """Raise unless logits [B, ...] and target have the same shape, or one of them is flattened, on one device."""
    floating("logits", logits)
    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected a tensor, got {_kind(target)}")
    if target.dtype != torch.uint8 and not target.is_floating_point():
        raise TypeError(f"target: expected uint8 or a floating dtype, got {target.dtype}")
    if logits.dim() < 2:
        raise ValueError(f"logits: expected [B, ...], got {list(logits.shape)}")
    if target.shape != logits.shape:
        flat = _flat_shape(logits)
        if target.shape != flat and (logits.dim() != 2 or _flat_shape(target) != flat):
            raise ValueError(
                f"target: expected the logits' shape {list(logits.shape)} or one of the two flattened to {list(flat)}, "
                f"got {list(target.shape)}"
            )
    on_device("target", target, logits.device)


def _flat_shape(tensor: Tensor) -> tuple[int, int]:
    return (tensor.shape[0], tensor.shape[1:].numel()) if tensor.dim() > 1 else (-1, -1)


def stats(tensor: Tensor) -> None:
    """Raise unless the tensor can be an encoder's output, [B, 2 Z] or [B, 2 C, ...]."""
    floating("stats", tensor)
    if tensor.dim() < 2 or tensor.shape[1] % 2:
        raise ValueError(f"stats: expected [B, 2 Z] or [B, 2 C, ...], got {list(tensor.shape)}")


def posterior(logits: Tensor | None, mu: Tensor, logvar: Tensor) -> None:
    """Raise unless mu and logvar are [B, Z] or [B, ...], on one device, with the logits' batch size and device."""
    floating("mu", mu)
    floating("logvar", logvar)
    if mu.dim() < 2 or mu.shape != logvar.shape or (logits is not None and mu.shape[0] != logits.shape[0]):
        batch = "B" if logits is None else logits.shape[0]
        raise ValueError(
            f"mu and logvar: expected the same shape [{batch}, Z] or [{batch}, ...], got {list(mu.shape)} and "
            f"{list(logvar.shape)}"
        )
    device = mu.device if logits is None else logits.device
    if logits is not None:
        on_device("mu", mu, device)
    on_device("logvar", logvar, device)


def log_scale(value: float | Tensor | None, likelihood: str, logits: Tensor, target: Tensor) -> Tensor | None:
    """Return the log of the scale as a tensor [] or [D], or None for a likelihood that has no scale."""
    if (value is not None) != (likelihood in reference.SCALED):
        wanted = "a float or tensor" if value is None else "None"
        came = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"log_scale: expected {wanted} with likelihood={likelihood!r}, got {came}")
    if value is None:
        return None
    if isinstance(value, _NUMBERS):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        return torch.full((), value, dtype=dtype, device=logits.device)
    if not isinstance(value, Tensor):
        raise TypeError(f"log_scale: expected a float or a tensor, got {_kind(value)}")
    floating("log_scale", value)
    on_device("log_scale", value, logits.device)
    pixels = logits.shape[1:].numel()
    if value.dim() == 0 or value.shape == (pixels,):
        return value
    image = logits.shape[1:] if logits.dim() > 2 else target.shape[1:]
    if not _broadcasts(value.shape, image):
        raise ValueError(
            f"log_scale: expected shape [], [{pixels}] or one that broadcasts to an image's {list(image)}, got "
            f"{list(value.shape)}"
        )
    return reference.scale_by_pixel(value, image)


def _broadcasts(shape: torch.Size, image: torch.Size) -> bool:
    """Return whether a scale's shape broadcasts to an image's.

    One dimension is refused unless it has a single value: it would mean a row of the image, but [D] is read as pixels.
    """
    padded = (1,) * (1 + len(image) - len(shape)) + tuple(shape)
    fits = len(padded) == 1 + len(image) and all(n in (1, m) for n, m in zip(padded, (1, *image), strict=True))
    return fits and (len(shape) > 1 or shape.numel() == 1)


def beta(value: float | Tensor, logits: Tensor) -> None:
    """Raise unless the value is a number or a tensor [] or [B]."""
    if isinstance(value, Tensor):
        if value.is_complex():
            raise TypeError(f"beta: expected a float or a real tensor, got {value.dtype}")
        if value.dim() != 0 and value.shape != logits.shape[:1]:
            raise ValueError(
                f"beta: expected a float or a tensor of shape [] or [{logits.shape[0]}], got {list(value.shape)}"
            )
        on_device("beta", value, logits.device)
    elif not isinstance(value, _NUMBERS):
        raise TypeError(f"beta: expected a float or a tensor, got {_kind(value)}")


def weight(name: str, value: Tensor, like: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Raise unless a gradient's factor is float32, of one of the shapes, on the device of `like`."""
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        raise TypeError(f"{name}: expected a float32 tensor, got {getattr(value, 'dtype', _kind(value))}")
    if value.shape not in shapes:
        raise ValueError(f"{name}: expected shape {' or '.join(str(list(s)) for s in shapes)}, got {list(value.shape)}")
    on_device(name, value, like.device)


def mixture(z: Tensor, stats: Tensor, log_weights: Tensor) -> None:
    """Check z [B, Z], and the stats [N, 2 Z] and the log weights [N] of a mixture."""
    for name, tensor in (("z", z), ("stats", stats), ("log_weights", log_weights)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")
        if tensor.device != z.device:
            raise ValueError(f"{name}: expected it on {z.device} like z, got {tensor.device}")
    if z.dim() != 2 or stats.dim() != 2 or stats.shape[1] != 2 * z.shape[1] or log_weights.shape != stats.shape[:1]:
        raise ValueError(
            f"z, stats, log_weights: expected [B, Z], [N, 2 Z] and [N], got {list(z.shape)}, {list(stats.shape)} and "
            f"{list(log_weights.shape)}"
        )
