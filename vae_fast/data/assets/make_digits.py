"""Make digits.npz, the data set that the package carries: `python make_digits.py MNIST_FOLDER [TARGET]`.

It holds the first 1,000 training and the first 1,000 test digits of MNIST with their labels, all uint8. The same input
files and the same zlib give the same bytes, because NumPy stores no timestamps.
"""

import sys
from pathlib import Path

import numpy as np

from vae_fast.data.arrays import readers

COUNT = 1000


def main(folder: str, target: str | None = None) -> None:
    first = {part: source.array[:COUNT] for part, source in readers.read(Path(folder)).items()}
    np.savez_compressed(
        target or Path(__file__).with_name("digits.npz"),
        train=first["train"],
        train_labels=first["train_labels"],
        test=first["test"],
        test_labels=first["test_labels"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
