"""Where a command's results go, and how pictures are saved there."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vae_fast.analysis.trained import Trained
from vae_fast.artifacts import atomic
from vae_fast.artifacts.directory import require_writable
from vae_fast.errors import ConfigError, RunError
from vae_fast.reporting import pictures

MOST_LISTED = 12  # numbers in a file name
DRAWN = (
    "path of the picture and the array, without .png and .npy (default: in RUN/pictures/step-N/, or EXPORT/pictures/)"
)


def place(trained: Trained, out: Path | None, *names: str) -> Path:
    """Return where a result goes: to `out`, or into the run or export; raise errors now, not after the work."""
    found = out or trained.place(*names)
    if found is None:
        raise ConfigError(f"--out: {trained.source} is no run or export that could keep the result; expected a path")
    return _checked(found)


def file_place(trained: Trained, out: Path | None, *names: str) -> Path:
    """Return where a file goes, after making its folder and removing the half-written files of killed commands."""
    return file(place(trained, out, *names))


def file(path: Path, flag: str = "--out") -> Path:
    """Return the path of a file to write, after making its folder; raise RunError, naming the flag, if it cannot be."""
    found = _checked(path, flag)
    if found.is_dir():
        raise RunError(f"{flag}: expected a file, {found} is a directory")
    found.parent.mkdir(parents=True, exist_ok=True)
    atomic.sweep(found.parent)
    return found


def _checked(path: Path, flag: str = "--out") -> Path:
    if path.is_symlink() and not path.exists():
        raise RunError(f"{flag}: {path} is a link to {path.readlink()}, which is not there")
    require_writable(path.parent, flag)
    return path


def listed(chosen: Sequence[int]) -> str:
    """Return the numbers as part of a file name, so that another choice of them gets another file."""
    if list(chosen) == list(range(len(chosen))):
        return f"first{len(chosen)}"
    if len(chosen) <= MOST_LISTED:
        return "-".join(map(str, chosen))
    return f"{len(chosen)}of-{hashlib.sha256(repr(list(chosen)).encode()).hexdigest()[:8]}"


def save_pictures(
    trained: Trained,
    out: Path | None,
    name: str,
    rows: Sequence[Tensor],
    array: Tensor,
    captions: Sequence[Sequence[str]] | None = None,
) -> None:
    """Write rows of images as a PNG grid and `array` as .npy next to it.

    They go to `out`, to the run's pictures/step-N/, or to the export's pictures/.
    """
    stem = file_place(trained, out, "pictures", *([trained.source.name] if trained.run else []), name)
    if stem.suffix in (".png", ".npy"):
        stem = stem.with_suffix("")
    png, npy = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "npy"))
    picture, values = io.BytesIO(), io.BytesIO()
    pictures.save_grid([row.view(-1, *trained.image_shape) for row in rows], picture, captions, trained.model)
    np.save(values, array.numpy())
    atomic.replace(png, picture.getvalue())
    atomic.replace(npy, values.getvalue())
    remark = pictures.drawn_as(trained.image_shape[0])
    print(f"picture  {png}{remark and f'  ({remark})'}\narray    {npy}  {list(array.shape)}")
