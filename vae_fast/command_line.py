"""What the command lines share that work on a trained model: its arguments, the images, and where results go."""

import argparse
import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from vae_fast import durable, pictures
from vae_fast.config import MOST_THREADS
from vae_fast.errors import ConfigError, RunError
from vae_fast.paths import expanded
from vae_fast.pixels import TREATMENTS
from vae_fast.run_directory import require_writable
from vae_fast.trained import PARTS, Selection, Trained

MOST_LISTED = 12  # numbers in the name of a file
DRAWN = "picture and array go there, with .png and .npy (default: in RUN/pictures/step-N/)"


class Parser(argparse.ArgumentParser):
    """argparse's, whose refusals are a ConfigError of one line, as all others are."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse's; so many threads compute from then on as --threads says."""
        chosen = super().parse_args(*args, **kwargs)
        if getattr(chosen, "threads", None) is not None:
            torch.set_num_threads(chosen.threads)
        return chosen

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument ").replace("unrecognized arguments", "no such argument"))


def parser(
    command: str, description: str | None, example: str, *, out: str | None = None, images: bool = True
) -> Parser:
    """With RUN and --device, --out if there is help for it, and what chooses the images, if there are some.

    example: the arguments after RUN.
    """
    prog = f"python -m vae_fast.{command}"
    result = Parser(
        prog=prog,
        description=description,
        epilog=f"example: {prog} runs/20261122T150000Z-mnist {example}".rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "run", metavar="RUN", type=path, help="a run directory (its latest checkpoint), a checkpoint or an export"
    )
    result.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N")
    result.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="that compute on a CPU (default: as many as PyTorch takes)",
    )
    if out is not None:
        result.add_argument("--out", type=path, metavar="PATH", help=out)
    if images:
        result.add_argument("--split", choices=PARTS, default="test", help="which images (default: test)")
        result.add_argument(
            "--data",
            help="other images than the run's: a name or a path, as for training; a single array is used whole",
        )
        result.add_argument("--data-root", type=path, help="folder where mnist and fashion-mnist are looked for first")
        result.add_argument(
            "--binarize", choices=list(TREATMENTS), help="pixels (default: as in the run; dynamic: one static sample)"
        )
    return result


def opened(chosen: argparse.Namespace) -> tuple[Trained, Selection]:
    """The model and the images that the arguments name."""
    trained = Trained.open(chosen.run, chosen.device)
    settings = {name: getattr(chosen, name) for name in ("data", "data_root", "binarize")}
    return trained, trained.images(chosen.split, **settings)


def path(text: str) -> Path:
    """For argparse: a path, with ~ expanded."""
    try:
        return Path(expanded("a path", text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None


def thread_count(text: str) -> int:
    """For argparse: as `Config.threads`."""
    return _integer(text, 1, f"1 to {MOST_THREADS}", MOST_THREADS)


def whole_number(text: str) -> int:
    """For argparse: 0, 1, ..."""
    return _integer(text, 0, "a whole number from 0")


def positive_number(text: str) -> int:
    """For argparse: 1, 2, ..."""
    return _integer(text, 1, "a whole number from 1")


def non_negative(text: str) -> float:
    """For argparse: a finite number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


def at_least_two(text: str) -> int:
    """For argparse: 2, 3, ..."""
    return _integer(text, 2, "a whole number from 2")


def _integer(text: str, least: int, expected: str, most: int = 2**63 - 1) -> int:
    value = int(text) if text.isdecimal() and text.isascii() else -1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def place(trained: Trained, out: Path | None, *names: str) -> Path:
    """Where a result goes: `out`, or in the run's directory. Errors come now, not after the work."""
    found = out or trained.place(*names)
    if found is None:
        raise ConfigError(f"--out: {trained.source} belongs to no run that could keep the result; expected a path")
    if found.is_symlink() and not found.exists():
        raise RunError(f"--out: {found} is a link to {found.readlink()}, which is not there")
    require_writable(found.parent)
    return found


def file_place(trained: Trained, out: Path | None, *names: str) -> Path:
    """The same, of a file, its folder made and free of what killed commands left half-written."""
    found = place(trained, out, *names)
    if found.is_dir():
        raise RunError(f"--out: expected a file, {found} is a directory")
    found.parent.mkdir(parents=True, exist_ok=True)
    durable.sweep(found.parent)
    return found


def listed(chosen: Sequence[int]) -> str:
    """Name numbers in the name of a file, so that another choice of them is another file."""
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
    """Write rows of images as a PNG grid, and `array` beside it as .npy: at `out`, or in the run's pictures/step-N/."""
    stem = file_place(trained, out, "pictures", trained.source.name, name)
    if stem.suffix in (".png", ".npy"):
        stem = stem.with_suffix("")
    png, npy = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "npy"))
    picture, values = io.BytesIO(), io.BytesIO()
    pictures.save_grid([row.view(-1, *trained.image_shape) for row in rows], picture, captions)
    np.save(values, array.numpy())
    durable.replace(png, picture.getvalue())
    durable.replace(npy, values.getvalue())
    said = pictures.drawn_as(trained.image_shape[0])
    print(f"picture  {png}{said and f'  ({said})'}\narray    {npy}  {list(array.shape)}")
