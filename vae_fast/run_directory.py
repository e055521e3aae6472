"""A run's files: config.toml, metrics.jsonl, checkpoints/ and pictures/ in one directory."""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from vae_fast import checkpoint, durable, strict_json
from vae_fast.config import Config, read_toml, resumed_directory
from vae_fast.errors import ConfigError, RunError
from vae_fast.model import VAE

# On a resume; all else is what the run is.
MAY_CHANGE = {"epochs", "data_root", "device", "feed", "keep", "log", "nvtx"}


class RunDirectory:
    """One run on the disk.

    Attributes:
        path: the directory itself.
        recorded: config.toml's tables, empty before `begin`.
    """

    def __init__(self, path: Path, recorded: dict[str, Any]) -> None:
        self.path, self.recorded = path, recorded

    @classmethod
    def of(cls, path: Path) -> "RunDirectory":
        """Of a run that is there; its config.toml has been read before."""
        return cls(path, tomllib.loads((path / "config.toml").read_text(encoding="utf-8")))

    @classmethod
    def open(cls, config: Config) -> "RunDirectory":
        """The directory to start or go on in, unwritten. RunError if it holds a run that is not to resume."""
        if config.resume is not None:
            if config.resume != "auto" and config.out is not None:
                raise ConfigError(f"--out: a run resumed by its directory stays there, got {config.out!r} as well")
            directory = resumed_directory(config.resume, config.out)
            if directory is not None:
                return cls._resumed(directory, config)
        path = Path(config.out) if config.out is not None else _fresh_path(config.data)
        held = next((name for name in ("config.toml", "metrics.jsonl", "checkpoints") if (path / name).exists()), None)
        if held is not None:
            raise RunError(f"--out: {path} already holds a run ({held}); continue it with --resume {path}")
        require_writable(path)
        return cls(path, {})

    @classmethod
    def _resumed(cls, path: Path, config: Config) -> "RunDirectory":
        before, now = Config(**read_toml(path / "config.toml")).recorded(), config.recorded()
        for name in sorted({**before, **now}.keys() - MAY_CHANGE):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise ConfigError(f"{name}: cannot change on a resume; {path} has {old!r}, got {new!r}")
        require_writable(path)
        return cls.of(path)

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
        durable.replace(self.path / "config.toml", tomli_w.dumps(self.recorded).encode())

    def require(self, images: dict[str, Any]) -> None:
        """That they are the images of the run: RunError where what is known of them differs."""
        recorded = self.recorded.get("images", images)
        differences = [f"{k} {recorded.get(k)} then, {v} now" for k, v in images.items() if recorded.get(k) != v]
        if differences:
            data = self.recorded.get("data")
            raise RunError(f"data: {data} no longer has the images of {self.path}: {'; '.join(differences)}")

    def metrics(self) -> list[dict[str, Any]]:
        """The records of the epochs so far; a last line that a killed process left incomplete is read past."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def append_metrics(self, record: dict[str, Any]) -> None:
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(strict_json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def cut_metrics(self, epoch: int) -> list[dict[str, Any]]:
        """Keep the records up to `epoch`, those that the checkpoint resumed from has seen."""
        kept = [record for record in self.metrics() if record["epoch"] <= epoch]
        if self.metrics_file.exists():
            durable.replace(self.metrics_file, _lines(kept))
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
        path = checkpoint.save(self.checkpoints, model, parameters, optimizer, state)
        self.point_to_best(state["best"])
        checkpoint.prune(path, keep)

    def point_to_best(self, best: dict[str, float] | None) -> None:
        """Make the link `best` agree with the state, also where a process was killed before it had done so."""
        if best is not None:
            target = checkpoint.directory(self.checkpoints, int(best["step"]))
            if target.is_dir():
                checkpoint.point(self.checkpoints / "best", target)


def _fresh_path(data: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(data).stem) or "data"
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}"
    candidates = [Path("runs", stamp), *(Path("runs", f"{stamp}-{n}") for n in range(2, 100))]
    return next(path for path in candidates if not path.exists())


def require_writable(path: Path) -> None:
    """That a directory, which need not be there yet, can be written to; RunError else."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RunError(f"--out: {existing} is a file, expected a directory")
    try:
        tempfile.TemporaryDirectory(prefix=".vae_fast-", dir=existing).cleanup()
    except OSError as error:
        raise RunError(f"--out: nothing can be written in {existing} ({error.strerror})") from None


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(strict_json.dumps(record) + "\n" for record in records).encode()
