"""What several test files need: real data, and settings small enough for a run of a second or two."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf

# As the engine does for itself: else Inductor runs the program `openssl`, which a machine need not have.
os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., vf.Config]:
    """Settings of a small run on the embedded digits, in tmp_path/run unless told otherwise."""

    def config(**settings: Any) -> vf.Config:
        defaults = {"data": "digits", "hidden": (16,), "latent": 4, "epochs": 2, "out": str(tmp_path / "run")}
        return vf.Config(**{**defaults, **settings})

    return config


@pytest.fixture
def mnist_root() -> Path:
    """The folder that holds all of MNIST."""
    for folder in (os.environ.get("VAE_FAST_DATA"), SHARED_DATA):
        if folder and (Path(folder) / "mnist").is_dir():
            return Path(folder)
    pytest.skip("all of MNIST is neither in VAE_FAST_DATA nor in ../shared/data")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every new tensor is full of NaN, or of the largest integer, until a kernel has written it."""
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory
    yield
    torch.use_deterministic_algorithms(False)
