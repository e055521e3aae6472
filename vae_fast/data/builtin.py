"""The data sets known by name: digits is embedded; mnist and fashion-mnist are found on this machine or downloaded.

Both of the latter, and other sets too, consist of four IDX files with the same names, so files are recognised by the
SHA-256 of their unpacked content, which does not depend on how they were compressed.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_fast.config import CATALOGUE
from vae_fast.data.arrays import readers
from vae_fast.data.arrays.readers import IDX_NAMES, Source
from vae_fast.data.download import Remote, download
from vae_fast.errors import DataError

_DIGITS = Path(__file__).with_name("assets") / "digits.npz"
_SIZES = {"train": 47_040_016, "train_labels": 60_008, "test": 7_840_016, "test_labels": 10_008}


@dataclass(frozen=True)
class Known:
    """The SHA-256 of the four unpacked files, mirrors that offer them gzipped, and where a system may keep them."""

    sha256: Mapping[str, str]
    mirrors: tuple[str, ...]
    folders: tuple[Path, ...] = ()


_KNOWN = {
    "mnist": Known(
        sha256={
            "train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": Known(
        sha256={
            "train": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train_labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "test": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        folders=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
    ),
}
assert set(CATALOGUE) == {"digits", *_KNOWN}
_MNIST_LICENCE = "Creative Commons Attribution-ShareAlike 3.0 (Yann LeCun, Corinna Cortes, Christopher J. C. Burges)"
LICENCES = {"digits": _MNIST_LICENCE, "mnist": _MNIST_LICENCE, "fashion-mnist": "MIT (Zalando SE)"}


def read_known(
    name: str, root: str | os.PathLike[str] | None = None, *, mirrors: Sequence[str] | None = None
) -> dict[str, Source]:
    """Return the arrays, uint8 [N, 28, 28] and [N], of the set called `name`, one of `config.CATALOGUE`.

    mnist and fashion-mnist are looked for in `root`, then in the folder that the environment variable VAE_FAST_DATA
    names, in the user's cache and in the system's folders; in the first three both as <place>/<name> and as <place>.
    If none has the set, it is downloaded into the cache. `mirrors` replaces the usual ones.

    Raises `DataError` if `root` is not a folder, if files are damaged or unknown, or if no mirror delivers.
    """
    found = find_known(name, root)
    if found is not None:
        return found
    known, folder = _KNOWN[name], _cache() / name
    files = [Remote(f"{IDX_NAMES[part]}.gz", sha256, _SIZES[part]) for part, sha256 in known.sha256.items()]
    try:
        download(files, known.mirrors if mirrors is None else mirrors, folder)
    except DataError as error:
        raise DataError(f"{name}: not in any of {', '.join(map(str, _folders(name, root)))}; {error}") from error
    found = _read_if_known(name, folder, shared=False)
    assert found is not None, "download() returns only when the folder holds all four files"
    return found


def find_known(name: str, root: str | os.PathLike[str] | None = None) -> dict[str, Source] | None:
    """Return what `read_known` finds on this machine; None if it would have to download the set."""
    if name == "digits":
        return readers.read(_DIGITS)
    if root is not None and not Path(root).expanduser().is_dir():
        raise DataError(f"data root {root}: no such folder")
    for folder, shared in _folders(name, root).items():
        if found := _read_if_known(name, folder, shared=shared):
            return found
    return None


def _folders(name: str, root: str | os.PathLike[str] | None) -> dict[Path, bool]:
    """Return the folders where the set may be, in order of preference, and whether each may hold other sets too."""
    places = [Path(place).expanduser() for place in (root, os.environ.get("VAE_FAST_DATA"), _cache()) if place]
    named = {folder: shared for place in places for folder, shared in ((place / name, False), (place, True))}
    return named | dict.fromkeys(_KNOWN[name].folders, False)


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("vae_fast")


def _read_if_known(name: str, folder: Path, *, shared: bool) -> dict[str, Source] | None:
    """Return the arrays in `folder` if it has all four files and their content is that of `name`, else None.

    In a `shared` folder, one not named after the set, four unknown files are another set and are ignored. In any other
    folder, or if only some of the files are unknown, they are an error.
    """
    if not all(readers.find_idx(folder, file) for file in IDX_NAMES.values()):
        return None
    sources = readers.read(folder)
    strange = [part for part, sha256 in _KNOWN[name].sha256.items() if _idx_sha256(sources[part].array) != sha256]
    if not strange:
        return sources
    if shared and len(strange) == len(sources):
        return None
    raise DataError(
        f"{sources[strange[0]].where}: its content is not that of {name} (SHA-256 differs): damaged, or from another "
        f"set; replace or remove it (to train on images of your own, pass the folder itself as the data)"
    )


def _idx_sha256(array: NDArray[Any]) -> str:
    """Return the SHA-256 of the unpacked IDX file that a uint8 `array` came from: it holds only shape and elements."""
    digest = hashlib.sha256(bytes([0, 0, 0x08, array.ndim]) + np.array(array.shape, ">u4").tobytes())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
