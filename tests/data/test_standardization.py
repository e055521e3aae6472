"""Tables of any real values: their standardization, and runs on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vae_fast as vf
from vae_fast import export, report, trace
from vae_fast.analysis.trained import Trained
from vae_fast.data.standardization import measure
from vae_fast.errors import ConfigError, DataError, RunError
from vae_fast.evaluate import evaluate
from vae_fast.sample import sample


@given(st.integers(2, 40), st.integers(1, 6), st.floats(-1e4, 1e4), st.floats(0.01, 1e3), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_columns_have_mean_0_and_variance_1(rows: int, columns: int, mean: float, scale: float, seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).normal(mean, scale, (rows, columns)).astype(np.float32))
    values[:, 0] = mean  # which does not vary
    found = measure(values).apply(values).double()
    precision = 1e-6 * (1 + abs(mean) / scale)  # float32 holds so many digits of the values
    assert found[:, 0].abs().max() <= precision * scale
    if columns > 1:
        torch.testing.assert_close(found[:, 1:].mean(0), torch.zeros(columns - 1).double(), rtol=0, atol=precision)
        torch.testing.assert_close(
            found[:, 1:].var(0, unbiased=False), torch.ones(columns - 1).double(), rtol=0, atol=10 * precision
        )


def test_bytes_are_numbers_like_any_others(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (50, 4))
    np.savez(tmp_path / "x.npz", train=rows.astype(np.uint8), test=rows.astype(np.float64))
    config = vf.Config(data=str(tmp_path / "x.npz"), standardize=True, likelihood="gaussian", batch_size=10, latent=2)
    model = vf.fit(vf.Config(**{**config.recorded(), "epochs": 1, "out": str(tmp_path / "run")})).model
    torch.testing.assert_close(model.offset, torch.from_numpy(rows.mean(0)).float())
    assert torch.equal(model.standardize(torch.from_numpy(rows).byte()), model.standardize(torch.from_numpy(rows)))


def test_a_constant_of_a_large_table_is_only_shifted() -> None:
    found = measure(torch.full((400_000, 3), 0.1))
    assert found.scale.tolist() == [1, 1, 1]


@pytest.fixture
def table(tmp_path: Path) -> np.ndarray[Any, Any]:
    """Return a table of two factors, with columns of very different units, which is also in tmp_path/table.npy."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(600, 2)) @ random.normal(size=(2, 8)) + 0.1 * random.normal(size=(600, 8))
    rows = rows * 10.0 ** np.arange(-3, 5) + 100 * np.arange(-4, 4)
    rows[:, 3] = 7
    np.save(tmp_path / "table.npy", rows)
    return rows


@pytest.mark.parametrize("way", [{"step": "fused"}, {"step": "autograd", "amp_dtype": "bf16"}])
def test_a_run_on_a_table_keeps_its_units(way: dict[str, Any], table: np.ndarray[Any, Any], tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"hidden": (32,), "latent": 2, "batch_size": 20, "lr": 3e-3, **way}
    config = vf.Config(data=str(tmp_path / "table.npy"), standardize=True, likelihood="gaussian", **chosen)
    run = vf.fit(vf.Config(**{**config.recorded(), "epochs": 15, "out": str(tmp_path / "run")}))
    half = vf.fit(vf.Config(**{**config.recorded(), "epochs": 5, "out": str(tmp_path / "half")})).directory
    resumed = vf.fit(vf.Config(**{**config.recorded(), "epochs": 15, "resume": str(half)}))
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), resumed.model.parameters(), strict=True))
    model, rows = vf.load(run.directory), torch.from_numpy(table).float()
    spread = rows[:540].std(0, unbiased=False)  # the last tenth is held out
    torch.testing.assert_close(model.spread[[0, 7]], spread[[0, 7]], rtol=1e-4, atol=0)
    with torch.no_grad():
        decoded = model.decode(model.encode(rows[540:])[0]).flatten(1)
    off = ((decoded - rows[540:]).square().mean(0).sqrt() / spread)[[0, 1, 2, 4, 5, 6, 7]]
    assert off.max() < 0.5, "two latents hold the two factors"
    trained = Trained.open(run.directory, "cpu")
    selection = trained.images("test")
    assert torch.equal(selection.pixels.flatten(1), rows[540:])
    assert "standardized columns" in selection.title
    found = evaluate(trained, selection, iw=4, seed=trained.seed)
    assert found["loss"] == pytest.approx(run.metrics[-1]["test_loss"], rel=1e-4)
    drawn = sample(trained, 200).flatten(1)
    assert 0.5 < drawn[:, 7].std() / spread[7] < 2
    export.export(trained, tmp_path / "export", ["pt2"])
    assert "Latent explorer" in report.report(trained, selection)
    assert "2  standardized" in "\n".join(trace.lines(trace.trace(trained, selection)))
    alone = Trained.open(tmp_path / "export", "cpu")
    assert evaluate(alone, alone.images("test", data=str(tmp_path / "table.npy")))["kl"] > 0


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        ({"likelihood": "bernoulli"}, ConfigError, "standardize: expected it with likelihood 'gaussian' alone"),
        ({"feed": "stream"}, RunError, "--standardize makes a copy of all of them"),
        ({"data": "broken.npy"}, DataError, r"row 3: the value at \[3, 2\] is inf: expected a finite float32"),
        ({"standardize": False}, DataError, "expected a number in"),
    ],
)
def test_mistakes_are_named(
    chosen: dict[str, Any],
    error: type[Exception],
    message: str,
    table: np.ndarray[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    table[3, 2] = np.inf
    np.save("broken.npy", table)
    given_ = {"data": "table.npy", "standardize": True, "likelihood": "gaussian", "batch_size": 10, "out": "run"}
    with pytest.raises(error, match=message):
        vf.fit(vf.Config(**{**given_, **chosen}))
