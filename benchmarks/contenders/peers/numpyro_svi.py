"""NumPyro as its VAE example writes it: SVI, and `lax.fori_loop` over the epoch within one `jit`.

The same: weights, order of the images, the Bernoulli on grey values (its `log_prob` is minus the binary cross entropy
with logits, once its validation no longer rules out values between 0 and 1), Adam, the mean over the batch (model and
guide are scaled by 1/B; the example sums). The example's `Trace_ELBO` samples the KL; `TraceMeanField_ELBO` has it in
closed form, as all others here do. Different: the noise is NumPyro's own, and Adam is that of jax.example_libraries. It
is compiled when it is built. For threads, denormals and precision see `jax_network`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor

from benchmarks.contenders.network import Trainer, Z
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

LR = 1e-3


def build(pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return a trainer on the pixels' device: see `benchmarks.contenders.peers`."""
    device = jax_device(pixels.device)
    images = jax.device_put(pixels.cpu().numpy(), device)
    svi = make_svi(*initial_parameters(device), batch, DTYPES[precision])

    def train(state: Any, images: Any, order: Any) -> Any:
        def step(i: Any, carried: Any) -> Any:
            state, total = carried
            state, loss = svi.update(state, batch_of(images, order[i]))
            return state, total + loss

        state, total = jax.lax.fori_loop(0, steps, step, (state, jnp.float32(0)))
        return state, total / steps

    first = batch_of(images, jnp.zeros(batch, jnp.int32))
    state = jax.device_put(svi.init(jax.random.key(0), first), device)
    return trainer_of(train, state, images, (steps, batch))


def make_svi(encoder: Any, decoder: Any, batch: int, dtype: Any) -> SVI:
    """Return the SVI of the VAE with these layers."""

    def module(layers: Any) -> tuple[Any, Any]:
        """Return what `numpyro.module` needs of a network: functions that give its parameters and that apply it."""
        return lambda key, shape: (None, layers), lambda layers, x: mlp(layers, x, dtype)

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", module(decoder), (batch, Z))
        with numpyro.plate("batch", batch):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([Z]).to_event(1))
            pixels = dist.Bernoulli(logits=decode(z), validate_args=False)
            numpyro.sample("x", pixels.to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", module(encoder), x.shape)
        mu, logvar = jnp.split(encode(x), 2, axis=1)
        with numpyro.plate("batch", batch):
            numpyro.sample("z", dist.Normal(mu, jnp.exp(0.5 * logvar)).to_event(1))

    mean = [numpyro.handlers.scale(program, scale=1 / batch) for program in (model, guide)]
    return SVI(*mean, numpyro.optim.Adam(LR), TraceMeanField_ELBO())
