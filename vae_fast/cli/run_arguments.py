"""What the commands that work on a trained model ask for: the run, the device, the images."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

import torch

from vae_fast.analysis.trained import PARTS, Selection, Trained
from vae_fast.cli import numbers
from vae_fast.data.transforms import TREATMENTS
from vae_fast.errors import ConfigError
from vae_fast.paths import expanded


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
        type=numbers.thread_count,
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
