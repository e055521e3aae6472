"""Tests of the C++ library's operators within PyTorch: schemas, gradients, compilers, exported programs, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vae_fast as vf
from tests.kernels.operator_cases import LAYOUTS, SEED, STEP, encoded, images, posterior
from vae_fast.kernels import extension, nll, sample_posterior
from vae_fast.objectives.elbo import objective

pytestmark = pytest.mark.skipif(not extension.load(), reason=extension.status())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_are_proper_operators(layout: str) -> None:
    ops = torch.ops.vae_fast
    mu_data, logvar_data = posterior(6, 5, layout)
    logits, target = images(6, 11, layout, torch.uint8)
    mu, logvar, logits = (t.detach().requires_grad_() for t in (mu_data, logvar_data, logits))
    torch.library.opcheck(ops.reparameterize, (mu, logvar, SEED, STEP, 4, 16))
    torch.library.opcheck(ops.reparameterize_backward, (mu_data, logvar_data, SEED, STEP, 4, 16))
    stats, gradients = encoded(6, 5, layout), (torch.ones(6), torch.ones(()).expand(6))
    torch.library.opcheck(ops.sample_posterior, (stats.detach().requires_grad_(), SEED, STEP, 4, 16))
    for used in ((mu_data, gradients[1]), (mu_data, None), (None, gradients[1])):
        torch.library.opcheck(ops.sample_posterior_backward, (*used, stats, SEED, STEP, 4, 16))
    for likelihood, scale in (("bernoulli", None), ("gaussian", torch.zeros(())), ("gaussian", torch.zeros(11))):
        wanted = None if scale is None else scale.clone().requires_grad_()
        pixels = (logits.detach(), target)
        torch.library.opcheck(ops.elbo, (logits, target, mu, logvar, wanted, likelihood))
        torch.library.opcheck(ops.elbo_backward, (*gradients, *pixels, mu_data, logvar_data, scale, likelihood))
        torch.library.opcheck(ops.nll, (logits, target, wanted, likelihood))
        torch.library.opcheck(ops.nll_backward, (gradients[1], *pixels, scale, likelihood))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_forward_and_backward_have_no_graph_break(backend: str, dynamic: bool) -> None:
    def step(stats: Tensor, logits: Tensor, target: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = stats.chunk(2, dim=-1)
        z = vf.reparameterize(mu, logvar, seed, step, impl="cpp")
        sample = sample_posterior(stats, seed, step, row_offset=3, impl="cpp")
        elbo = vf.elbo_loss(logits + z.sum(1, keepdim=True), target, mu, logvar, beta=0.5, impl="cpp")
        return z, *sample, elbo.loss + (nll(logits, target, impl="cpp") * sample.kl).sum()

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=dynamic)
    for b in (6, 9):
        results = []
        for function in (step, compiled):
            generator = torch.Generator().manual_seed(b)
            stats = torch.randn(b, 8, generator=generator).requires_grad_()
            logits, target = images(b, 11, "contiguous", torch.uint8)
            logits.requires_grad_()
            *values, loss = function(stats, logits, target, SEED, STEP)
            results.append((*values, loss, *torch.autograd.grad(loss, (stats, logits))))
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(eager, traced)


def test_a_term_that_is_not_used_gives_no_gradient() -> None:
    """Check this as in the reference, where an unused kl leaves mu alone; 0 times an overflowing e^logvar is NaN."""
    logits, target = images(2, 5, "contiguous", torch.uint8)
    leaves = [t.requires_grad_() for t in (logits, torch.zeros(2, 3), torch.full((2, 3), 100.0))]
    elbo = vf.elbo_loss(leaves[0], target, *leaves[1:], impl="cpp")
    grads = torch.autograd.grad(elbo.nll.sum(), leaves, allow_unused=True, retain_graph=True)
    assert grads[1:] == (None, None)
    assert grads[0] is not None
    grads = torch.autograd.grad(elbo.kl.sum(), leaves, allow_unused=True)
    assert grads[0] is None


OPERATORS = {f"vae_fast.{name}.default" for name in ("reparameterize", "elbo", "sample_posterior", "nll")}


class Terms(nn.Module):
    """A module that calls the public functions, one after the other and as the engine does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vae = vf.VAE((1, 4, 4), (8,), 3)

    def forward(self, x: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        logits, mu, logvar, z = self.vae(x, seed, step)
        return z, *vf.elbo_loss(logits, x, mu, logvar), *objective(self.vae, x, seed, step)


def arguments(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    x = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return x, torch.tensor(1), torch.tensor(2)


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=2)
    return torch.export.export(Terms(), arguments(6), dynamic_shapes=({0: batch}, None, None))


def test_an_exported_program_calls_the_operators(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    assert {str(node.target) for node in program.graph.nodes} >= OPERATORS
    torch.export.save(program, tmp_path / "terms.pt2")
    loaded = torch.export.load(tmp_path / "terms.pt2").module()
    torch.testing.assert_close(loaded(*arguments(9)), Terms()(*arguments(9)))


@pytest.mark.sweep  # 20 seconds of compilation
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Inductor's own, in torch 2.13
def test_a_compiled_package_calls_the_operators(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "terms.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(tuple(loaded(*arguments(9))), Terms()(*arguments(9)))


M = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("operator", "change", "error", "message"),
    [
        ("reparameterize", {0: M.double()}, TypeError, "mu: expected float32, float16 or bfloat16, got Double"),
        ("reparameterize", {1: M[:2]}, ValueError, r"mu and logvar: expected the same shape \[..., Z\]"),
        ("reparameterize", {2: torch.tensor(1.0)}, ValueError, "seed: expected a 0-d int64 tensor, got Float"),
        ("reparameterize", {5: 2**32}, ValueError, "stream: expected a value in"),
        ("reparameterize_backward", {0: M[:2]}, ValueError, r"grad_z and logvar: expected the same shape"),
        ("elbo", {0: M.double()}, TypeError, "logits: expected float32, float16 or bfloat16, got Double"),
        ("elbo", {1: M.int()}, TypeError, "target: expected float32, float16 or bfloat16, got Int"),
        ("elbo", {4: M[0]}, ValueError, "log_scale: expected none with likelihood 'bernoulli'"),
        ("elbo", {5: "gaussian"}, ValueError, "log_scale: expected a tensor with likelihood 'gaussian'"),
        ("elbo", {4: M[:, 0], 5: "gaussian"}, ValueError, r"log_scale: expected \[\] or \[4\], got \[3\]"),
        ("elbo", {5: "poisson"}, ValueError, "likelihood: got the unknown 'poisson'"),
        ("elbo", {1: M[:, :2]}, ValueError, "target: expected as many rows and values as the logits'"),
        ("elbo", {2: M[:2]}, ValueError, r"mu and logvar: expected \[3, Z\] each"),
        ("sample_posterior", {0: M[:, :3]}, ValueError, r"stats: expected \[B, 2 Z\], got \[3, 3\]"),
        ("sample_posterior_backward", {0: M}, ValueError, r"grad_z: expected \[3, 2\], got \[3, 4\]"),
        ("sample_posterior_backward", {1: M[0]}, ValueError, r"grad_kl: expected \[3\], got \[4\]"),
        ("sample_posterior_backward", {}, ValueError, "expected grad_z or grad_kl, got neither"),
        ("nll", {1: M[:, :2]}, ValueError, "target: expected as many rows and values as the logits'"),
        ("nll_backward", {0: torch.ones(2)}, ValueError, r"grad_nll: expected \[3\], got \[2\]"),
        ("elbo_backward", {1: torch.ones(2)}, ValueError, r"grad_kl: expected \[3\], got \[2\]"),
    ],
)
def test_operators_refuse_invalid_arguments(
    operator: str, change: dict[int, Any], error: type[Exception], message: str
) -> None:
    noise, scale = (SEED, STEP, 0, 0), (None, "bernoulli")
    arguments: list[Any] = {
        "reparameterize": [M, M, *noise],
        "reparameterize_backward": [M, M, *noise],
        "sample_posterior": [M, *noise],
        "sample_posterior_backward": [None, None, M, *noise],
        "nll": [M, M, *scale],
        "nll_backward": [torch.ones(3), M, M, *scale],
        "elbo": [M, M, M, M, *scale],
        "elbo_backward": [torch.ones(3), torch.ones(3), M, M, M, M, *scale],
    }[operator]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(error, match=message):
        getattr(torch.ops.vae_fast, operator)(*arguments)
