"""The images of one run: read, binarized if asked for, and divided into training, validation and test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vae_fast.config import Config
from vae_fast.data.dataset import DataSet
from vae_fast.data.file_images import Stored
from vae_fast.data.images import Pixels, sha256
from vae_fast.data.placement import FeedName
from vae_fast.data.standardization import Standardization, measure
from vae_fast.data.transforms import TEST_SAMPLE, TRAIN_SAMPLE, VALID_SAMPLE, pixel_kind, treat
from vae_fast.errors import DataError


@dataclass(frozen=True, eq=False)
class Splits:
    """Images [N, C, H, W] on the host, uint8 or float32; a part without images is None.

    With the feed "stream" they are not tensors but `Stored`, left in their file. `labels`, int64 [N], are keyed by the
    name of their part; parts without labels are absent. `label_names` are the names of the classes, if they have any.
    `classes` is the number of classes that a conditional model is trained on, 0 for any other. `standardization` is
    what a table is to be standardized by; the images here are not.
    """

    train: Pixels
    valid: Pixels | None
    test: Pixels | None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    classes: int = 0
    standardization: Standardization | None = None

    @property
    def image_shape(self) -> torch.Size:
        shape: torch.Size = self.train.shape[1:]
        return shape

    def fingerprint(self) -> dict[str, Any]:
        """Return what config.toml records about the images, so that a resume notices if they have changed."""
        count = [len(part) for part in self._parts]
        named = {"label_names": list(self.label_names)} if self.label_names else {}
        conditions = {}
        if self.classes:
            labels = [self.labels[part].view(-1, 1) for part in sorted(self.labels)]
            conditions = {"classes": self.classes, "labels_sha256": sha256(labels)}
        return {"count": count, "shape": list(self.image_shape), "sha256": sha256(self._parts), **conditions, **named}

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    @property
    def _parts(self) -> list[Pixels]:
        return [part for part in (self.train, self.valid, self.test) if part is not None]


def prepare(config: Config, found: DataSet, feed: FeedName, say: Callable[[str], None] = lambda line: None) -> Splits:
    """Prepare the images that a run trains and is evaluated on.

    With dynamic binarization the held-out parts are one static sample.

    Args:
        config: the settings of the run.
        found: the data set that they name.
        feed: where the images will be read from; see `choose_feed`.
        say: receives one line that describes the images.
    """
    train_images, test_images = found.splits(
        config.test_fraction, in_file=feed == "stream", any_values=config.standardize
    )
    train, valid = train_images.pixels, None
    labels = {"train": train_images.labels, "test": None if test_images is None else test_images.labels}
    if config.valid:
        if config.valid >= len(train):
            raise DataError(f"valid: expected fewer than the {len(train)} training images, got {config.valid}")
        train, valid = train[: -config.valid], train[-config.valid :]
        if (of_all := train_images.labels) is not None:
            labels |= {"train": of_all[: -config.valid], "valid": of_all[-config.valid :]}
    if config.likelihood == "discretized_logistic" and train.dtype != torch.uint8:
        raise DataError(
            f"likelihood: expected pixels in levels of 1/255 with discretized_logistic, got {train_images.name}, "
            f"{train_images.note}; take gaussian"
        )
    held_out = "static" if config.binarize == "dynamic" else config.binarize
    splits = Splits(
        train if config.binarize == "dynamic" else _treated(train, config.binarize, TRAIN_SAMPLE),
        None if valid is None else _treated(valid, held_out, VALID_SAMPLE),
        None if test_images is None else _treated(test_images.pixels, held_out, TEST_SAMPLE),
        {part: some for part, some in labels.items() if some is not None},
        train_images.label_names,
        found.classes if config.conditional else 0,
        measure(train) if config.standardize else None,
    )
    if splits.classes:
        _say_untrained(splits, say)
    parts = {"training": splits.train, "validation": splits.valid, "test": splits.test}
    called = {"training": found.aliases.get("train"), "test": found.aliases.get("test")}
    counts = ", ".join(
        f"{len(part):,} {name}{f' ({called[name]})' if called.get(name) else ''}"
        for name, part in parts.items()
        if part is not None
    )
    shape = " x ".join(map(str, splits.image_shape))
    for note in found.notes:
        say(f"data: {note}")
    kept = train_images.note if config.binarize == "none" else "uint8"
    kind = pixel_kind(config.treatment, splits.image_shape)
    say(f"data: {train_images.name}, {shape}, {counts} images; {kind}, {kept}")
    return splits


def _say_untrained(splits: Splits, say: Callable[[str], None]) -> None:
    """Raise DataError if a class occurs only where images are held out; say which classes have no image at all."""
    trained = set(splits.labels["train"].unique().tolist())
    for part, labels in splits.labels.items():
        unknown = sorted(set(labels.unique().tolist()) - trained)
        if unknown:
            shown = ", ".join(_name(splits, label) for label in unknown[:4])
            raise DataError(
                f"conditional: expected training images of every class of the {part} images, there are none of "
                f"{shown}; mix the order of the images, or give a test part of its own"
            )
    missing = [label for label in range(splits.classes) if label not in trained]
    if missing:
        say(f"labels: no images of {', '.join(map(str, missing[:8]))}{' ...' if len(missing) > 8 else ''}")


def _name(splits: Splits, label: int) -> str:
    return splits.label_names[label] if splits.label_names else str(label)


def copies_all(config: Config) -> str | None:
    """Return why the settings need all images in memory, and what to do about it; None if they do not."""
    if config.standardize:
        return "--standardize makes a copy of all of them"
    if config.binarize in ("none", "dynamic"):
        return None
    return f"--binarize {config.binarize} makes a copy of all of them; take none or dynamic"


def _treated(images: Pixels, treatment: str, sample: int) -> Pixels:
    if treatment == "none":
        return images
    if isinstance(images, Stored):
        return images.treated(lambda pixels, first: treat(pixels, treatment, sample, first))
    assert isinstance(images, Tensor)
    return treat(images.flatten(1), treatment, sample).view_as(images)
