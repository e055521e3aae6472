"""Checkpoints that are either complete or absent: safetensors and JSON with a SHA-256 manifest, put in place by rename.

checkpoints/step-00004680/model.safetensors      parameters, and the hyperparameters that rebuild the VAE
                          optimizer.safetensors  the optimizer's tensors, named after their parameters
                          state.json             counters, sums, scaler, best value
                          manifest.json          size and SHA-256 of the three
checkpoints/latest, best                         relative symlinks, replaced by rename; on a file system without
                                                 symlinks, files that hold a checkpoint's name
"""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from vae_fast.artifacts import atomic
from vae_fast.errors import RunError, UserError
from vae_fast.models.vae import VAE
from vae_fast.runtime import pytorch_state

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
EXPORT = "export.json"  # in a directory written by `export`
SOURCE_KEY = "source"  # beside the hyperparameters: the SHA-256 of the file of a user's network
METADATA_KEY = "vae_fast"  # just one: safetensors writes several keys in an order that differs between processes


NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EINVAL}
MOST_LINKS = 40  # Linux follows no more
NAME = re.compile(r"step-\d{8,}")


class Checkpoint(NamedTuple):
    """The content of one checkpoint directory."""

    path: Path
    hyperparameters: dict[str, Any]
    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class Loaded(NamedTuple):
    """A VAE, its source, and the state of its run at that time (None if the source is not a checkpoint)."""

    model: VAE
    source: Path
    state: dict[str, Any] | None


class Gone(RunError):
    """A checkpoint was removed while it was being read."""


def save(
    checkpoints: Path, model: VAE, parameters: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write `checkpoints`/step-N, N being state["step"], and point `latest` at it.

    A process killed at any moment leaves the directory complete or absent, and every earlier checkpoint as it was. The
    same holds after an OSError, which names a file; it also leaves nothing half-written behind.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    sweep(checkpoints)
    final = directory(checkpoints, state["step"])
    files = {
        MODEL: model_bytes(model, parameters),
        OPTIMIZER: safetensors.torch.save(_plain(optimizer)),
        STATE: json.dumps(state, indent=1).encode(),
    }
    manifest = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    try:
        _write(final, {**files, MANIFEST: json.dumps(manifest, indent=1).encode()})
    except OSError:
        with suppress(OSError):
            sweep(checkpoints)
        raise
    point(checkpoints / "latest", final)
    return final


def _write(final: Path, files: dict[str, bytes]) -> None:
    """Write a directory of files and move it to `final`, replacing an earlier one."""
    checkpoints = final.parent
    temporary = checkpoints / f".{final.name}.tmp"
    temporary.mkdir()
    for name, data in files.items():
        atomic.write(temporary / name, data)
    atomic.sync(temporary)
    if final.exists():  # an earlier checkpoint of this step, from before a resume
        final.rename(checkpoints / f".{final.name}.old")
    temporary.rename(final)
    atomic.sync(checkpoints)


def model_bytes(model: VAE, parameters: dict[str, Tensor]) -> bytes:
    """Return the content of model.safetensors: parameters, and the hyperparameters that rebuild the VAE."""
    source = {} if model.source is None else {SOURCE_KEY: model.source}
    about = {METADATA_KEY: json.dumps({**model.hyperparameters, **source})}
    return safetensors.torch.save(_plain(parameters), about)


def directory(checkpoints: Path, step: int) -> Path:
    """Return the directory of the checkpoint of a step."""
    return checkpoints / f"step-{step:08d}"


def point(link: Path, target: Path) -> None:
    """Point `link` at `target`, a sibling, with a relative symlink; at any moment it names the old or the new target.

    On a file system without symlinks, `link` becomes a file that holds the name of the target.
    """
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target.name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        atomic.replace(link, f"{target.name}\n".encode())
    else:
        with atomic.removed_on_failure(temporary):
            temporary.rename(link)
        atomic.sync(link.parent)


def pointed(link: Path) -> Path:
    """Return the path that a link, or a file that stands for one, names; any other path is returned as it is."""
    for _ in range(MOST_LINKS):  # a link of the user's may name one of ours
        if link.is_symlink():
            link = link.parent / link.readlink()
    if link.is_file() and link.stat().st_size < 256:
        name = atomic.read(link).strip().decode(errors="replace")
        if NAME.fullmatch(name):
            return link.parent / name
    return link


def prune(latest: Path, keep: int) -> None:
    """Remove all but the best checkpoint and the last `keep` up to `latest`.

    Later checkpoints are invalid ones that a resume skipped; they do not count, and the run will replace them.
    """
    checkpoints = latest.parent
    best = pointed(checkpoints / "best").name
    for path in [path for path in _steps(checkpoints) if path.name <= latest.name][:-keep]:
        if path.name != best:
            path.rename(checkpoints / f".{path.name}.old")
    sweep(checkpoints)


def read(path: Path) -> Checkpoint:
    """Return the content of a checkpoint directory, every byte checked against its manifest.

    Raises RunError if the check fails, and `Gone` if the directory no longer exists.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        data = {name: _verified(path / name, manifest[name]) for name in (MODEL, OPTIMIZER, STATE)}
        return Checkpoint(
            path,
            _hyperparameters(data[MODEL]),
            safetensors.torch.load(data[MODEL]),
            safetensors.torch.load(data[OPTIMIZER]),
            json.loads(data[STATE]),
        )
    except OSError as error:
        kind = RunError if os.path.lexists(path) else Gone
        raise kind(f"{error.filename or path}: not readable ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: not a valid checkpoint ({error or type(error).__name__})") from None


def _steps(checkpoints: Path) -> list[Path]:
    """Return the checkpoints, oldest first; raise RunError (`glob` would find none) if they cannot be listed."""
    try:
        return sorted(path for path in checkpoints.iterdir() if path.name.startswith("step-"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{checkpoints}: cannot be listed ({error.strerror})") from None


def valid_checkpoints(checkpoints: Path) -> Iterator[Checkpoint | RunError]:
    """Yield each checkpoint, or the error that makes it invalid, from the newest to the oldest."""
    for path in reversed(_steps(checkpoints)):
        try:
            yield read(path)
        except RunError as error:
            yield error


def latest(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest valid checkpoint; `warn` gets a line for each newer one that is invalid."""
    found = list(_until_valid(checkpoints))
    while any(isinstance(one, Gone) for one in found):  # a running process removes old ones, so newer ones exist by now
        found = list(_until_valid(checkpoints))
    for one in found:
        if isinstance(one, Checkpoint):
            return one
        warn(f"skipped an invalid checkpoint: {one}")
    return None


def load(path: str | Path) -> VAE:
    """Load the VAE of a run directory (its latest valid checkpoint), checkpoint, export or model.safetensors file.

    A network of the user's is made by the code at its recorded place, so that code runs: load only models whose origin
    you trust. The model is on the CPU, in float32 and in eval mode. Raises RunError, which names what is missing or
    broken.
    """
    return opened(path).model


@pytorch_state.as_it_starts()
def opened(path: str | Path, warn: Callable[[str], None] = warnings.warn) -> Loaded:
    """Load a VAE as `load` does, and return its source as well: for a link (latest, best), the path that it names.

    `warn` gets a line for each newer, invalid checkpoint of a run directory. Raises RunError as `load` does.
    """
    path = Path(path).expanduser()
    if (path / "checkpoints").is_dir():
        if (found := latest(path / "checkpoints", warn)) is None:
            raise RunError(f"{path}: expected a run directory with a valid checkpoint, it holds none")
        return Loaded(_model(found.path, found.hyperparameters, found.parameters, warn), found.path, found.state)
    while True:
        source = pointed(path)
        try:
            return _opened(source, warn)
        except Gone:
            if pointed(path) == source:  # otherwise the link names a newer one by now
                raise


def _opened(source: Path, warn: Callable[[str], None]) -> Loaded:
    if (source / MODEL).is_file() and not (source / EXPORT).is_file():
        found = read(source)
        return Loaded(_model(source, found.hyperparameters, found.parameters, warn), source, found.state)
    file = source / MODEL if source.is_dir() else source
    if not file.is_file():
        what = f"it holds no {MODEL}" if source.is_dir() else "there is no such file or directory"
        kind = RunError if os.path.lexists(source) else Gone
        raise kind(f"{source}: expected a run directory, a checkpoint, an export or a model.safetensors file; {what}")
    try:
        data = file.read_bytes()
        model = _model(file, _hyperparameters(data), safetensors.torch.load(data), warn)
    except OSError as error:
        raise RunError(f"{file}: not readable ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"{file}: not a model saved by vae_fast ({error or type(error).__name__})") from None
    return Loaded(model, source, None)


def _model(
    source: Path, hyperparameters: dict[str, Any], parameters: dict[str, Tensor], warn: Callable[[str], None]
) -> VAE:
    """Build the model; `warn` gets a line if its network's source is another than when it was saved."""
    before = hyperparameters.pop(SOURCE_KEY, None)
    try:
        model = VAE(**hyperparameters)
        if before != model.source:
            warn(f"{model.network} has changed since {source} was saved")
        model.load_state_dict(parameters)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{source}: not a model saved by vae_fast ({error or type(error).__name__})") from None
    return model.eval()


def _hyperparameters(model: bytes) -> dict[str, Any]:
    """Return the hyperparameters from model.safetensors, which begins with the length of its JSON header."""
    header = json.loads(model[8 : 8 + int.from_bytes(model[:8], "little")])
    hyperparameters: dict[str, Any] = json.loads(header["__metadata__"][METADATA_KEY])
    return hyperparameters


def _until_valid(checkpoints: Path) -> Iterator[Checkpoint | RunError]:
    for one in valid_checkpoints(checkpoints):
        yield one
        if isinstance(one, Checkpoint):
            return


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _verified(path: Path, entry: dict[str, Any]) -> bytes:
    data = path.read_bytes()
    if len(data) != entry["bytes"]:
        raise ValueError(f"{path.name} has {len(data)} bytes, the manifest says {entry['bytes']}")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path.name} does not have the SHA-256 that the manifest states")
    return data


def sweep(checkpoints: Path) -> None:
    """Remove what killed processes left half-written or half-removed."""
    for path in checkpoints.glob(".step-*"):
        shutil.rmtree(path)
    for path in checkpoints.glob(".*.link"):
        path.unlink()
    atomic.sweep(checkpoints)
