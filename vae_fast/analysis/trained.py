"""A trained model and images to examine it with: the common part of the commands that work on a run."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vae_fast.artifacts import checkpoint
from vae_fast.artifacts.directory import RunDirectory
from vae_fast.config import IN_MEMORY, Config, read_toml
from vae_fast.data.dataset import DataSet
from vae_fast.data.image_files import detect
from vae_fast.data.images import Pixels, sha256
from vae_fast.data.placement import FeedName, choose_feed
from vae_fast.data.splits import Splits, prepare
from vae_fast.data.transforms import pixel_kind
from vae_fast.errors import ConfigError, DataError, RunError
from vae_fast.models.vae import VAE
from vae_fast.runtime import pytorch_state
from vae_fast.runtime.plan import choose_device

PARTS = ("test", "train", "valid")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Selection:
    """Images [N, C, H, W] on the host, and their labels, int64 [N], if there are any.

    part: "test", "train", "valid", or "all" of a set that is not divided.
    is_runs_own: whether they belong to the run's own data; files made from other images carry their fingerprint.
    label_names: the names of the classes, if they have any.
    conditions: the labels if the model is given them with each image, else None.
    """

    pixels: Pixels
    labels: Tensor | None
    data: str
    part: str
    binarize: str
    is_runs_own: bool
    label_names: tuple[str, ...] = ()
    conditions: Tensor | None = None

    def pick(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, [n, C, H, W], unchanged; raise DataError for an index out of range."""
        for index in indices:
            if not 0 <= index < len(self.pixels):
                raise DataError(f"index: expected less than the {self._counted}, got {index}")
        return torch.cat([self.pixels[index : index + 1].to("cpu") for index in indices])

    def first(self, count: int) -> "Selection":
        """Return the first `count` images; raise DataError if there are fewer."""
        if not 1 <= count <= len(self.pixels):
            raise DataError(f"count: expected 1 to {len(self.pixels):,}, the {self.part} images, got {count:,}")
        labels, conditions = (None if y is None else y[:count] for y in (self.labels, self.conditions))
        return replace(self, pixels=self.pixels[:count], labels=labels, conditions=conditions)

    def at(self, indices: Sequence[int]) -> "Selection":
        """Return the images at `indices`, in that order; raise DataError for an index out of range."""
        pixels = self.pick(indices)
        labels, conditions = (None if y is None else y[list(indices)] for y in (self.labels, self.conditions))
        return replace(self, pixels=pixels, labels=labels, conditions=conditions)

    def as_seen(self, model: VAE) -> Pixels:
        """Return the images, [N, D], as the model's network sees them: standardized if they are rows of a table."""
        flat = self.pixels.flatten(1)
        return model.standardize(flat.to("cpu").to(model.offset.device)) if model.offset is not None else flat

    def conditions_of(self, indices: Sequence[int]) -> Tensor | None:
        """Return the conditions of the images at `indices`, int64 [n], if there are any."""
        return None if self.conditions is None else self.conditions[list(indices)]

    def label(self, index: int) -> str:
        """Return the label of an image as text, empty if there is none."""
        if self.labels is None:
            return ""
        label = int(self.labels[index])
        return self.label_names[label] if self.label_names else str(label)

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of the pixels in hexadecimal."""
        return sha256([self.pixels])

    @property
    def slug(self) -> str:
        """Return a short name of the images for file names."""
        return f"{self.data}{self._fingerprint and f'-{self._fingerprint}'}-{self.part}-{self.binarize}"

    @property
    def suffix(self) -> str:
        """Return the suffix for file names: empty for the run's own images, their slug for others."""
        return "" if self.is_runs_own else f"-{self.slug}"

    @property
    def title(self) -> str:
        of = self._fingerprint and f" (SHA-256 {self._fingerprint}...)"
        return f"{self.data}{of}, {self._counted}, {self.treatment}"

    @property
    def treatment(self) -> str:
        return pixel_kind(self.binarize, self.pixels.shape[1:])

    @property
    def _counted(self) -> str:
        return f"{len(self.pixels):,} {'' if self.part == 'all' else f'{self.part} '}images"

    @property
    def _fingerprint(self) -> str:
        return "" if self.is_runs_own else self.sha256[:8]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and, if it is part of a run directory, the run.

    Attributes:
        model: in eval mode, on the requested device, whichever it was trained on.
        source: the checkpoint directory or file from which it was read.
        run: the run's directory, or None.
        config: the run's settings, or None.
        completed: the number of epochs that the run had completed when it saved this checkpoint.
        exported: of an export, what its export.json says, else None.
    """

    model: VAE
    source: Path
    run: Path | None
    config: Config | None
    completed: int = 0
    exported: Mapping[str, Any] | None = None

    @classmethod
    @pytorch_state.as_it_starts()
    def open(cls, path: str | Path, device: str = "auto") -> "Trained":
        """Open a run directory (its latest valid checkpoint), a checkpoint, or an export.

        Raises RunError for a model that cannot be read or a device that this machine lacks, and ConfigError for a
        device that no machine has.
        """
        path = Path(path).expanduser()
        if (path / "checkpoints").is_dir() and not (path / "config.toml").is_file():
            raise RunError(
                f"{path}: its config.toml is missing, which says what the run is; name one of its checkpoints"
            )
        model, source, state = checkpoint.opened(path, lambda line: print(f"warning: {line}", file=sys.stderr))
        model = model.to(choose_device(device)[0])
        if not all(t.isfinite().all() for t in model.state_dict().values()):
            raise RunError(f"{source}: not all parameters and buffers of the model are finite")
        run = path if (path / "config.toml").is_file() else _run_of(source)
        config = None if run is None else Config(**read_toml(run / "config.toml"))
        exported = _exported(source) if run is None else None
        return cls(model, source, run, config, state["epoch"] if state else 0, exported)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return the shape (C, H, W), as pictures need it."""
        shape = self.model.input_shape
        return (1,) * (3 - len(shape)) + shape

    @property
    def seed(self) -> int:
        """Return the seed of the run, which reproduces the noise of its test loss; 0 if it is not known."""
        return self.config.seed if self.config else self._of_export("seed", int, 0)

    @property
    def binarize(self) -> str:
        """Return the treatment of the run's pixels, one of `Config.binarize`; "none" if it is not known."""
        return self.config.binarize if self.config else self._of_export("binarize", str, "none")

    @property
    def label_names(self) -> list[str]:
        """Return the names of the classes of the run's images, empty if there are none or they are not known."""
        if self.exported is not None:
            return self._of_export("label_names", list, [])
        names: list[str] = self.recorded.get("images", {}).get("label_names", [])
        return names

    def place(self, *names: str) -> Path | None:
        """Return a path inside the directory of the run or export; None for a model that belongs to neither."""
        folder = self.source if self.exported is not None else self.run
        return folder.joinpath(*names) if folder else None

    def _of_export(self, name: str, kind: type[T], default: T) -> T:
        """Return what export.json says of the run; exports of an earlier version say nothing."""
        value = (self.exported or {}).get(name, default)
        if not isinstance(value, kind):
            raise RunError(f"{self.source / checkpoint.EXPORT}: {name}: expected {kind.__name__}, got {value!r}")
        return value

    @property
    def title(self) -> str:
        """Return a title of names, not paths, because it appears in files that may be shared."""
        return f"{self.run.absolute().name}, {self.source.name}" if self.run else self.source.absolute().name

    @property
    def recorded(self) -> dict[str, Any]:
        """Return the tables of the run's config.toml, empty without a run."""
        return RunDirectory.of(self.run).recorded if self.run else {}

    def records(self) -> list[dict[str, Any]]:
        """Return the run's records of its epochs, up to the last one that this checkpoint has completed."""
        if self.run is None:
            return []
        return [record for record in RunDirectory.of(self.run).metrics() if record["epoch"] <= self.completed]

    @pytorch_state.as_it_starts()
    def images(self, part: str = "test", *, in_memory: Mapping[str, Any] | None = None, **settings: Any) -> Selection:
        """Return the images of one part of the run's data set, treated as in the run except for `settings`.

        Args:
            part: "test", "train" or "valid" (what --valid held out). Other data in a single array are taken whole.
            in_memory: images that are not in a file: the arguments images, labels, test_images and test_labels of
                `vae_fast.fit`, by their names.
            settings: data, data_root, labels, layout and binarize of `Config`, to override those of the run; None
                overrides nothing. Data that contain the run's images count as the run's, wherever they are stored.

        Raises DataError if the images cannot be read or have another shape, ConfigError if no run names them, and
        RunError if the run's images are no longer those that it was trained on.
        """
        if part not in PARTS:
            raise ValueError(f"part: expected one of {', '.join(PARTS)}, got {part!r}")
        given = {name: value for name, value in settings.items() if value is not None}
        if in_memory is not None:
            given["data"] = IN_MEMORY
        if "data" in given:
            of_files: dict[str, Any] = {"image_size": None, "crop": "none", "channels": None}
            if given["data"] != IN_MEMORY and detect.container_of(Path(given["data"]).expanduser()) is not None:
                channels, *size = self.image_shape  # image files become what the model takes
                of_files |= {"image_size": tuple(size), "channels": channels if channels in (1, 3) else None}
            given = {"labels": None, "layout": "auto", **of_files, **given}  # the run's describe the run's own file
        config = self._settings(given)
        found = DataSet.of(config) if in_memory is None else DataSet.in_memory(in_memory, config.layout)
        feed, _ = choose_feed("auto", found.nbytes, torch.device("cpu"), obstacle=found.obstacle)
        is_own = self.config is not None and ("data" not in given or self._holds_the_runs(found, feed))
        if not is_own:  # nothing is held out of other data
            config = replace(config, valid=0, test_fraction=0.0)
        splits = prepare(config, found, feed)
        if is_own and not given.keys() & {"data", "binarize"}:
            self._require(splits)
        if config.binarize == "dynamic":  # one fixed sample is shown
            config = replace(config, binarize="static")
            splits = prepare(config, found, feed)
        is_whole = not is_own and part == "test" and splits.test is None
        name = "train" if is_whole else part
        pixels = {"test": splits.test, "train": splits.train, "valid": splits.valid}[name]
        if pixels is None:
            has = ", ".join(name for name in PARTS if getattr(splits, name) is not None)
            raise DataError(f"split: {found.name} has no {part} images here; expected one of {has}")
        if splits.image_shape.numel() != self.model.pixels:
            raise DataError(
                f"data: {found.name} has images of {splits.image_shape.numel()} pixels "
                f"({' x '.join(map(str, splits.image_shape))}), {self.source} takes {self.model.pixels}"
            )
        shown = "all" if is_whole else part
        labels, names = splits.labels.get(name), splits.label_names
        conditions = self._conditions(labels, names, found.name) if self.model.classes else None
        return Selection(pixels, labels, found.name, shown, config.treatment, is_own, names, conditions)

    def _conditions(self, labels: Tensor | None, names: tuple[str, ...], name: str) -> Tensor:
        """Return the labels as classes of the model, those with names by their names."""
        if labels is None:
            raise DataError(f"labels: {self.source} is conditional, expected a label for each image; {name} has none")
        known = self.label_names
        if known and names and list(names) != known:
            unknown = [each for each in names if each not in known]
            if unknown:
                raise DataError(f"labels: {self.source} has classes {', '.join(known)}; {name} has {unknown[0]!r}")
            labels = torch.tensor([known.index(each) for each in names])[labels]
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= self.model.classes:
            most = self.model.classes - 1
            raise DataError(f"labels: {self.source} has classes 0 to {most}, {name} has labels of {low} to {high}")
        return labels

    def class_of(self, label: str | int) -> int:
        """Return the class of a label, an index or a name; raise ConfigError if the model has no such class."""
        count, names = self.model.classes, self.label_names
        if not count:
            raise ConfigError(f"label: expected none, {self.source} is not conditional; got {label}")
        if isinstance(label, str) and label in names:
            return int(names.index(label))
        if str(label).isdecimal() and int(label) < count:
            return int(label)
        known = f" or one of {', '.join(names)}" if names else ""
        raise ConfigError(f"label: expected 0 to {count - 1}{known}, got {label}")

    def _settings(self, given: dict[str, Any]) -> Config:
        """Return the settings of the run, except for those given."""
        if self.config is None:
            if "data" in given:
                table: dict[str, Any] = (
                    {"standardize": True, "likelihood": "gaussian"} if self.model.is_standardized else {}
                )
                return Config(**{"binarize": self.binarize, **given}, **table)
            raise ConfigError(
                f"data: {self.source} belongs to no run that names its images; expected --data NAME or PATH"
            )
        return replace(self.config, **given)

    def _holds_the_runs(self, found: DataSet, feed: FeedName) -> bool:
        """Return whether these are the images that the run was trained on, wherever they are now."""
        recorded = self.recorded.get("images", {})
        count = sum(len(source.array) for source in found.parts.values())
        if self.config is None or count != sum(recorded.get("count", ())):
            return False  # no need to read the pixels
        try:
            return bool(prepare(self.config, found, feed).fingerprint() == recorded)
        except DataError:  # these images cannot be split as the run splits its own
            return False

    def _require(self, splits: Splits) -> None:
        """Raise RunError unless these are the images that the run was trained on."""
        if self.run is not None:
            RunDirectory.of(self.run).require(splits.fingerprint())


def _run_of(source: Path) -> Path | None:
    """Return the run directory whose checkpoints/ contains `source`, or None."""
    folder = source.absolute().parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.toml").is_file() else None


def _exported(source: Path) -> dict[str, Any] | None:
    """Return what the export.json of a directory says, or None if there is none."""
    file = source / checkpoint.EXPORT
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: not readable ({getattr(error, 'strerror', None) or error})") from None
    return found if isinstance(found, dict) else {}
