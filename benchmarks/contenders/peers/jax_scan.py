"""JAX as its users write a fast loop: `jit` of `lax.scan` over all steps of a call, on resident uint8 images.

The same: weights, order of the images, objective (one draw of z, the KL in closed form), Adam. Different: the noise is
JAX's own (threefry). It is compiled when it is built. For threads, denormals and precision see `jax_network`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from torch import Tensor

from benchmarks.contenders.network import Trainer
from benchmarks.contenders.peers.jax_network import (
    DTYPES,
    batch_of,
    initial_parameters,
    jax_device,
    mlp,
    trainer_of,
    unavailable,
)

__all__ = ["build", "unavailable"]

LR, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


def build(pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return a trainer on the pixels' device: see `benchmarks.contenders.peers`."""
    device, dtype = jax_device(pixels.device), DTYPES[precision]
    images = jax.device_put(pixels.cpu().numpy(), device)

    def loss_of(parameters: Any, x: Any, key: Any) -> Any:
        encoder, decoder = parameters
        mu, logvar = jnp.split(mlp(encoder, x, dtype), 2, axis=1)
        z = mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape)
        logits = mlp(decoder, z, dtype)
        nll = jnp.sum(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))))
        return (nll - 0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))) / len(x)

    def train(state: Any, images: Any, order: Any) -> Any:
        def step(state: Any, rows: Any) -> Any:
            parameters, moments, key = state
            key, noise = jax.random.split(key)
            loss, gradients = jax.value_and_grad(loss_of)(parameters, batch_of(images, rows), noise)
            return (*adam(parameters, moments, gradients), key), loss

        state, losses = jax.lax.scan(step, state, order)
        return state, losses.mean()

    parameters = initial_parameters(device)
    means, squares = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    state = jax.device_put((parameters, (means, squares, jnp.float32(0)), jax.random.key(0)), device)
    return trainer_of(train, state, images, (steps, batch))


def adam(parameters: Any, moments: Any, gradients: Any) -> tuple[Any, Any]:
    """Return one update, as torch.optim.Adam does it: Kingma and Ba (2015), algorithm 1.

    `moments` holds both moments and the step.
    """
    means, squares, t = moments
    t = t + 1
    means = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, means, gradients)
    squares = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, squares, gradients)
    rate, correction = LR / (1 - BETA1**t), 1 - BETA2**t

    def update(p: Any, m: Any, v: Any) -> Any:
        return p - rate * m / (jnp.sqrt(v / correction) + EPSILON)

    return jax.tree.map(update, parameters, means, squares), (means, squares, t)
