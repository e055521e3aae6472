"""A trained model, and the images to look at it with: what the commands share that work on a run."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_fast import checkpoint
from vae_fast.config import Config, read_toml
from vae_fast.data import DataSet
from vae_fast.errors import ConfigError, DataError, RunError
from vae_fast.memory import choose_feed
from vae_fast.model import VAE
from vae_fast.pixels import TREATMENTS
from vae_fast.plan import choose_device
from vae_fast.run_directory import RunDirectory
from vae_fast.splits import Splits, prepare
from vae_fast.stored import Pixels

PARTS = ("test", "train", "valid")


@dataclass(frozen=True, eq=False)
class Selection:
    """Images [N, C, H, W] on the host, and their labels, int64 [N], where there are any."""

    pixels: Pixels
    labels: Tensor | None
    data: str
    part: str
    binarize: str

    def pick(self, indices: Sequence[int]) -> Tensor:
        """Those images, [n, C, H, W], as they are; DataError for one that is not there."""
        for index in indices:
            if not 0 <= index < len(self.pixels):
                raise DataError(f"index: expected less than the {len(self.pixels)} {self.part} images, got {index}")
        return torch.cat([self.pixels[index : index + 1].to("cpu") for index in indices])

    def label(self, index: int) -> str:
        """Empty where there is none."""
        return "" if self.labels is None else str(int(self.labels[index]))

    @property
    def slug(self) -> str:
        """For the names of files."""
        return f"{self.data}-{self.part}-{self.binarize}"

    @property
    def title(self) -> str:
        return f"{self.data}, {len(self.pixels):,} {self.part} images, {TREATMENTS[self.binarize]}"


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and, if it lies in a run directory, the run.

    Attributes:
        model: in eval mode, on the device that was asked for, whichever it was trained on.
        source: the checkpoint directory or file that it was read from.
        run: the run's directory, or None.
        config: the run's settings, or None.
    """

    model: VAE
    source: Path
    run: Path | None
    config: Config | None

    @classmethod
    def open(cls, path: str | Path, device: str = "auto") -> "Trained":
        """Of a run directory (its latest valid checkpoint), a checkpoint, or an export.

        Raises RunError for what cannot be read or a device that is not there, ConfigError for one that no machine has.
        """
        if (Path(path) / "checkpoints").is_dir() and not (Path(path) / "config.toml").is_file():
            raise RunError(
                f"{path}: its config.toml is missing, which says what the run is; name one of its checkpoints"
            )
        source = checkpoint.locate(path, lambda line: print(f"warning: {line}", file=sys.stderr))
        model = checkpoint.load(source).to(choose_device(device)[0])
        if not all(p.isfinite().all() for p in model.parameters()):
            raise RunError(f"{source}: not all parameters of the model are finite")
        run = Path(path) if (Path(path) / "config.toml").is_file() else _run_of(source)
        return cls(model, source, run, None if run is None else Config(**read_toml(run / "config.toml")))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W), as pictures want it."""
        shape = self.model.input_shape
        return (1,) * (3 - len(shape)) + shape

    @property
    def seed(self) -> int:
        """The run's: with it the noise is that of its test loss."""
        return self.config.seed if self.config else 0

    def place(self, *names: str) -> Path | None:
        """Where in the run's directory something is kept; None for a model without a run."""
        return self.run.joinpath(*names) if self.run else None

    @property
    def title(self) -> str:
        """Names, not paths: it goes into what may be given away."""
        return f"{self.run.absolute().name}, {self.source.name}" if self.run else self.source.absolute().name

    @property
    def recorded(self) -> dict[str, Any]:
        """The tables of the run's config.toml; empty without a run."""
        return RunDirectory.of(self.run).recorded if self.run else {}

    def records(self) -> list[dict[str, Any]]:
        """What the run recorded of its epochs, up to the last one that this checkpoint has completed."""
        if self.run is None:
            return []
        completed = checkpoint.read(self.source).state["epoch"]
        return [record for record in RunDirectory.of(self.run).metrics() if record["epoch"] <= completed]

    def images(self, part: str = "test", **settings: Any) -> Selection:
        """The images of one part of the run's data set, treated as in the run, but for `settings`.

        Args:
            part: "test", "train" or "valid" (what --valid held out).
            settings: data, data_root and binarize of `Config`, where they are to be others; None leaves them.

        Raises DataError for images that cannot be had or have another shape, ConfigError where no run says which,
        RunError where the run's are no longer those that it was trained on.
        """
        if part not in PARTS:
            raise ValueError(f"part: expected one of {', '.join(PARTS)}, got {part!r}")
        given = {name: value for name, value in settings.items() if value is not None}
        config = self._settings(given)
        found = DataSet.open(config.data, config.data_root)
        feed, _ = choose_feed("auto", found.nbytes, torch.device("cpu"), obstacle=found.obstacle)
        splits = prepare(config, found, feed)
        if not {"data", "binarize"} & given.keys():
            self._require(splits, feed)
        if config.binarize == "dynamic":  # what is looked at is one sample
            config = replace(config, binarize="static")
            splits = prepare(config, found, feed)
        pixels = {"test": splits.test, "train": splits.train, "valid": splits.valid}[part]
        if pixels is None:
            has = ", ".join(name for name in PARTS if getattr(splits, name) is not None)
            raise DataError(f"split: {found.name} has no {part} images here; expected one of {has}")
        if splits.image_shape.numel() != self.model.pixels:
            raise DataError(
                f"data: {found.name} has images of {splits.image_shape.numel()} pixels "
                f"({' x '.join(map(str, splits.image_shape))}), {self.source} takes {self.model.pixels}"
            )
        return Selection(pixels, splits.labels.get(part), found.name, part, config.binarize)

    def _settings(self, given: dict[str, Any]) -> Config:
        """The run's, but for what is given."""
        if self.config is None:
            if "data" in given:
                return Config(**given)
            raise ConfigError(f"data: {self.source} belongs to no run that says which images; expected a name or path")
        config = replace(self.config, **given)
        return config if config.data == self.config.data else replace(config, valid=0)  # it counted the run's images

    def _require(self, splits: Splits, feed: str) -> None:
        """That these are the images that the run was trained on; of floats that a file may keep otherwise, so many."""
        if self.run is not None:
            directory = RunDirectory.of(self.run)
            in_memory = "stream" not in (feed, directory.recorded["plan"]["feed"])
            directory.require(splits.fingerprint() if in_memory else splits.dimensions())


def _run_of(source: Path) -> Path | None:
    """The run in whose checkpoints/ a checkpoint lies."""
    folder = source.absolute().parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.toml").is_file() else None
