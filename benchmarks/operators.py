"""Times the C++ operators against PyTorch's own ways to the same results: `python -m benchmarks.operators`

Each operator alternates with its rivals in one process, in an order drawn anew for every round; before every call the
data of the rest of a training step passes through the caches. The ratio is the rival's time over ours.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import get_total_norm

import vae_fast as vf
from vae_fast.adam import Adam
from vae_fast.kernels import library, nll, sample_posterior
from vae_fast.plan import environment

ROUNDS = 300
Contenders = dict[str, Callable[[], object]]


def main() -> None:
    if not library.load():
        raise SystemExit(library.status())
    settings = environment(torch.device("cpu"))
    print(f"{', '.join(f'{name} {value}' for name, value in settings.items())}; {ROUNDS} rounds")
    print(f"{'operator':48} {'us (quartiles)':>20} {'ratio (quartiles)':>28}")
    for operator, contenders in cases():
        report(operator, contenders)


def cases() -> Iterator[tuple[str, Contenders]]:
    """Each operator's name, and its contenders: ours first."""
    torch.manual_seed(0)
    yield "adam 784-400-20", adam()
    for m, n in ((784, 400), (400, 784)):
        gradient, x = torch.randn(128, m), torch.randn(128, n)
        yield f"product {m} x 128 x {n}, gradient", product(gradient, x)
    for images in (128, 4096):
        yield f"reparameterize {images} x 20, forward and backward", reparameterize(images)
        yield f"elbo {images} x 784, forward and backward", elbo(images)
        yield f"sample_posterior and nll {images} x 784, as a step calls them", sample_and_nll(images)
    yield from calls()


def reparameterize(images: int) -> Contenders:
    stats = torch.randn(images, 40, requires_grad=True)  # the encoder's output: mu, then logvar
    gradient = torch.randn(images, 20)
    seed, step = torch.tensor(0), torch.tensor(0)

    def eager(stats: Tensor) -> Tensor:
        mu, logvar = stats.chunk(2, dim=-1)
        return mu + (0.5 * logvar).exp() * torch.randn_like(mu)

    def fused(stats: Tensor, impl: str) -> Tensor:
        mu, logvar = stats.chunk(2, dim=-1)
        return vf.reparameterize(mu, logvar, seed, step, impl=impl)

    return both_ways(eager, fused, (stats,), (gradient,))


def elbo(images: int) -> Contenders:
    logits, stats = (torch.randn(images, n, requires_grad=True) for n in (784, 40))
    x = torch.rand(images, 784)

    def eager(logits: Tensor, stats: Tensor) -> Tensor:
        mu, logvar = stats.chunk(2, dim=-1)
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (nll - 0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()) / len(x)

    def fused(logits: Tensor, stats: Tensor, impl: str) -> Tensor:
        return vf.elbo_loss(logits, x, *stats.chunk(2, dim=-1), impl=impl).loss

    torch.testing.assert_close(fused(logits, stats, "cpp"), eager(logits, stats))  # no time without the same result
    return both_ways(eager, fused, (logits, stats), (torch.ones(()),))


def sample_and_nll(images: int) -> Contenders:
    """All of the objective but the networks: z for the decoder, and the loss of the decoder's logits."""
    logits, stats = (torch.randn(images, n, requires_grad=True) for n in (784, 40))
    x, gradient = torch.rand(images, 784), torch.randn(images, 20)
    seed, step = torch.tensor(0), torch.tensor(0)

    def eager(logits: Tensor, stats: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = stats.chunk(2, dim=-1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (nll - 0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()) / len(x), z

    def fused(logits: Tensor, stats: Tensor, impl: str) -> tuple[Tensor, Tensor]:
        z, kl = sample_posterior(stats, seed, step, impl=impl)
        return (nll(logits, x, impl=impl) + kl).mean(), z

    torch.testing.assert_close(fused(logits, stats, "cpp")[0], eager(logits, stats)[0])
    return both_ways(eager, fused, (logits, stats), (torch.ones(()), gradient))


def both_ways(
    eager: Callable[..., Any], fused: Callable[..., Any], inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> Contenders:
    """Forward and backward: C++, what people write in eager mode and compiled, and the reference compiled."""
    compiled = torch.compile(eager, dynamic=False)
    reference = torch.compile(lambda *tensors: fused(*tensors, impl="reference"), dynamic=False)
    ways: dict[str, Callable[..., Any]] = {
        "vae_fast": lambda *tensors: fused(*tensors, impl="cpp"),
        "eager": eager,
        "eager, compiled": compiled,
        "reference, compiled": reference,
    }

    def call(way: Callable[..., Any]) -> object:
        return torch.autograd.grad(way(*inputs), inputs, gradients)

    calls: Contenders = {name: partial(call, way) for name, way in ways.items()}
    for contender in calls.values():
        for _ in range(3):
            contender()
    return calls


def calls() -> Iterator[tuple[str, Contenders]]:
    """What a call costs by itself: eager mode, tensors so small that their arithmetic does not count."""
    stats, logits = torch.randn(2, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True)
    mu, logvar = (torch.randn(2, 4, requires_grad=True) for _ in range(2))
    x, z, b, counter = torch.rand(2, 8), torch.ones(2, 4), torch.ones(2), torch.tensor(0)
    ops = torch.ops.vae_fast
    noise = (counter, counter)
    yield from (
        call_cost(
            "reparameterize", vf.reparameterize, ops.reparameterize, (mu, logvar, *noise), (0, 0), (mu, logvar), (z,)
        ),
        call_cost(
            "sample_posterior", sample_posterior, ops.sample_posterior, (stats, *noise), (0, 0), (stats,), (z, b)
        ),
        call_cost("nll", nll, ops.nll, (logits, x), (None, "bernoulli"), (logits,), (b,)),
        call_cost(
            "elbo_loss",
            lambda *tensors: vf.elbo_loss(*tensors).loss,
            ops.elbo,
            (logits, x, mu, logvar),
            (None, "bernoulli"),
            (logits, mu, logvar),
            (torch.ones(()),),
        ),
    )


def call_cost(
    name: str,
    function: Callable[..., Any],
    operator: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    others: tuple[object, ...],
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
) -> tuple[str, Contenders]:
    plain = [t.detach() for t in tensors]
    contenders: Contenders = {
        "vae_fast": lambda: function(*tensors),
        "the operator alone, no gradient wanted": lambda: operator(*plain, *others),
        "forward and backward": lambda: torch.autograd.grad(function(*tensors), inputs, gradients),
    }
    return f"{name}, the cost of a call", contenders


def product(gradient: Tensor, x: Tensor) -> Contenders:
    """The gradient of a layer's weight."""
    onednn = torch.ops.mkldnn._linear_pointwise
    return {
        "vae_fast": lambda: torch.ops.vae_fast.product(gradient.t(), x.t(), None),
        "torch.mm": lambda: torch.mm(gradient.t(), x),
        "oneDNN, copied by torch": lambda: onednn(gradient.t(), x.t(), None, "none", [], ""),
    }


def adam() -> Contenders:
    """Both with the norm of the gradients, which clipping and the finite test need."""
    ours, theirs = vf.VAE(), vf.VAE()
    optimizer = Adam(ours.named_parameters(), 1e-3)
    rival = torch.optim.Adam(theirs.parameters(), 1e-3, fused=True)
    gradients: list[Tensor] = []
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.grad = q.grad = 1e-3 * torch.randn_like(p)
        gradients.append(p.grad)

    def step() -> None:
        get_total_norm(gradients)
        rival.step()

    return {"vae_fast": optimizer.step, "get_total_norm, torch.optim.Adam(fused=True)": step}


def report(operator: str, contenders: Contenders) -> None:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    other = torch.ones(1_000_000)  # 4 MB: about what a step moves between two calls of the same operator
    order = list(contenders.items())
    shuffle = Random(0).shuffle
    for _ in range(ROUNDS):
        shuffle(order)  # whoever comes after code like its own finds it in the caches
        for name, call in order:
            other.add_(1)
            began = perf_counter()
            call()
            times[name].append(1e6 * (perf_counter() - began))
    print(operator)
    ours = times["vae_fast"]
    for name, theirs in times.items():
        ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
        print(f"  {name:46} {spread(theirs, '.0f'):>20} {spread(ratios, '.2f'):>24}")


def spread(values: list[float], form: str) -> str:
    """The median, and the quartiles."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return f"{median(ordered):{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
