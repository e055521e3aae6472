"""Convolutional VAEs in JAX: PyTorch's own modules, layer by layer, as XLA's operations on images with channels last.

The layers, their weights and their arithmetic are those of the plain PyTorch network. Each step is a call of its own:
in `lax.scan` on a CPU XLA computes convolutions without its threads and libraries, which takes many times as long.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from torch import Tensor, nn

from benchmarks.contenders.network import Trainer
from benchmarks.contenders.peers.jax_network import batch_of, jax_device, trainer_of
from benchmarks.contenders.peers.jax_scan import adam
from vae_fast.models import conv, resnet

AXES = ("NHWC", "HWIO", "NHWC")


def build(encoder: nn.Module, decoder: nn.Module, pixels: Tensor, shape: Sequence[int], batch: int) -> Trainer:
    """Return a trainer of pixels, uint8 [N, D]; encoder and decoder are in PyTorch's own modules."""
    device = jax_device(pixels.device)
    images = jax.device_put(pixels.view(-1, *shape).permute(0, 2, 3, 1).contiguous().numpy(), device)
    parameters = {
        f"{half}.{name}": jax.device_put(tensor.detach().numpy().copy(), device)
        for half, module in (("encoder", encoder), ("decoder", decoder))
        for name, tensor in module.named_parameters()
    }

    def loss_of(parameters: Any, x: Any, key: Any) -> Any:
        mu, logvar = jnp.split(apply(encoder, "encoder", parameters, x), 2, axis=1)
        z = mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape)
        logits = apply(decoder, "decoder", parameters, z)
        nll = jnp.sum(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))))
        return (nll - 0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))) / len(x)

    def step(state: Any, images: Any, rows: Any) -> Any:
        parameters, moments, key = state
        key, noise = jax.random.split(key)
        loss, gradients = jax.value_and_grad(loss_of)(parameters, batch_of(images, rows), noise)
        return (*adam(parameters, moments, gradients), key), loss

    means, squares = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    state = jax.device_put((parameters, (means, squares, jnp.float32(0)), jax.random.key(0)), device)
    one = trainer_of(step, state, images, (batch,))

    def train(order: Tensor) -> float:
        return sum(one(rows) for rows in order) / len(order)

    return train


def apply(module: nn.Module, name: str, parameters: Any, x: Any) -> Any:
    """Apply a module of PyTorch's: images are [B, H, W, C], its weights those of `parameters` under its name."""

    def inner(child: str, x: Any) -> Any:
        return apply(module.get_submodule(child), f"{name}.{child}", parameters, x)

    def own(weight: str) -> Any:
        return parameters[f"{name}.{weight}"]

    match module:
        case conv.Encoder():
            maps = inner("body", inner("first", x))
            return inner("stats", maps.transpose(0, 3, 1, 2).reshape(len(x), -1))
        case conv.Decoder():
            smallest = module._smallest
            maps = inner("first", x).reshape(len(x), smallest.height, smallest.width, smallest.channels)
            return inner("body", maps)
        case resnet.Block():
            return inner("short", x) + inner("long", x)
        case nn.Sequential():
            for child, _ in module.named_children():
                x = inner(child, x)
            return x
        case nn.Linear():
            return x @ own("weight").T + own("bias")
        case nn.Conv2d():
            border = [(size, size) for size in module.padding]
            weight = own("weight").transpose(2, 3, 1, 0)
            return lax.conv_general_dilated(x, weight, module.stride, border, dimension_numbers=AXES) + own("bias")
        case nn.GroupNorm():
            b, h, w, c = x.shape
            grouped = x.reshape(b, h, w, module.num_groups, -1)
            centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
            scaled = centred * lax.rsqrt((centred**2).mean((1, 2, 4), keepdims=True) + module.eps)
            return scaled.reshape(b, h, w, c) * own("weight") + own("bias")
        case nn.SiLU():
            return jax.nn.silu(x)
        case nn.Upsample():
            return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        case nn.AvgPool2d():
            return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        case conv.Crop():
            return x[:, : module._height, : module._width]
    raise TypeError(f"expected a layer of conv or resnet, got {type(module).__name__}")
