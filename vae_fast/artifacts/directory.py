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

# Settings that may change on a resume; all others define the run.
MAY_CHANGE = {"epochs", "patience", "evaluate_every", "data_root", "device", "feed", "keep", "log", "nvtx", "threads"}


SEAL = "# The SHA-256 of what follows, as the run wrote it: "
PROBE = ".vae_fast-"  # and random characters: an empty folder created to test for write access
OTHER_FILES = 2 << 20  # bytes: pictures, metrics, config.toml


class RunDirectory:
    """A run on disk. As a context manager, it releases its claim at the end.

    Attributes:
        path: the directory itself.
        recorded: the tables of config.toml, empty before `begin`.
        claim: keeps other processes from writing there; None for readers and dry runs.
    """

    def __init__(self, path: Path, recorded: dict[str, Any], claim: Claim | None = None) -> None:
        self.path, self.recorded, self.claim = path, recorded, claim

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the claim, for the other processes of a run: only the first one holds it."""
        return RunDirectory, (self.path, self.recorded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.claim is not None:
            self.claim.release()

    @classmethod
    def of(cls, path: Path) -> "RunDirectory":
        """Return the directory of an existing run, whose config.toml is known to be readable."""
        return cls(path, tomllib.loads(atomic.read(path / "config.toml").decode()))

    @classmethod
    def open(cls, config: Config) -> "RunDirectory":
        """Open the directory to start or continue in, and claim it except for a dry run.

        Raises RunError if it holds a run that is not being resumed, or if another process has claimed it.
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
            if self.checkpoints.is_dir():  # the run is being resumed
                checkpoint.sweep(self.checkpoints)
                atomic.sweep(self.pictures)

    def require_space(self, saved: int, epochs: int, keep: int) -> None:
        """Raise RunError unless the disk has room for the checkpoints: `saved` bytes for each that may exist at a time.

        These are the last `keep`, the best, and one being written.
        """
        used = sum(file.stat().st_size for file in self.checkpoints.rglob("*") if file.is_file())
        most = min(epochs, keep + 1) + 1
        needed = max(0, saved * most - used) + OTHER_FILES
        free = shutil.disk_usage(_existing(self.path)).free
        if free < needed:
            raise RunError(
                f"{self.path}: the disk has {_mib(free)} free, the run needs {_mib(needed)}: up to {most} checkpoints "
                f"of {_mib(saved)} at a time (--keep {keep}, the best, one being written); free some, or take another "
                f"--out"
            )

    @contextmanager
    def saving(self, what: str) -> Iterator[None]:
        """Turn an OSError into a RunError that says what could not be saved, why, and which checkpoint is saved."""
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
        return f"{saved[-1]} is, continue from it with --resume {self.path}" if saved else "there is no checkpoint yet"

    def require(self, images: dict[str, Any]) -> None:
        """Raise RunError if what is known of these images differs from those of the run."""
        recorded = self.recorded.get("images", images)
        changed = {k: (recorded.get(k), v) for k, v in images.items() if recorded.get(k) != v}
        differences = [f"{k} {_short(then)} then, {_short(now)} now" for k, (then, now) in changed.items()]
        if differences:
            data = self.recorded.get("data")
            raise RunError(
                f"data: these are not the images of {self.path} ({data}): {'; '.join(differences)}; "
                f"they have changed since; if the run's are elsewhere, name them by --data"
            )

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of the epochs so far, in order, skipping invalid lines, which a kill may leave behind."""
        return self.metrics_and_damage()[0]

    def metrics_and_damage(self) -> tuple[list[dict[str, Any]], int]:
        """Return the same as `metrics`, and the number of lines that are no records."""
        records: list[dict[str, Any]] = []
        lines = atomic.read(self.metrics_file).splitlines() if self.metrics_file.exists() else []
        parsed = [_record(line) for line in lines if line.strip()]
        for record in parsed:
            if record is not None and record["epoch"] > (records[-1]["epoch"] if records else 0):
                records.append(record)
        return records, parsed.count(None)

    def append_metrics(self, record: dict[str, Any]) -> None:
        with self.saving(f"the record of epoch {record['epoch']}"):
            atomic.append(self.metrics_file, _lines([record]))

    def cut_metrics(self, epoch: int) -> list[dict[str, Any]]:
        """Keep and return the records up to `epoch`, those that the checkpoint being resumed has seen."""
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
        """Save a checkpoint of what `Engine.state` returned, and prune the earlier ones."""
        with self.saving(f"the checkpoint of step {state['step']}"):
            path = checkpoint.save(self.checkpoints, model, parameters, optimizer, state)
            self._follow(path, state["best"], keep)

    def complete_save(self, path: Path, best: dict[str, float] | None, keep: int) -> None:
        """Finish the save of the checkpoint being resumed: a kill may have come before links and pruning."""
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
    """Return the content of the run's config.toml; raise ConfigError if `config` belongs to another run."""
    recorded = RunDirectory.of(path).recorded
    _require_as_written(path / "config.toml", recorded)
    before, now = Config(**read_toml(path / "config.toml")).recorded(), config.recorded()
    # Data may have moved, as long as `require` finds the images in them.
    is_fused = recorded.get("plan", {}).get("step") == "fused"  # compiled at build time, whatever --compile says
    may_change = MAY_CHANGE | ({"compile"} if is_fused else set())
    may_change |= {"data", "labels", "layout", "image_size", "crop", "channels"} if "images" in recorded else set()
    for name in sorted({**before, **now}.keys() - may_change):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise ConfigError(
                f"{name}: cannot change on a resume; {path} has {old!r}, got {new!r}. Start anew with it and the "
                f"rest of its settings: --config {path / 'config.toml'} --{name.replace('_', '-')} ... --out ANOTHER; "
                f"--init-from {path} begins with its weights"
            )
    return recorded


def _sealed(settings: bytes) -> bytes:
    """Prepend a line by which a resume notices that the settings are no longer what the run wrote."""
    return f"{SEAL}{hashlib.sha256(settings).hexdigest()}\n".encode() + settings


def _require_as_written(file: Path, recorded: dict[str, Any]) -> None:
    """Raise RunError if the settings were changed or cut; files of an earlier version have no seal to check."""
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
    """Claim the first new directory that no other process has created."""
    paths = _fresh_paths(data)
    require_writable(paths[0])
    for path in paths:
        try:
            return Claim(path, fresh=True)
        except FileExistsError:
            continue
    raise RunError(f"--out: {paths[0]} and {len(paths) - 1} more of its name are taken; expected another directory")


def _fresh_paths(data: str) -> list[Path]:
    """Return names for a run that begins now, the best first."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(data).stem) or "data"
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}"
    return [Path("runs", stamp), *(Path("runs", f"{stamp}-{n}") for n in range(2, 1000))]


def require_writable(path: Path, flag: str = "--out") -> None:
    """Raise RunError, naming the flag, if a directory, which need not exist yet, cannot be written to."""
    for folder in (path, *path.parents):
        if folder.is_symlink() and not folder.exists():
            raise RunError(
                f"{flag}: {folder} is a link to {folder.readlink()}, which is not there; make it, or remove it"
            )
    existing = _existing(path)
    if not existing.is_dir():
        raise RunError(f"{flag}: {existing} is a file, expected a directory")
    try:
        ours = Path(tempfile.mkdtemp(prefix=PROBE, dir=existing))
    except OSError as error:
        raise RunError(f"{flag}: nothing can be written in {existing} ({error.strerror})") from None
    for probe in chain([ours], existing.glob(f"{PROBE}*")):  # also those that killed processes left here
        with suppress(OSError):
            probe.rmdir()


def _existing(path: Path) -> Path:
    """Return the path itself or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _short(value: Any) -> Any:
    """Return a recorded value, of a digest only its beginning."""
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else value


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"


def _record(line: bytes) -> dict[str, Any] | None:
    """Parse a line of metrics.jsonl; return None if it is not a record, whose values are all numbers or null."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(found, dict) and isinstance(found.get("epoch"), int)
    return found if is_one and all(isinstance(value, int | float | None) for value in found.values()) else None


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(strict_json.dumps(record) + "\n" for record in records).encode()
