"""Estimates on disk: which ones are resumed, and which are discarded."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast.analysis.resumable import Estimates


@pytest.fixture
def model() -> vf.VAE:
    torch.manual_seed(0)
    return vf.VAE(input_shape=(6,), hidden=(), latent=2)


TAKEN = 0.05  # seconds
IMAGES = torch.arange(60, dtype=torch.uint8).view(10, 6)


def begun(file: Path, model: vf.VAE) -> Estimates:
    estimates = Estimates(file, model, IMAGES, 5, 0)
    estimates.append(torch.full((4,), -7.0, dtype=torch.float64))
    time.sleep(TAKEN)
    estimates.save()
    return estimates


def test_saved_estimates_are_resumed(model: vf.VAE, tmp_path: Path) -> None:
    begun(tmp_path / "file", model)
    again = Estimates(tmp_path / "file", model, IMAGES, 5, 0)
    assert again.values.tolist() == [-7.0] * 4
    assert again.seconds >= TAKEN
    kept_nowhere = Estimates(None, model, IMAGES, 5, 0)
    kept_nowhere.save()
    assert len(kept_nowhere) == 0


def test_estimates_of_something_else_are_not_used(model: vf.VAE, tmp_path: Path) -> None:
    begun(tmp_path / "file", model)
    torch.manual_seed(1)
    other = vf.VAE(input_shape=(6,), hidden=(), latent=2)
    for of in ((other, IMAGES, 5, 0), (model, IMAGES[1:], 5, 0), (model, IMAGES, 6, 0), (model, IMAGES, 5, 1)):
        assert len(Estimates(tmp_path / "file", *of)) == 0


def array(values: object) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(values))
    return content.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"text", array([1.0, 2.0])])
def test_a_damaged_file_is_started_over(content: bytes, model: vf.VAE, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert len(begun(tmp_path / "file", model)) == 4
