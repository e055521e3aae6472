"""Where compiled code is kept. What torch.compile does with a step, tests/test_engine.py shows."""

import os
from pathlib import Path

import pytest
import torch

from vae_fast.compiling import compiled, keep_compiled_code

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_it_outlives_the_machines_next_start(home: Path) -> None:
    keep_compiled_code()
    assert os.environ.pop(VARIABLE) == str(home / "vae_fast" / "compiled")
    assert (home / "vae_fast" / "compiled").is_dir()


def test_whoever_names_another_folder_gets_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    keep_compiled_code()
    assert os.environ[VARIABLE] == "/elsewhere"


def test_without_a_cache_pytorch_chooses(home: Path) -> None:
    (home / "vae_fast").write_text("in the way")
    keep_compiled_code()
    assert VARIABLE not in os.environ


class Adder:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def add(self, x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
        return x + self.amount * times


def test_a_method_is_compiled_for_any_number_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo compiles the same code eight times and no more."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: compile(function, backend="eager", fullgraph=True))
    for amount in range(10):
        assert compiled(Adder(amount).add)(torch.ones(2), times=2).tolist() == [1 + 2 * amount] * 2
