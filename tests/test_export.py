"""Exports, each read back the way its users will read it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import vae_fast as vf
from vae_fast import evaluate, reconstruct, sample
from vae_fast import export as command
from vae_fast.analysis.trained import Trained
from vae_fast.artifacts import atomic
from vae_fast.errors import RunError


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    assert command.main([str(trained_run), "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_load_reads_an_export(exported: Path, trained_run: Path) -> None:
    state = vf.load(trained_run).state_dict()
    for path in (exported, exported / "model.safetensors"):
        for name, tensor in vf.load(path).state_dict().items():
            assert torch.equal(tensor, state[name])
    assert safetensors.torch.load_file(exported / "model.safetensors").keys() == state.keys()
    assert json.loads((exported / "export.json").read_text())["hyperparameters"]["latent"] == 4


def test_pt2_files_work_without_vae_fast(exported: Path, trained_run: Path, tmp_path: Path) -> None:
    model, x, z = vf.load(trained_run), torch.rand(5, 1, 28, 28), torch.randn(3, 4)
    torch.save((x, z), tmp_path / "in.pt")
    program = """
import sys, torch
folder, given, out = sys.argv[1:]
x, z = torch.load(given)
encoder, decoder = (torch.export.load(f"{folder}/{name}.pt2").module() for name in ("encoder", "decoder"))
torch.save((*encoder(x), decoder(z)), out)
assert "vae_fast" not in sys.modules
"""
    out = tmp_path / "out.pt"
    subprocess.run([sys.executable, "-c", program, exported, tmp_path / "in.pt", out], check=True, cwd=tmp_path)
    mu, logvar, logits = torch.load(out)
    with torch.no_grad():
        torch.testing.assert_close((mu, logvar), model.encode(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, model.decode(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "encoder.pt2", "README.md", "export.json"])
def test_a_file_that_cannot_be_written_is_named_and_nothing_remains(
    file: str, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atomic.write

    def write(path: Path, data: bytes) -> None:
        if path.name == file:
            monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        real(path, data)

    monkeypatch.setattr(atomic, "write", write)
    with pytest.raises(OSError, match=rf"No space left: '{tmp_path}/\.out\.\w+\.vae_fast\.tmp/{file}'"):
        command.export(Trained.open(trained_run, "cpu"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_onnx_files_run_in_onnxruntime(trained_run: Path, tmp_path: Path) -> None:
    onnx, onnxruntime = (
        pytest.importorskip(name, reason="vae_fast[onnx] is not installed") for name in ("onnx", "onnxruntime")
    )
    pytest.importorskip("onnxscript", reason="vae_fast[onnx] is not installed")
    model, out = vf.load(trained_run), tmp_path / "out"
    found = command.export(Trained.open(trained_run, "cpu"), out, ("onnx",))
    assert list(found) == ["safetensors", "onnx"]
    assert f"opset {onnx.load(out / 'decoder.onnx').opset_import[0].version}," in (out / "README.md").read_text()
    decoder = onnxruntime.InferenceSession(out / "decoder.onnx", providers=["CPUExecutionProvider"])
    z = torch.randn(7, 4)
    (logits,) = decoder.run(None, {"z": z.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model.decode(z), rtol=1e-4, atol=1e-4)


def test_the_card_describes_the_model(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for part in ("784-64-4-64-784", "digits, grey pixels", "Attribution-ShareAlike 3.0", "lr: 0.002", "test_loss:"):
        assert part in card


@pytest.mark.parametrize(("factor", "off"), [(1.01, r"1\.0e-02"), (float("nan"), "nan")])
def test_an_export_that_computes_something_else_is_refused(
    factor: float, off: str, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        command.WRITERS, "pt2", lambda model, folder: (model.encode, lambda z: [model.decode(z) * factor])
    )
    with pytest.raises(RunError, match=f"pt2: read back, it is off by {off} of the largest value; 1e-04 is allowed"):
        command.export(Trained.open(trained_run, "cpu"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_not_overwritten(exported: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (exported / "export.json").stat().st_mtime_ns
    assert command.main([str(trained_run), "--out", str(exported)]) == 1
    assert capsys.readouterr().err == f"error: --out: {exported} exists; remove it or name another\n"
    assert (exported / "export.json").stat().st_mtime_ns == before


def test_missing_onnx_is_reported_in_one_line(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert command.main([str(trained_run), "--out", str(tmp_path / "out"), "--formats", "onnx"]) == 1
    assert "pip install 'vae_fast[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a conditional run on binarized images of named classes, its export, and images of two of its classes."""
    folder = tmp_path_factory.mktemp("named")
    digits = vf.load_images("digits")
    images, names = digits.pixels[:120, 0].numpy(), np.array(["cat", "dog", "eel"])[digits.labels[:120].numpy() % 3]
    some = names != "cat"
    np.savez(folder / "all.npz", train=images, train_labels=names, test=images[:40], test_labels=names[:40])
    np.savez(folder / "some.npz", train=images[some], train_labels=names[some])
    settings = {"conditional": True, "binarize": "static", "batch_size": 20, "hidden": (16,), "latent": 3, "seed": 5}
    run = vf.fit(vf.Config(data=str(folder / "all.npz"), epochs=1, out=str(folder / "run"), **settings)).directory
    command.export(Trained.open(run, "cpu"), folder / "export", ("safetensors",))
    return run, folder / "export", folder / "some.npz"


def test_drawing_from_an_export_needs_no_more_flags_than_from_its_run(named: tuple[Path, Path, Path]) -> None:
    run, exported, images = named
    for main, arguments, name in (
        (sample.main, ["--count", "6"], "samples-seed0-6.npy"),
        (sample.main, ["--count", "6", "--label", "dog"], "samples-label1-seed0-6.npy"),
        (reconstruct.main, ["--count", "6", "--data", str(images)], "reconstructions-some-*-all-static-first6.npy"),
    ):
        found = []
        for path, folder in ((run, run / "pictures" / "step-00000006"), (exported, exported / "pictures")):
            assert main([str(path), "--device", "cpu", *arguments]) == 0
            (file,) = folder.glob(name)
            assert file.with_suffix(".png").exists()
            found.append(np.load(file))
        assert (found[0] == found[1]).all(), "another class, or pixels that are not binarized"


def test_an_export_evaluates_like_its_run_and_tells_its_own_export(
    named: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    run, exported, images = named
    results = []
    for path in (run, exported):
        assert evaluate.main([str(path), "--data", str(images), "--out", str(tmp_path / "found.json")]) == 0
        results.append(json.loads((tmp_path / "found.json").read_text()))
    assert results[0]["loss"] == results[1]["loss"]
    assert (results[1]["seed"], results[1]["binarize"]) == (5, "static")
    command.export(Trained.open(exported, "cpu"), tmp_path / "again", ("safetensors",))
    first, second = (json.loads((folder / "export.json").read_text()) for folder in (exported, tmp_path / "again"))
    assert first["label_names"] == second["label_names"] == ["cat", "dog", "eel"]
    assert "0 `cat`, 1 `dog`, 2 `eel`" in (tmp_path / "again" / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not readable"), ('{"label_names": "cat"}', "label_names: expected list, got 'cat'")],
)
def test_a_damaged_description_is_reported_in_one_line(
    content: str, message: str, named: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    command.export(Trained.open(named[0], "cpu"), folder, ("safetensors",))
    (folder / "export.json").write_text(content)
    assert sample.main([str(folder), "--label", "dog"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder}/export.json: {message}")
    assert error.count("\n") == 1


def test_an_export_of_an_earlier_version_is_read(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes())
    (folder / "export.json").write_text('{"hyperparameters": {}, "formats": {}, "source": "run"}')
    trained = Trained.open(folder, "cpu")
    assert (trained.seed, trained.binarize, trained.label_names) == (0, "none", [])
    file = folder / "model.safetensors"
    assert sample.main([str(file)]) == 2  # a file alone has no folder of its own
    assert capsys.readouterr().err == (
        f"error: --out: {file} is no run or export that could keep the result; expected a path\n"
    )
