"""The operators stay what they are in exported programs, which may be saved and run without the Python that made them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vae_fast as vf
from vae_fast.kernels import library
from vae_fast.objective import objective

pytestmark = pytest.mark.skipif(not library.load(), reason=library.status())
OPERATORS = {f"vae_fast.{name}.default" for name in ("reparameterize", "elbo", "sample_posterior", "nll")}


class Terms(nn.Module):
    """The public functions, one after the other and as the engine calls them."""

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
    assert OPERATORS <= {str(node.target) for node in program.graph.nodes}
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
