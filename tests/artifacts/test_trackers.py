"""Records and pictures in TensorBoard, read back by its own reader."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vae_fast as vf
from vae_fast.errors import RunError

Small = Callable[..., vf.Config]


def scalars(run: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["images"]) == {"loss", "reconstructions", "samples"}
    return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def test_tensorboard_has_every_record_also_after_a_resume(small: Small) -> None:
    pytest.importorskip("tensorboard", reason="vae_fast[tensorboard] is not installed")
    run = vf.fit(small(log="tensorboard")).directory
    vf.fit(small(log="tensorboard", epochs=3, resume=str(run), out=None))
    records: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = scalars(run)
    assert found["loss/train"] == pytest.approx({r["epoch"]: r["train_loss"] for r in records})
    assert found["kl/test"] == pytest.approx({r["epoch"]: r["test_kl"] for r in records})
    assert found["lr"] == pytest.approx({r["epoch"]: r["lr"] for r in records})


def test_a_missing_tensorboard_is_reported_before_the_run_begins(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    config = small(log="tensorboard")
    with pytest.raises(
        RunError, match=r"--log tensorboard: it is not installed: pip install 'vae_fast\[tensorboard\]'"
    ):
        vf.fit(config)
    assert not Path(str(config.out)).exists()
