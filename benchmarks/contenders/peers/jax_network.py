"""The network in JAX, for the peers that are built on it.

XLA uses its own threads: as many as PyTorch has, unless the environment says otherwise (PJRT_NPROC). On a CPU it
flushes denormals, whatever PyTorch does. Float32 products are explicitly exact, as PyTorch's are: on a GPU JAX would
use TF32. With bf16, products take bfloat16, forward and backward, and return float32 (`preferred_element_type`), like
everything else.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from benchmarks.contenders.network import Network, Trainer

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


def unavailable(device: str, precision: str) -> str | None:
    """Return why JAX cannot train on this device or in this precision; None where it can."""
    if precision not in DTYPES:
        return f"{precision} is not measured: JAX scales no losses, the scaler would be ours"
    try:
        jax_device(torch.device(device))
    except RuntimeError as error:
        return f"this JAX has no {device}: {str(error).splitlines()[0]}"
    return None


def jax_device(device: torch.device) -> Any:
    """Return JAX's device for a device of PyTorch; raise RuntimeError where it has none."""
    os.environ.setdefault("PJRT_NPROC", str(torch.get_num_threads()))  # both are read when JAX first looks for devices
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX takes 3/4 of a GPU that others share
    return jax.devices(device.type)[device.index or 0]


def initial_parameters(device: Any) -> tuple[list[Any], list[Any]]:
    """Return the encoder's and the decoder's layers: pairs of weight [n, m] and bias [m], float32."""
    network = Network()

    def layers(module: torch.nn.Sequential) -> list[Any]:
        linears = (layer for layer in module if isinstance(layer, torch.nn.Linear))
        return [jax.device_put((w.weight.detach().t().numpy(), w.bias.detach().numpy()), device) for w in linears]

    return layers(network.encoder), layers(network.decoder)


def mlp(layers: Any, x: Any, dtype: Any) -> Any:
    """Apply linear, ReLU, linear: [B, n] -> [B, m], float32; products in `dtype`."""
    (w1, b1), (w2, b2) = layers
    return linear(jax.nn.relu(linear(x, w1, b1, dtype)), w2, b2, dtype)


def linear(x: Any, w: Any, b: Any, dtype: Any) -> Any:
    return product(x, w, dtype) + b


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Any, w: Any, dtype: Any) -> Any:
    """Return x w, float32, from operands in `dtype`; JAX itself would leave one operand of the gradients float32."""
    return _product(x, w, dtype)


def _product(x: Any, w: Any, dtype: Any) -> Any:
    exact = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None  # otherwise a GPU would use TF32 for float32
    return jnp.dot(x.astype(dtype), w.astype(dtype), precision=exact, preferred_element_type=jnp.float32)


def _product_forward(x: Any, w: Any, dtype: Any) -> Any:
    return _product(x, w, dtype), (x.astype(dtype), w.astype(dtype))


def _product_backward(dtype: Any, operands: Any, gradient: Any) -> Any:
    x, w = operands
    return _product(gradient, w.T, dtype), _product(x.T, gradient, dtype)


product.defvjp(_product_forward, _product_backward)


def batch_of(images: Any, rows: Any) -> Any:
    """Return the rows [B] of uint8 images [N, D] as [B, D], float32 in [0, 1]."""
    return images[rows].astype(jnp.float32) / 255


def trainer_of(train: Callable[..., Any], state: Any, images: Any, shape: tuple[int, ...]) -> Trainer:
    """Compile `train`, which maps (state, images, order) to the next state and the mean loss, for orders [S, B]."""
    (device,) = images.devices()
    order = jax.device_put(jnp.zeros(shape, jnp.int32), device)
    compiled = jax.jit(train, donate_argnums=0).lower(state, images, order).compile()

    def trainer(order: Tensor) -> float:
        nonlocal state
        state, loss = compiled(state, images, jax.device_put(order.int().numpy(), device))
        jax.block_until_ready(state)
        return float(loss)

    return trainer
