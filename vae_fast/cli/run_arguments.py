"""Arguments of the commands that work on a trained model: the run, the device, the images."""

import argparse
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch

from vae_fast.analysis.trained import PARTS, Selection, Trained
from vae_fast.cli import numbers
from vae_fast.data.arrays.layout import Layout
from vae_fast.data.transforms import TREATMENTS
from vae_fast.errors import ConfigError
from vae_fast.paths import expanded

IMAGE_SETTINGS = ("data", "data_root", "labels", "layout", "binarize")  # arguments named like those of `Config`


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises a ConfigError of one line, like every other error in the settings."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse as argparse does, and set the number of PyTorch's threads if --threads is given."""
        chosen = super().parse_args(*args, **kwargs)
        if getattr(chosen, "threads", None) is not None:
            torch.set_num_threads(chosen.threads)
        return chosen

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument ").replace("unrecognized arguments", "no such argument"))


def parser(
    command: str,
    description: str | None,
    example: str,
    *,
    out: str | None = None,
    images: bool = True,
    split: str = "test",
) -> Parser:
    """Return a parser with RUN, --device and --threads.

    Args:
        command, description: the name of the command and the text of its help.
        example: the arguments after RUN in the example of the help.
        out: the help of --out, which is added if this is given.
        images: whether to add the arguments that choose images; split: the part that they choose by default.
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
        type=numbers.thread_count,
        metavar="N",
        help="CPU threads (default: as many as PyTorch uses)",
    )
    if out is not None:
        result.add_argument("--out", type=path, metavar="PATH", help=out)
    if images:
        result.add_argument("--split", choices=PARTS, default=split, help=f"which images (default: {split})")
        result.add_argument(
            "--data",
            help="images other than the run's: a name or a path, as for training; a single array is used whole",
        )
        result.add_argument("--data-root", type=path, help="folder that is searched first for mnist and fashion-mnist")
        result.add_argument("--labels", type=path, help="file with the labels of --data, as for training")
        result.add_argument("--layout", choices=get_args(Layout), help="order of the axes of --data, as for training")
        result.add_argument(
            "--binarize", choices=list(TREATMENTS), help="pixels (default: as in the run; dynamic: one static sample)"
        )
    return result


def opened(chosen: argparse.Namespace) -> tuple[Trained, Selection]:
    """Open the model and the images that the arguments name."""
    trained = Trained.open(chosen.run, chosen.device)
    settings = {name: getattr(chosen, name) for name in IMAGE_SETTINGS}
    return trained, trained.images(chosen.split, **settings)


def path(text: str) -> Path:
    """Parse a path for argparse, with ~ expanded."""
    try:
        return Path(expanded("a path", text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
