"""Saving and loading checkpoints: byte-identical, verified, and never half-written."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.artifacts import checkpoint
from vae_fast.artifacts.checkpoint import Checkpoint
from vae_fast.errors import RunError


def save(folder: Path, step: int = 3, fill: float = 1.0) -> Path:
    model = vf.VAE((4,), (3,), 2, "tanh")
    parameters = {name: torch.full_like(p, fill) for name, p in model.state_dict().items()}
    optimizer: dict[str, Tensor] = {"a.exp_avg": torch.arange(3.0), "a.step": torch.tensor(5.0)}
    return checkpoint.save(folder, model, parameters, optimizer, {"step": step, "sums": [0.1, 1 / 3]})


def test_a_saved_checkpoint_reads_back(tmp_path: Path) -> None:
    path = save(tmp_path)
    found = checkpoint.read(path)
    assert path.name == "step-00000003"
    assert {f.name for f in path.iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
    }  # fmt: skip
    assert found.state == {"step": 3, "sums": [0.1, 1 / 3]}  # floats are exact
    assert found.optimizer["a.step"] == 5
    assert (tmp_path / "latest").readlink() == Path(path.name)
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_the_same_state_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a"), save(tmp_path / "b")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "garbage"])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, name: str, damage: str) -> None:
    good, bad = save(tmp_path, 3), save(tmp_path, 4)
    file = bad / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    damages: dict[str, Callable[[], object]] = {
        "cut": lambda: file.write_bytes(file.read_bytes()[:-1]),
        "flipped": lambda: file.write_bytes(bytes(data)),
        "missing": file.unlink,
        "garbage": lambda: file.write_bytes(b"[1, 2"),
    }
    damages[damage]()
    found = list(checkpoint.valid_checkpoints(tmp_path))
    assert isinstance(found[0], RunError)
    assert str(bad) in str(found[0])
    assert isinstance(found[1], Checkpoint)
    assert found[1].path == good
    with pytest.raises(RunError):
        checkpoint.read(bad)


def test_unlistable_checkpoints_do_not_count_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise RunError, since a resume would otherwise start from the beginning."""
    save(tmp_path / "run" / "checkpoints")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(RunError, match=r"checkpoints: cannot be listed \(Permission denied\)"):
        checkpoint.latest(tmp_path / "run" / "checkpoints", print)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, fill=1)
    path = save(tmp_path, fill=2)
    assert checkpoint.read(path).parameters["encoder.stats.bias"].tolist() == [2] * 4
    checkpoint.prune(path, keep=1)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["latest", "step-00000003"]


def test_pruning_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        path = save(tmp_path, step)
        if step == 2:
            checkpoint.point(tmp_path / "best", path)
    checkpoint.prune(tmp_path / "step-00000005", keep=3)
    # 6 is a later step: an invalid one that a resume skipped, so it neither counts nor is removed
    assert sorted(int(p.name[5:]) for p in tmp_path.glob("step-*")) == [2, 3, 4, 5, 6]
    assert (tmp_path / "best").resolve().name == "step-00000002"


def test_without_symlinks_a_file_names_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse symlinks, as FAT and some network file systems do; a run that moves to another file system continues."""
    folder = tmp_path / "checkpoints"
    real = Path.symlink_to

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for step, link in enumerate((refuse, refuse, real, refuse), 1):
        monkeypatch.setattr(Path, "symlink_to", link)
        path = save(folder, step, fill=step)
        if step == 1:
            checkpoint.point(folder / "best", path)
        checkpoint.prune(path, keep=1)
        assert checkpoint.opened(folder / "latest").source == path
        assert checkpoint.opened(folder / "best").source.name == "step-00000001"
        assert (folder / "latest").is_symlink() == (link is real)
    assert sorted(p.name for p in folder.iterdir()) == ["best", "latest", "step-00000001", "step-00000004"]


def test_a_link_that_cannot_be_renamed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 3)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "x")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.point(tmp_path / "best", path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", path.name]


def test_links_to_links_are_followed(tmp_path: Path) -> None:
    path = save(tmp_path / "run" / "checkpoints", fill=0.5)
    (tmp_path / "mine").symlink_to(tmp_path / "run" / "checkpoints" / "latest")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert checkpoint.opened(tmp_path / "mine").source == path
    with pytest.raises(RunError, match="circle: expected a run directory"):
        vf.load(tmp_path / "circle")


def test_a_failed_save_leaves_earlier_checkpoints_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 3)
    real = os.write
    for at in range(4):  # three files and their manifest
        calls = iter(range(100))

        def write(descriptor: int, data: bytes, at: int = at, calls: Iterator[int] = calls) -> int:
            if next(calls) == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OSError, match=r"No space left on device: '.*/\.step-00000004\.tmp/"):
            save(tmp_path, 4)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", path.name]
        checkpoint.read(path)
    monkeypatch.undo()
    assert checkpoint.read(save(tmp_path, 4)).state["step"] == 4


def test_load_takes_a_run_a_checkpoint_or_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", fill=0.5)
    for source in (tmp_path, path, path / "model.safetensors", str(tmp_path)):
        model = vf.load(source)
        assert not model.training
        assert model.hyperparameters == vf.VAE((4,), (3,), 2, "tanh").hyperparameters
        assert all((p == 0.5).all() for p in model.parameters())


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected a run directory, a checkpoint, .*; it holds no model\.safetensors"):
        vf.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunError, match="expected a run directory with a valid checkpoint, it holds none"):
        vf.load(tmp_path)
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 9)
    with pytest.raises(RunError, match=r"junk.safetensors: not a model saved by vae_fast"):
        vf.load(tmp_path / "junk.safetensors")
    path = save(tmp_path / "checkpoints")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model.safetensors"]["sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"model.safetensors does not have the SHA-256 that the manifest states"):
        vf.load(path)
