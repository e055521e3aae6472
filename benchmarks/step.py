"""A training step on a CPU against its rivals and its floor. `python -m benchmarks.step --batch 128 1024`

All train the same network, 784-400-20-400-784, on resident uint8 images of MNIST in float32, and take turns in one
process, in blocks of about a second, so that a drift of the machine hits all and no thread pool is still spinning for
another. All have the same threads; a side whose loss did not fall as the others' makes the measurement void. The floor
is the eleven matrix products of a step, alone, on tensors that are there: as torch.mm computes them and as
`vae_fast.kernels.linear` does, where that is another library.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vae_fast as vf
from vae_fast.compiling import compiled
from vae_fast.engine import Engine
from vae_fast.errors import DataError
from vae_fast.feed import Feed
from vae_fast.kernels import products
from vae_fast.plan import environment, make_plan

D, H, Z = 784, 400, 20
LOSS_TOLERANCE = 0.03  # relative, over a block: the contenders draw other batches and noise
Block = Callable[[int], float | None]  # trains so many steps: their mean loss; a floor has none


class PlainVAE(nn.Module):
    """The network as one writes it with good habits: logits, and one product for both halves of the posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, D))

    def loss(self, x: Tensor) -> Tensor:
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        logits = self.decoder(mu + torch.randn_like(mu) * torch.exp(0.5 * logvar))
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (nll - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


def compiled_block(pixels: Tensor, batch: int) -> Block:
    """torch.compile of the plain model, and PyTorch's fused Adam."""
    torch.manual_seed(0)
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def loss_of(rows: Tensor) -> Tensor:
        return model.loss(pixels.index_select(0, rows).float() / 255)

    loss_of = compiled(loss_of)

    def block(count: int) -> float:
        total = torch.zeros(())
        for rows in torch.randint(len(pixels), (count, batch)).unbind():
            optimizer.zero_grad()
            loss = loss_of(rows)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / count

    return block


def engine_block(pixels: Tensor, batch: int, **settings: Any) -> Callable[[int], float]:
    """This engine, as it comes but for `settings`."""
    config = vf.Config(batch_size=batch, device="cpu", **settings)
    torch.manual_seed(0)
    feed = Feed(len(pixels), batch, config.seed)
    engine = Engine(vf.VAE(), pixels, config, make_plan(config)[0], feed.steps_per_epoch)
    engine.warm_up()

    def block(count: int) -> float:
        for _ in range(count):
            epoch, position = divmod(engine.step_number, feed.steps_per_epoch)
            if position == 0:
                engine.begin_epoch(feed.order(epoch + 1))
            engine.advance(1)
        loss = engine.finish_epoch()["train_loss"]
        assert loss is not None
        return loss

    return block


def jax_block(pixels: Tensor, batch: int) -> Block:
    """JAX: `jit` of `lax.scan` over the steps of a block."""
    import jax
    import jax.numpy as jnp
    from jax.nn import relu, softplus

    images = jnp.asarray(pixels.numpy())
    keys = iter(jax.random.split(jax.random.key(0), 5))

    def layer(n: int, m: int) -> tuple[Any, Any]:
        return jax.random.uniform(next(keys), (n, m), minval=-(n**-0.5), maxval=n**-0.5), jnp.zeros(m)

    def loss_of(p: Any, x: Any, key: Any) -> Any:
        (w1, b1), (w2, b2), (w3, b3), (w4, b4) = p
        mu, logvar = jnp.split(relu(x @ w1 + b1) @ w2 + b2, 2, axis=1)
        z = mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape)
        logits = relu(z @ w3 + b3) @ w4 + b4
        nll = jnp.sum(softplus(logits) - logits * x)
        return (nll - 0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))) / len(x)

    def step(state: Any, rows: Any) -> Any:
        p, means, squares, t, key = state
        key, noise = jax.random.split(key)
        loss, g = jax.value_and_grad(loss_of)(p, images[rows].astype(jnp.float32) / 255, noise)
        t = t + 1
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, g)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, g)
        scale, root = 1e-3 / (1 - 0.9**t), 1 - 0.999**t
        p = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v / root) + 1e-8), p, means, squares)
        return (p, means, squares, t, key), loss

    steps = jax.jit(lambda state, order: jax.lax.scan(step, state, order), donate_argnums=0)
    parameters = tuple(layer(n, m) for n, m in ((D, H), (H, 2 * Z), (Z, H), (H, D)))
    state = [(parameters, *(jax.tree.map(jnp.zeros_like, parameters) for _ in "mv"), jnp.float32(0), next(keys))]

    def block(count: int) -> float:
        order = torch.randint(len(pixels), (count, batch)).numpy()
        state[0], losses = steps(state[0], order)
        return float(losses.mean())

    return block


def products_block(batch: int, product: Callable[[Tensor, Tensor, Tensor], object]) -> Block:
    """The eleven matrix products of a step; `product(a, b, out)` computes a b^T."""
    pairs = []
    for n, m in ((D, H), (H, 2 * Z), (Z, H), (H, D)):
        x, w, dy = torch.randn(batch, n), torch.randn(m, n), torch.randn(batch, m)
        pairs += [(x, w), (dy.t(), x.t())]  # forward, and the weight's gradient
        if n != D:
            pairs.append((dy, w.t()))  # the input's gradient
    outputs = [torch.empty(len(a), len(b)) for a, b in pairs]

    def block(count: int) -> None:
        for _ in range(count):
            for (a, b), out in zip(pairs, outputs, strict=True):
                product(a, b, out)

    return block


def contenders(pixels: Tensor, batch: int) -> Iterator[tuple[str, Block]]:
    yield "vae_fast", engine_block(pixels, batch)
    yield "vae_fast --compile", engine_block(pixels, batch, compile=True)
    yield "torch.compile, fused Adam", compiled_block(pixels, batch)
    try:
        yield "JAX, jit of lax.scan", jax_block(pixels, batch)
    except ModuleNotFoundError:
        print("JAX is not measured: pip install jax")
    yield "products, torch.mm", products_block(batch, lambda a, b, out: torch.mm(a, b.t(), out=out))
    if products.USE_ONEDNN:
        yield "products, oneDNN", products_block(batch, lambda a, b, out: torch.ops.vae_fast.product(a, b, None))


def measure(blocks: dict[str, Block], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a step of each contender in each round, after two that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(rounds + 2):
        losses = []
        for name, block in blocks.items():
            began = time.perf_counter()
            losses.append(block(steps))
            if turn >= 2:
                times[name].append((time.perf_counter() - began) / steps * 1e3)
        known = [loss for loss in losses if loss is not None]
        if not max(known) - min(known) <= LOSS_TOLERANCE * min(known) and turn >= 2:
            raise SystemExit(f"void: in round {turn - 1} the losses differ: {dict(zip(blocks, losses, strict=True))}")
    return times


def report(batch: int, times: dict[str, list[float]], ours: str) -> None:
    print(
        f"\nbatch {batch}: ms a step, and its ratio to that of {ours}, median (quartiles) of {len(times[ours])} rounds"
    )
    for name, values in times.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(values, times[ours], strict=True)], n=4)
        print(f"{name:<28} {statistics.median(values):7.3f}   {middle:5.2f} ({low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--data", default="mnist", help="mnist, or digits where all of MNIST is not at hand")
    parser.add_argument("--data-root", default=os.environ.get("VAE_FAST_DATA"), help="the folder that holds mnist")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=64_000, help="that each contender trains on in a round")
    arguments = parser.parse_args()
    try:
        images = vf.load_images(arguments.data, root=arguments.data_root)
    except DataError as error:
        raise SystemExit(f"error: {error}; or --data digits") from None
    print(", ".join(f"{k} {v}" for k, v in environment(torch.device("cpu")).items()))
    for batch in arguments.batch:
        blocks = dict(contenders(images.pixels.flatten(1), batch))
        report(batch, measure(blocks, arguments.rounds, max(1, arguments.images // batch)), "vae_fast")


if __name__ == "__main__":
    main()
