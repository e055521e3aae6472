"""Where a run's records and pictures go besides metrics.jsonl and pictures/: to TensorBoard, with --log tensorboard."""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vae_fast.errors import RunError


class Tracker(Protocol):
    def epoch(self, record: dict[str, Any]) -> None:
        """Log a record of metrics.jsonl."""

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        """Log PNG files."""


class Nobody:
    """The tracker of --log none."""

    def epoch(self, record: dict[str, Any]) -> None:
        pass

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        pass


class TensorBoard:
    """A writer of event files in `folder`, with scalars by epoch.

    Scalars after `epoch`, which an earlier attempt wrote, no longer count.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        if find_spec("tensorboard") is None:  # fail before an hour of training
            raise RunError("--log tensorboard: it is not installed: pip install 'vae_fast[tensorboard]'")
        self._folder, self._purge_step = str(folder), epoch + 1 if epoch else None

    @cached_property
    def _writer(self) -> Any:
        """Create the writer with the first record, so that a run that does not begin leaves nothing behind."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._folder, purge_step=self._purge_step)

    def epoch(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            part, _, quantity = name.partition("_")
            if name not in ("epoch", "step") and value is not None:
                tag = f"{quantity}/{part}" if part in ("train", "valid", "test") else name
                self._writer.add_scalar(tag, value, record["epoch"])
        self._writer.flush()

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        import numpy as np
        from PIL import Image

        for file in files:
            with Image.open(file) as picture:
                self._writer.add_image(file.stem, np.asarray(picture.convert("RGB")), epoch, dataformats="HWC")
        self._writer.close()


def tracker(log: str, folder: Path, epoch: int) -> Tracker:
    """Return the tracker that `--log` names; raise RunError if its package is missing. epoch: the number completed."""
    return TensorBoard(folder, epoch) if log == "tensorboard" else Nobody()
