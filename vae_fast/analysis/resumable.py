"""Long-running estimates, one per image, kept on disk so that the work continues where it was interrupted."""

import hashlib
import io
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vae_fast.artifacts import atomic
from vae_fast.data.images import Pixels, pieces

SAVE_EVERY = 5.0  # seconds


class Estimates:
    """Estimates for the first n images, in order; `values` is float64 [n].

    `seconds` is the time that they have taken, including those loaded from the file.

    Args:
        path: the file, or None to keep nothing. A file with estimates of something else is started over. The file stays
            when all estimates are complete, until the caller has used them.
        model, images, samples, seed, labels: what the estimates depend on; images: [N, D]; labels: [N], or None.
    """

    def __init__(
        self,
        path: Path | None,
        model: nn.Module,
        images: Pixels,
        samples: int,
        seed: int,
        labels: Tensor | None = None,
    ) -> None:
        self._path = path
        self._of = _digest(model, images, samples, seed, labels) if path else ""
        self.values, self._before = self._read()
        self._began = self._saved = time.monotonic()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def are_kept(self) -> bool:
        """Return whether the work can be continued from the file."""
        return self._path is not None

    def append(self, batch: Tensor) -> None:
        self.values = torch.cat([self.values, batch])
        if time.monotonic() - self._saved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        if self._path is None:
            return
        content = io.BytesIO()
        np.savez(content, of=self._of, values=self.values.numpy(), seconds=self.seconds)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic.replace(self._path, content.getvalue())
        except OSError as error:  # the estimation itself continues
            print(f"warning: {self._path}: {error.strerror}: an interruption would lose the estimates", file=sys.stderr)
            self._path = None
        self._saved = time.monotonic()

    def _read(self) -> tuple[Tensor, float]:
        if self._path is not None and self._path.is_file():
            try:
                with np.load(io.BytesIO(self._path.read_bytes())) as file:
                    if file["of"] == self._of:
                        return torch.from_numpy(file["values"]), float(file["seconds"])
            except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile):
                pass  # not a file of ours, or a damaged one
        return torch.empty(0, dtype=torch.float64), 0.0


def _digest(model: nn.Module, images: Pixels, samples: int, seed: int, labels: Tensor | None) -> str:
    digest = hashlib.sha256(repr((samples, seed, tuple(images.shape))).encode())
    digest.update(repr(getattr(model, "source", None)).encode())
    for tensor in (*model.state_dict().values(), *(() if labels is None else (labels,))):
        digest.update(tensor.cpu().contiguous().numpy().data)
    for piece in pieces(images):
        digest.update(piece.to("cpu").contiguous().numpy().data)
    return digest.hexdigest()
