"""A run's files: config.toml, metrics.jsonl, checkpoints/ and pictures/ in one directory."""

import errno
import hashlib
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Self

import tomli_w
from torch import Tensor

from vae_fast.artifacts import atomic, checkpoint, strict_json
from vae_fast.artifacts.claims import Claim
from vae_fast.config import Config, read_toml, resumed_directory
from vae_fast.errors import ConfigError, RunError
from vae_fast.models.vae import VAE

# On a resume; all else is what the run is.
MAY_CHANGE = {"epochs", "data_root", "device", "feed", "keep", "log", "nvtx", "threads"}


SEAL = "# The SHA-256 of what follows, as the run wrote it: "
PROBE = ".vae_fast-"  # and something random: an empty folder by which one sees that there may be some
OTHER_FILES = 2 << 20  # bytes: pictures, metrics, config.toml


class RunDirectory:
    """One run on the disk. As a context it gives up its claim at the end.

    Attributes:
        path: the directory itself.
        recorded: config.toml's tables, empty before `begin`.
        claim: what keeps other processes from writing there; None for who only reads, or writes nothing.
    """

    def __init__(self, path: Path, recorded: dict[str, Any], claim: Claim | None = None) -> None:
        self.path, self.recorded, self.claim = path, recorded, claim

    def __reduce__(self) -> tuple[Any, ...]:
        """For the other processes of a run, whose first one alone holds the claim."""
        return RunDirectory, (self.path, self.recorded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.claim is not None:
            self.claim.release()

    @classmethod
    def of(cls, path: Path) -> "RunDirectory":
        """Of a run that is there; its config.toml has been read before."""
        return cls(path, tomllib.loads(atomic.read(path / "config.toml").decode()))

    @classmethod
    def open(cls, config: Config) -> "RunDirectory":
        """The directory to start or go on in, claimed unless it is a dry run.

        Raises RunError if it holds a run that is not to resume, or if another process has it.
        """
        resumed = None
        if config.resume is not None:
            if config.resume != "auto" and config.out is not None:
                raise ConfigError(f"--out: a run resumed by its directory stays there, got {config.out!r} as well")
            resumed = resumed_directory(config.resume, config.out)
        path = resumed or (None if config.out is None else Path(config.out))
        if path is not None:
            require_writable(path)
        claim = None if config.dry_run else _fresh(config.data) if path is None else Claim(path)
        path = path or (_fresh_paths(config.data)[0] if claim is None else claim.directory)
        try:
            return cls(path, _recorded(path, config) if resumed else _nothing_recorded(path), claim)
        except BaseException:
            if claim is not None:
                claim.release()
            raise

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, config: Config, **tables: dict[str, Any]) -> None:
        """Write config.toml: the settings, and the tables `plan`, `images` and `environment`."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.recorded = {**config.recorded(), **tables}
        with self.saving("config.toml"):
            atomic.replace(self.path / "config.toml", _sealed(tomli_w.dumps(self.recorded).encode()))
            if self.checkpoints.is_dir():  # of a run that goes on
                checkpoint.sweep(self.checkpoints)
                atomic.sweep(self.pictures)

    def require_space(self, saved: int, epochs: int, keep: int) -> None:
        """RunError if the disk lacks room for checkpoints of so many bytes: those kept, the best, one being written."""
        there = sum(file.stat().st_size for file in self.checkpoints.rglob("*") if file.is_file())
        most = min(epochs, keep + 1) + 1
        needed = max(0, saved * most - there) + OTHER_FILES
        free = shutil.disk_usage(_existing(self.path)).free
        if free < needed:
            raise RunError(
                f"{self.path}: the disk has {_mib(free)} free, the run needs {_mib(needed)}: up to {most} checkpoints "
                f"of {_mib(saved)} at a time (--keep {keep}, the best, one being written); free some, or take another "
                f"--out"
            )

    @contextmanager
    def saving(self, what: str) -> Iterator[None]:
        """Turn an OSError into a RunError that says what could not be saved, why, and what is."""
        try:
            yield
        except OSError as error:
            no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
            free = f", {_mib(shutil.disk_usage(self.path).free)} free" if no_space else ""
            raise RunError(
                f"{error.filename or self.path}: {error.strerror or error}{free}: {what} could not be saved; "
                f"{self._survivor()}"
            ) from error

    def _survivor(self) -> str:
        saved = sorted(path.name for path in self.checkpoints.glob("step-*"))
        return f"{saved[-1]} is, go on from there with --resume {self.path}" if saved else "no checkpoint is there yet"

    def require(self, images: dict[str, Any]) -> None:
        """That they are the images of the run: RunError where what is known of them differs."""
        recorded = self.recorded.get("images", images)
        differences = [f"{k} {recorded.get(k)} then, {v} now" for k, v in images.items() if recorded.get(k) != v]
        if differences:
            data = self.recorded.get("data")
            raise RunError(
                f"data: these are not the images of {self.path} ({data}): {'; '.join(differences)}; "
                f"if they have moved, --data says where to"
            )

    def metrics(self) -> list[dict[str, Any]]:
        """The records of the epochs so far, in order; lines that are none, as a kill may leave, are read past."""
        records: list[dict[str, Any]] = []
        lines = atomic.read(self.metrics_file).splitlines() if self.metrics_file.exists() else []
        for record in map(_record, lines):
            if record is not None and record["epoch"] > (records[-1]["epoch"] if records else 0):
                records.append(record)
        return records

    def append_metrics(self, record: dict[str, Any]) -> None:
        with self.saving(f"the record of epoch {record['epoch']}"):
            atomic.append(self.metrics_file, _lines([record]))

    def cut_metrics(self, epoch: int) -> list[dict[str, Any]]:
        """Keep the records up to `epoch`, those that the checkpoint resumed from has seen."""
        kept = [record for record in self.metrics() if record["epoch"] <= epoch]
        if self.metrics_file.exists():
            atomic.replace(self.metrics_file, _lines(kept))
        return kept

    def save(
        self,
        model: VAE,
        parameters: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        *,
        keep: int,
    ) -> None:
        """Save a checkpoint, with what `Engine.state` gave, and prune those before."""
        with self.saving(f"the checkpoint of step {state['step']}"):
            path = checkpoint.save(self.checkpoints, model, parameters, optimizer, state)
            self._follow(path, state["best"], keep)

    def settle(self, path: Path, best: dict[str, float] | None, keep: int) -> None:
        """Do what should have followed the saving of a checkpoint that a run goes on from: it may have been killed."""
        with self.saving("what names the checkpoints"):
            checkpoint.point(self.checkpoints / "latest", path)
            self._follow(path, best, keep)

    def _follow(self, path: Path, best: dict[str, float] | None, keep: int) -> None:
        if best is not None:
            target = checkpoint.directory(self.checkpoints, int(best["step"]))
            if target.is_dir():
                checkpoint.point(self.checkpoints / "best", target)
        checkpoint.prune(path, keep)


def _recorded(path: Path, config: Config) -> dict[str, Any]:
    """What the run's config.toml says. ConfigError where `config` is of another run."""
    recorded = RunDirectory.of(path).recorded
    _require_as_written(path / "config.toml", recorded)
    before, now = Config(**read_toml(path / "config.toml")).recorded(), config.recorded()
    # Data may have moved, as long as `require` finds the images in them.
    is_fused = recorded.get("plan", {}).get("step") == "fused"  # compiled before any run began, whatever is asked for
    may_change = MAY_CHANGE | ({"compile"} if is_fused else set()) | ({"data"} if "images" in recorded else set())
    for name in sorted({**before, **now}.keys() - may_change):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise ConfigError(
                f"{name}: cannot change on a resume; {path} has {old!r}, got {new!r}. Start anew with the rest of its "
                f"settings: --config {path / 'config.toml'} --out ANOTHER"
            )
    return recorded


def _sealed(settings: bytes) -> bytes:
    """With a first line by which a resume notices that they are no longer what the run wrote."""
    return f"{SEAL}{hashlib.sha256(settings).hexdigest()}\n".encode() + settings


def _require_as_written(file: Path, recorded: dict[str, Any]) -> None:
    """RunError for settings that were changed or cut; those of an earlier version have no seal that tells it."""
    first, _, rest = atomic.read(file).partition(b"\n")
    if first.startswith(SEAL.encode()) and _sealed(rest).partition(b"\n")[0] != first:
        raise RunError(
            f"--resume: {file} is not what the run wrote, by the SHA-256 in its first line. Put that back, or start "
            f"anew with it: --config {file} --out ANOTHER; without its first line it is taken as it is"
        )
    if "plan" not in recorded:
        raise RunError(f"--resume: {file} is not whole: expected a [plan], which says how the run makes its steps")


def _nothing_recorded(path: Path) -> dict[str, Any]:
    held = next((name for name in ("config.toml", "metrics.jsonl", "checkpoints") if (path / name).exists()), None)
    if held is not None:
        raise RunError(f"--out: {path} already holds a run ({held}); continue it with --resume {path}")
    return {}


def _fresh(data: str) -> Claim:
    """Of a directory that no other process has: the first that can be made."""
    paths = _fresh_paths(data)
    require_writable(paths[0])
    for path in paths:
        try:
            return Claim(path, fresh=True)
        except FileExistsError:
            continue
    raise RunError(f"--out: {paths[0]} and {len(paths) - 1} more of its name are taken; expected another directory")


def _fresh_paths(data: str) -> list[Path]:
    """Names for a run that begins now, best first."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(data).stem) or "data"
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}"
    return [Path("runs", stamp), *(Path("runs", f"{stamp}-{n}") for n in range(2, 1000))]


def require_writable(path: Path) -> None:
    """That a directory, which need not be there yet, can be written to; RunError else."""
    for folder in (path, *path.parents):
        if folder.is_symlink() and not folder.exists():
            raise RunError(
                f"--out: {folder} is a link to {folder.readlink()}, which is not there; make it, or remove it"
            )
    existing = _existing(path)
    if not existing.is_dir():
        raise RunError(f"--out: {existing} is a file, expected a directory")
    try:
        ours = Path(tempfile.mkdtemp(prefix=PROBE, dir=existing))
    except OSError as error:
        raise RunError(f"--out: nothing can be written in {existing} ({error.strerror})") from None
    for probe in chain([ours], existing.glob(f"{PROBE}*")):  # also those of processes that were killed here
        with suppress(OSError):
            probe.rmdir()


def _existing(path: Path) -> Path:
    """The path itself or the nearest folder around it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl, None where it is none: every value is a number or null."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(found, dict) and isinstance(found.get("epoch"), int)
    return found if is_one and all(isinstance(value, int | float | None) for value in found.values()) else None


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(strict_json.dumps(record) + "\n" for record in records).encode()
