"""Tests of compiled functions and of their cache. tests/training/test_engine.py tests compiled steps."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vae_fast.runtime import compile
from vae_fast.runtime.compile import compiled, keep_compiled_code
from vae_fast.runtime.environment import cpp_compiler

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(VARIABLE, "")  # so that monkeypatch restores it whatever happens to it
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_cache_is_in_a_folder_that_survives_a_reboot(home: Path) -> None:
    keep_compiled_code()
    folder = home / "vae_fast" / "compiled" / torch.backends.cpu.get_cpu_capability()
    assert os.environ[VARIABLE] == str(folder)
    assert folder.is_dir()


def test_a_folder_that_the_user_names_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    keep_compiled_code()
    assert os.environ[VARIABLE] == "/elsewhere"


def test_without_a_cache_folder_pytorch_chooses_its_own(home: Path) -> None:
    (home / "vae_fast").write_text("in the way")
    keep_compiled_code()
    assert VARIABLE not in os.environ


@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_cache_folder_works_when_pytorch_set_it_first_and_its_path_has_a_space(home: Path) -> None:
    code = """
import os
import torch._dynamo  # which a torch optimizer imports, and which chooses a folder
from vae_fast.runtime.compile import compiled
assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(os.environ["TMPDIR"]), "nothing is tested"
print(compiled(lambda x: x.sin().cos())(torch.zeros(300)).sum().item())
"""
    (home / "t").mkdir()
    env = {**os.environ, "XDG_CACHE_HOME": str(home / "a folder"), "TMPDIR": str(home / "t")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "300.0\n"), done.stderr
    assert list((home / "a folder" / "vae_fast" / "compiled").glob("*/fxgraph"))


@pytest.mark.parametrize("folder", ["o'brien", "a folder", 'a"b', "tab\tbed"])
@pytest.mark.parametrize("temporary", ["plain", "a space"])
def test_a_path_that_a_command_line_would_split_is_reached_by_a_link(
    folder: str, temporary: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / temporary).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home / temporary))
    monkeypatch.setenv(VARIABLE, str(home / folder))
    keep_compiled_code()
    chosen = os.environ[VARIABLE]
    assert shlex.split(chosen) == [chosen]
    assert Path(chosen).readlink() == home / folder
    Path(chosen).unlink()


class Adder:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def add(self, x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
        return x + self.amount * times


def test_a_method_is_compiled_for_any_number_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile the same method more often than the eight times that Dynamo allows for the same code."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: compile(function, backend="eager", fullgraph=True))
    for amount in range(10):
        assert compiled(Adder(amount).add)(torch.ones(2), times=2).tolist() == [1 + 2 * amount] * 2


@pytest.mark.parametrize("alpha", [1, 2])
def test_a_product_is_fused_with_the_relu_that_follows_it(alpha: int) -> None:
    """Check the fusion that makes one launch on a GPU, and that it needs a product that only adds a bias."""
    bias, x, weight = torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)

    def layer(bias: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.addmm(bias, x, weight)
        return torch.addmm(bias, x, weight, alpha=alpha).relu(), before.relu() + before

    graph = make_fx(layer)(bias, x, weight)
    compile._fold_activations(graph)
    folded = graph.graph.find_nodes(op="call_function", target=torch.ops.aten._addmm_activation.default)
    assert len(folded) == (1 if alpha == 1 else 0)  # the result of the other product is also used elsewhere
    for ours, exact in zip(graph(bias, x, weight), layer(bias, x, weight), strict=True):
        torch.testing.assert_close(ours, exact)


def test_a_function_that_runs_its_own_backward_is_compiled_whole() -> None:
    weight = torch.randn(3, requires_grad=True)

    def gradient(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        value = (weight * x).sin() * (1 if scale is None else scale)
        return value.detach(), torch.autograd.grad(value.sum(), weight)[0]

    for scale in (None, torch.tensor(2.0)):
        compiled = compile.compiled_with_backward(gradient)
        for x in (torch.randn(3), torch.randn(3)):
            torch.testing.assert_close(compiled(x, scale), gradient(x, scale))
            with torch.no_grad():
                weight.add_(1)  # the compiled function must see the change
            assert not compiled(x, scale)[0].requires_grad
            torch.testing.assert_close(compiled(x, scale), gradient(x, scale))
