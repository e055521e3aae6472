"""How fast a folder of JPEGs becomes an array: ours against Pillow alone in as many processes.

`python -m benchmarks.image_files --help`. The images, 178 x 218 like those of CelebA, are made by this program: a few
smooth colours under noise. In every round both decode and resize all of them, ours into its cache, Pillow alone into
the memory of its processes. The table has the images a second and the peak memory of the largest process.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness.rounds import quartiles
from benchmarks.reporting.results import Spread
from benchmarks.reporting.tables import markdown, spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import positive_number
from vae_fast.runtime.environment import cpu_name

HEIGHT, WIDTH, SIZE = 218, 178, 64
OURS = f"""
import sys, time
from vae_fast.data.dataset import DataSet
from vae_fast.data.image_files.cache import Wish
began = time.perf_counter()
DataSet.open(sys.argv[1], image_files=Wish(({SIZE}, {SIZE})))
print(time.perf_counter() - began)
"""


def make(folder: Path, count: int) -> None:
    """Write `count` JPEGs."""
    random = np.random.default_rng(0)
    for index in range(count):
        colours = Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8)).resize((WIDTH, HEIGHT))
        noisy = np.asarray(colours) + random.normal(0, 6, (HEIGHT, WIDTH, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:06}.jpg", quality=90)


def _alone(path: str) -> int:
    with Image.open(path) as image:
        return int(np.asarray(image.convert("RGB").resize((SIZE, SIZE)))[0, 0, 0])


def alone(folder: Path, workers: int) -> float:
    """Return the seconds that Pillow takes in processes of a pool, without their start."""
    paths = sorted(str(path) for path in folder.iterdir())
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(_alone, paths[: 8 * workers]))  # warms up
        began = time.perf_counter()
        list(pool.map(_alone, paths, chunksize=64))
        return time.perf_counter() - began


def ours(folder: Path) -> float:
    """Return the seconds that a new program takes, with an empty cache, including the start of its decoders."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", OURS, str(folder)]
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        return float(subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_files", description=__doc__)
    parser.add_argument("--count", type=positive_number, default=20_000, help="images; default: 20000")
    parser.add_argument("--rounds", type=positive_number, default=3, help="rounds to take medians of; default: 3")
    chosen = parser.parse_args(arguments)
    workers = len(os.sched_getaffinity(0))
    folder = Path(tempfile.mkdtemp())
    try:
        make(folder, chosen.count)
        pairs = []
        for _ in range(chosen.rounds):
            theirs = alone(folder, workers)
            pairs.append((ours(folder), theirs))
    finally:
        shutil.rmtree(folder)
    speeds = [Spread(*quartiles([chosen.count / pair[side] for pair in pairs])) for side in (0, 1)]
    ratio = Spread(*quartiles([theirs / mine for mine, theirs in pairs]))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{cpu_name()}, {workers} processes, {chosen.count:,} JPEGs of {HEIGHT} x {WIDTH} to {SIZE} x {SIZE}\n")
    rows = [["vae_fast, to the array", spread(speeds[0]), spread(ratio)], ["Pillow alone", spread(speeds[1]), "1"]]
    print("\n".join(markdown(["", "images/s", "times as fast"], rows, 1)))
    print(f"\nlargest process of either: {peak:,.0f} MiB")


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
