"""Tests that PyTorch settings of the caller change neither runs nor analyses, and are restored afterwards."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf
from tests.kernels.global_states import default_dtype
from vae_fast.analysis.trained import Trained
from vae_fast.evaluate import evaluate
from vae_fast.reconstruct import reconstruct
from vae_fast.runtime import pytorch_state
from vae_fast.sample import sample
from vae_fast.traverse import traverse

STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "meta device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def seen() -> tuple[Any, ...]:
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return torch.get_default_dtype(), torch.get_default_device(), *modes


def results(config: vf.Config) -> dict[str, Any]:
    run = vf.fit(config)
    trained = Trained.open(run.directory)
    selection = trained.images()
    model = vf.load(run.directory)
    assert all(p.requires_grad and p.dtype == torch.float32 and not p.is_inference() for p in model.parameters())
    return {
        **model.state_dict(),
        "losses": [record["test_loss"] for record in run.metrics],
        "pixels": vf.load_images("digits").pixels,
        "evaluation": {k: v for k, v in evaluate(trained, selection, iw=3).items() if k != "importance_weighted"},
        "samples": sample(trained, 4),
        "reconstructions": reconstruct(trained, selection.pick([0, 1])),
        "traversals": traverse(trained, [1], 3),
    }


@pytest.fixture(scope="module", params=["fused", "autograd"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[vf.Config, dict[str, Any]]:
    path = tmp_path_factory.mktemp(request.param) / "run"
    step = "autograd" if request.param == "autograd" else "auto"
    config = vf.Config(hidden=(16,), latent=4, epochs=1, batch_size=100, step=step, binarize="dynamic", out=path)
    return config, results(config)


@pytest.mark.parametrize("state", STATES)
def test_a_run_and_its_analyses_are_the_same_in_any_state(
    state: str, plain: tuple[vf.Config, dict[str, Any]], tmp_path: Path
) -> None:
    config, expected = plain
    with STATES[state]():
        before = seen()
        found = results(vf.Config(**{**config.recorded(), "out": str(tmp_path / "run")}))
        assert seen() == before
    for name, value in expected.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value, name


def test_the_state_is_restored_after_an_error() -> None:
    with default_dtype(torch.float64), torch.no_grad():
        before = seen()
        inside = []
        with pytest.raises(ZeroDivisionError), pytorch_state.as_it_starts():
            inside.append(seen()) or 1 / 0
        assert inside == [(torch.float32, torch.device("cpu"), True, False, False)]
        assert seen() == before
