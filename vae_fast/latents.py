"""Encode images with a trained model; write mu and logvar of each, its label and its index as .npz.

mu and logvar are float32 [N, Z], index and labels int64 [N]; label_names are the names of the classes, if they have
any, and there are no labels of images without. Memory does not grow with N.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_fast.analysis.latents import posteriors
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.artifacts import npz
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import RunError
from vae_fast.runtime import pytorch_state
from vae_fast.runtime.printer import Printer


@pytorch_state.as_it_starts()
def latents(
    trained: Trained,
    selection: Selection,
    file: Path,
    *,
    index: Tensor | None = None,
    printer: Printer | None = None,
) -> None:
    """Write mu, logvar, index and, where the images have labels, labels and label_names into a new .npz file.

    Args:
        trained, selection: the model and the images, from `Trained.open` and `Trained.images`.
        file: must not exist; it appears complete or not at all.
        index: int64 [N], what the file holds as `index`; by default 0, 1, ...
        printer: shows progress.

    Raises RunError for a file that exists, and OSError, which names it, if it cannot be written.
    """
    if os.path.lexists(file):
        raise RunError(f"--out: {file} exists; remove it or name another")
    count, latent = len(selection.pixels), trained.model.latent
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
        "mu": (np.float32, (count, latent)),
        "logvar": (np.float32, (count, latent)),
        "index": (np.int64, (count,)),
    }
    names = np.array(selection.label_names)
    if selection.labels is not None:
        arrays["labels"] = (np.int64, (count,))
        if len(names):
            arrays["label_names"] = (names.dtype, names.shape)
    index = torch.arange(count) if index is None else index
    npz.write(file, arrays, _pieces(trained, selection, index, names, printer or Printer(quiet=True)))


def _pieces(
    trained: Trained, selection: Selection, index: Tensor, names: Any, printer: Printer
) -> Iterator[Mapping[str, Any]]:
    labels = selection.labels
    if labels is not None and len(names):
        yield {"label_names": names}
    done = 0
    with printer.bar("posteriors", len(selection.pixels), unit="images") as show:
        for mu, logvar in posteriors(trained.model, selection.pixels, selection.conditions):
            rows = slice(done, done + len(mu))
            of_label = {} if labels is None else {"labels": labels[rows].numpy()}
            yield {"mu": mu.numpy(), "logvar": logvar.numpy(), "index": index[rows].numpy(), **of_label}
            done = rows.stop
            show(done, None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser(
        "latents", __doc__, "--split train --out train.npz", out="a new .npz file (default: in RUN/latents/)"
    )
    parser.add_argument(
        "--count", type=numbers.positive_number, metavar="N", help="only the first N images (default: all)"
    )
    parser.add_argument("--indices", type=numbers.whole_number, nargs="+", metavar="I", help="these images instead")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    index, part = None, ""
    if chosen.indices is not None:
        selection, index = selection.at(chosen.indices), torch.tensor(chosen.indices)
        part = f"-{output.listed(chosen.indices)}"
    elif chosen.count is not None:
        selection, part = selection.first(chosen.count), f"-first{chosen.count}"
    file = output.file_place(trained, chosen.out, "latents", f"{trained.source.name}-{selection.slug}{part}.npz")
    latents(trained, selection, file, index=index, printer=Printer(stderr=True))
    labels = "" if selection.labels is None else ", labels"
    print(f"latents  {file}  mu and logvar {[len(selection.pixels), trained.model.latent]}, index{labels}")


if __name__ == "__main__":
    sys.exit(main())
