"""Networks, images and workspaces for the tests of a whole MLP's step."""

from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

import vae_fast as vf
from vae_fast.kernels import Record, extension, fused_mlp
from vae_fast.kernels.reference import IMAGES
from vae_fast.models import mlp
from vae_fast.objectives.elbo import objective

EPS = torch.finfo(torch.float32).eps
BF16 = 2.0**-8  # the largest relative change from rounding to bfloat16
SEED, STEP = torch.tensor(2**40 + 7), torch.tensor(11)
LR, BETA = 1e-2, 0.7
LOOPS = fused_mlp.bf16_loops() if extension.load() else []
PRODUCTS = [fused_mlp.FLOAT32, *LOOPS]


class State(NamedTuple):
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    count: Tensor

    def tensors(self) -> list[Tensor]:
        return [*self.parameters, *self.means, *self.squares, self.count]

    def copy(self) -> "State":
        return State(*([t.clone() for t in group] for group in self[:3]), self.count.clone())


class Case:
    """A network, images, and a workspace full of NaN."""

    def __init__(
        self,
        batch: int,
        pixels: int = 93,
        hidden: tuple[int, ...] = (50,),
        latent: int = 7,
        activation: str = "relu",
        dtype: torch.dtype = torch.uint8,
        products: str = fused_mlp.FLOAT32,
        free_bits: float = 0.0,
        likelihood: str = "bernoulli",
        scale: float | str | None = None,
        channels: int = 1,
    ) -> None:
        torch.manual_seed(batch + pixels)
        self.model = vf.VAE((channels, pixels // channels), hidden, latent, activation, likelihood, scale)
        self.parameters = [p.detach() for p in self.model.parameters()]
        images = torch.randint(0, 256, (batch + 5, pixels), dtype=torch.uint8)
        self.images = images if dtype == torch.uint8 else images / 255
        self.rows: Tensor | None = torch.randperm(batch + 5)[:batch]
        self.beta = torch.tensor(BETA)
        self.terms = torch.full((5,), nan, dtype=torch.float64)
        self.products = products
        self.workspace = fused_mlp.mlp_workspace(self.parameters, batch, free_bits, products).fill_(nan)
        self.settings: dict[str, Any] = {"activation": activation, "free_bits": free_bits, "products": products}
        self.settings |= {"likelihood": likelihood, "log_scale": self.model.likelihood.fixed_log_scale}

    def batch(self) -> Tensor:
        return self.images if self.rows is None else self.images[self.rows]

    def copies(self, parameters: list[Tensor]) -> Tensor | None:
        return None if self.products == fused_mlp.FLOAT32 else fused_mlp.mlp_copies(parameters)

    def gradients(self, **settings: Any) -> list[Tensor]:
        gradients = [torch.full_like(p, nan) for p in self.parameters]
        common = {"workspace": self.workspace, "terms": self.terms, **self.settings, **settings}
        copies = self.copies(self.parameters)
        fused_mlp.mlp_gradients(
            self.parameters, gradients, copies, self.images, self.rows, SEED, STEP, self.beta, **common
        )
        return gradients

    def zeros(self) -> tuple[list[Tensor], list[Tensor]]:
        return [torch.zeros_like(p) for p in self.parameters], [torch.zeros_like(p) for p in self.parameters]

    def state(self) -> State:
        """Return parameters that may be changed, and moments as after some steps."""
        moments = ([torch.rand_like(p) / 100 for p in self.parameters] for _ in range(2))
        return State([p.clone() for p in self.parameters], *moments, torch.tensor(3.0))

    def step(self, state: State, **settings: Any) -> None:
        """Take a step on the rows, keep the terms that it records, and check that its copies match the new weights."""
        record = Record(STEP.clone(), torch.zeros(5, dtype=torch.float64), torch.full((3, 5), nan, dtype=torch.float64))
        order = None if self.rows is None else self.rows.expand(STEP + 1, -1).contiguous()
        schedule = torch.tensor([LR, float(self.beta)]).expand(STEP + 1, 2).contiguous()
        common = {"workspace": self.workspace, **self.settings, **settings}
        copies = self.copies(state.parameters)
        fused_mlp.mlp_steps_(*state, copies, self.images, order, schedule, SEED, record, **common)
        assert record.step == STEP + 1
        assert torch.equal(record.ring[STEP % 3], record.sums)
        assert record.ring.isnan().any(1).sum() == 2
        assert copies is None or torch.equal(copies, fused_mlp.mlp_copies(state.parameters))
        self.terms = record.sums

    def exact(self, rounded: bool = False, **noise: int) -> tuple[list[Tensor], Tensor]:
        """Return gradients and terms by autograd in float64, optionally with products' operands rounded to bfloat16."""
        network = vf.VAE(**self.model.hyperparameters).double()
        network.load_state_dict(self.model.state_dict())
        x = self.batch().double() / (255 if self.images.dtype == torch.uint8 else 1)
        linear = mlp.linear
        try:
            mlp.linear = RoundedLinear.apply if rounded else linear
            free_bits = self.settings["free_bits"]
            loss, nll, kl = objective(network, x, SEED, STEP, beta=self.beta.double(), free_bits=free_bits, **noise)
            loss.backward()
        finally:
            mlp.linear = linear
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        sums = torch.stack((loss * len(x), nll.sum(), kl.sum(), torch.tensor(float(len(x))), torch.tensor(0.0)))
        return gradients, sums.detach()

    def check(self, **noise: int) -> None:
        """Compare gradients and terms with the textbook.

        The roundings of 784 similar terms add up to about sqrt(784) / 2 = 14 eps of the largest, and a gradient depends
        on several such sums.
        """
        gradients = self.gradients(**noise)
        exact, sums = self.exact(**noise)
        for gradient, expected in zip(gradients, exact, strict=True):
            size = float(expected.abs().max())
            torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=32 * EPS * size)
        torch.testing.assert_close(self.terms, sums, rtol=16 * EPS, atol=self._cancelled(sums))

    def check_bf16(self) -> None:
        """Compare gradients and terms with float64 computations with the same roundings and without any.

        With the roundings: sums in float32 move few values across a rounding boundary, each by BF16; half of one
        rounding is more than all of them. Without: errors are independent, so their squares add up, those of both
        operands of the products that a gradient depends on: all forward, all but one backward, and its own. If the
        activation has a kink, a fraction BF16 of the inputs, which are spread over about 1, is on the other side of it
        and has a different slope: a fraction sqrt(BF16) of the gradient's norm, in the encoder and in the decoder.
        """
        gradients = self.gradients()
        kinks = 2 * BF16**0.5 if self.model.activation in ("relu", "leaky_relu") else 0
        for rounded, bound in ((True, BF16 / 2), (False, (2 * len(gradients)) ** 0.5 * BF16 + kinks)):
            exact, sums = self.exact(rounded)
            for gradient, expected in zip(gradients, exact, strict=True):
                assert (gradient.double() - expected).norm() <= bound * expected.norm()
            off = self._cancelled(sums)
            torch.testing.assert_close(self.terms, sums, rtol=1e-5 if rounded else BF16, atol=off)

    def _cancelled(self, sums: Tensor) -> float:
        """Return the error allowed because terms of about 1 cancel in every kl_bj."""
        return 4 * EPS * float(sums[IMAGES]) * self.model.latent


class Run:
    """A state that several steps change; each step has rates and images, by rows of an order or one after the other."""

    def __init__(self, case: Case, steps: int) -> None:
        self.case = case
        self.state = State([p.clone() for p in case.parameters], *case.zeros(), torch.tensor(3.0))
        generator = torch.Generator().manual_seed(1)
        batch = len(case.images) - 5
        self.order = torch.stack([torch.randperm(len(case.images), generator=generator)[:batch] for _ in range(steps)])
        self.schedule = torch.stack((torch.linspace(1e-2, 1e-3, steps), torch.linspace(0.1, 1.0, steps)), dim=1)
        sums, ring = torch.zeros(5, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
        self.record = Record(torch.tensor(7 * steps), sums, ring)
        self.copies = case.copies(self.state.parameters)

    def advance(self, images: Tensor, order: Tensor | None, steps: int, **settings: Any) -> None:
        given = self.copies, images, order, self.schedule, SEED, self.record
        common = {"workspace": self.case.workspace, **self.case.settings, **settings}
        fused_mlp.mlp_steps_(*self.state, *given, steps=steps, **common)

    def tensors(self) -> list[Tensor]:
        copies = [] if self.copies is None else [self.copies]
        return [*self.state.tensors(), *copies, *self.record]


class RoundedLinear(torch.autograd.Function):
    """A linear layer that rounds both operands of every product to bfloat16, but not the bias."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return rounded(x) @ rounded(weight).T + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        left = rounded(gradient)
        return left @ rounded(weight), left.T @ rounded(x), gradient.sum(0)


def rounded(x: Tensor) -> Tensor:
    return x.float().bfloat16().double()


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(
        torch.equal(a.reshape(-1).view(torch.int32), b.reshape(-1).view(torch.int32))
        for a, b in zip(ours, theirs, strict=True)
    )
