"""The memory that a run needs before it begins."""

from collections.abc import Callable

import pytest
import torch

import vae_fast as vf
from vae_fast.errors import RunError
from vae_fast.models.sizes import network_memory
from vae_fast.runtime.memory import free_memory
from vae_fast.training import planning
from vae_fast.training.planning import require_memory

CPU = torch.device("cpu")
GIB = 2**30


def test_the_memory_of_a_network_counts_weights_and_activations(small: Callable[..., vf.Config]) -> None:
    # 784-16-(4, 4)-16-784 has 26,104 parameters, four numbers each; products and activations of a batch, twice
    values = 784 + (16 + 16 + 8) + (16 + 16 + 784)
    assert network_memory(small(batch_size=128), (1, 28, 28)) == 4 * (4 * 26_104 + 2 * 128 * values)
    assert 2**20 < free_memory(CPU) < 2**50


def test_memory_is_checked_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda device: 16 * GIB)
    require_memory(15 * GIB, network_memory(vf.Config(), (1, 28, 28)), CPU)
    with pytest.raises(RunError, match=r"memory: cpu has 16\.0 GiB free, the run needs about 281\d\d\.\d GiB"):
        require_memory(0, network_memory(vf.Config(hidden=(10**9,)), (1, 28, 28)), CPU)
