"""Checkpoints that are either whole or not there: safetensors and JSON under a SHA-256 manifest, moved in by rename.

checkpoints/step-00004680/model.safetensors      parameters, and the hyperparameters that rebuild the VAE
                          optimizer.safetensors  the optimizer's tensors, named after their parameters
                          state.json             counters, sums, scaler, best value
                          manifest.json          size and SHA-256 of the three
checkpoints/latest, best                         relative symlinks, replaced by rename
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from vae_fast import durable
from vae_fast.errors import RunError
from vae_fast.model import VAE

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
EXPORT = "export.json"  # in a directory that `export` made
METADATA_KEY = "vae_fast"  # one key only: safetensors writes several in an order that changes from process to process


class Checkpoint(NamedTuple):
    """What one checkpoint directory holds."""

    path: Path
    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    checkpoints: Path, model: VAE, parameters: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write `checkpoints`/step-N, N being state["step"], and point `latest` at it.

    A process killed at any moment leaves the directory whole or absent, and every earlier checkpoint as it was.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    _sweep(checkpoints)
    final = directory(checkpoints, state["step"])
    temporary = checkpoints / f".{final.name}.tmp"
    temporary.mkdir()
    files = {
        MODEL: model_bytes(model, parameters),
        OPTIMIZER: safetensors.torch.save(_plain(optimizer)),
        STATE: json.dumps(state, indent=1).encode(),
    }
    manifest = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    for name, data in {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
        durable.write(temporary / name, data)
    durable.sync(temporary)
    if final.exists():  # of this step, from before a resume
        final.rename(checkpoints / f".{final.name}.old")
    temporary.rename(final)
    durable.sync(checkpoints)
    point(checkpoints / "latest", final)
    return final


def model_bytes(model: VAE, parameters: dict[str, Tensor]) -> bytes:
    """The content of model.safetensors: parameters, and what rebuilds the VAE."""
    return safetensors.torch.save(_plain(parameters), {METADATA_KEY: json.dumps(model.hyperparameters)})


def directory(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return checkpoints / f"step-{step:08d}"


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symlink to `target`, a sibling; it names the old or the new target at any moment."""
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.rename(link)
    durable.sync(link.parent)


def prune(latest: Path, keep: int) -> None:
    """Remove all but the best checkpoint and the last `keep` up to `latest`.

    Those of later steps are invalid ones that a resume went past; they must not count, and the run will replace them.
    """
    checkpoints = latest.parent
    best = (checkpoints / "best").resolve()
    for path in [path for path in sorted(checkpoints.glob("step-*")) if path.name <= latest.name][:-keep]:
        if path.resolve() != best:
            path.rename(checkpoints / f".{path.name}.old")
    _sweep(checkpoints)


def read(path: Path) -> Checkpoint:
    """A checkpoint directory's content, every byte checked against its manifest; RunError where it does not hold."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        data = {name: _verified(path / name, manifest[name]) for name in (MODEL, OPTIMIZER, STATE)}
        return Checkpoint(
            path, safetensors.torch.load(data[MODEL]), safetensors.torch.load(data[OPTIMIZER]), json.loads(data[STATE])
        )
    except OSError as error:
        raise RunError(f"{error.filename or path}: not readable ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: not a valid checkpoint ({error or type(error).__name__})") from None


def valid_checkpoints(checkpoints: Path) -> Iterator[Checkpoint | RunError]:
    """From the newest to the oldest: each checkpoint, or what is wrong with it."""
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            yield read(path)
        except RunError as error:
            yield error


def latest(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest that is valid; `warn` gets a line for each newer one that is not."""
    for found in valid_checkpoints(checkpoints):
        if isinstance(found, Checkpoint):
            return found
        warn(f"skipped an invalid checkpoint: {found}")
    return None


def load(path: str | Path) -> VAE:
    """The VAE of a run directory (its latest valid checkpoint), a checkpoint, an export or a model.safetensors file.

    On the CPU, float32, in eval mode. RunError names what is missing or broken.
    """
    path = locate(path)
    if (path / MODEL).is_file() and not (path / EXPORT).is_file():
        read(path)  # only to verify it
    return _load_model(path / MODEL if path.is_dir() else path)


def locate(path: str | Path, warn: Callable[[str], None] = warnings.warn) -> Path:
    """Of a run directory its latest valid checkpoint, of a link (latest, best) what it names, else what it is.

    `warn` gets a line for each newer checkpoint that is not valid. RunError where there is none, or nothing at all.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir():
        if (found := latest(path / "checkpoints", warn)) is not None:
            return found.path
        raise RunError(f"{path}: expected a run directory with a valid checkpoint, it holds none")
    if not path.is_file() and not (path / MODEL).is_file():
        what = f"it holds no {MODEL}" if path.is_dir() else "there is no such file or directory"
        raise RunError(f"{path}: expected a run directory, a checkpoint, an export or a model.safetensors file; {what}")
    return path.parent / path.readlink() if path.is_symlink() else path


def _load_model(file: Path) -> VAE:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            model = VAE(**json.loads(opened.metadata()[METADATA_KEY]))
            names = opened.keys()  # not iterable itself: it only looks like a mapping
            model.load_state_dict({name: opened.get_tensor(name) for name in names})
    except OSError as error:
        raise RunError(f"{file}: not readable ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise RunError(f"{file}: not a model saved by vae_fast ({error or type(error).__name__})") from None
    return model.eval()


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _verified(path: Path, entry: dict[str, Any]) -> bytes:
    data = path.read_bytes()
    if len(data) != entry["bytes"]:
        raise ValueError(f"{path.name} has {len(data)} bytes, the manifest says {entry['bytes']}")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path.name} does not have the SHA-256 that the manifest states")
    return data


def _sweep(checkpoints: Path) -> None:
    """Remove what killed processes left half-written or half-removed."""
    for path in checkpoints.glob(".step-*"):
        shutil.rmtree(path)
