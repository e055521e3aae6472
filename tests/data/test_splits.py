"""Tests of the images that a run trains and is evaluated on."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast.data.arrays.readers import find_idx
from vae_fast.data.dataset import DataSet
from vae_fast.data.file_images import Stored
from vae_fast.data.prefetch import Prefetcher
from vae_fast.data.sampler import BatchSampler
from vae_fast.data.splits import Splits, prepare
from vae_fast.data.transforms import TEST_SAMPLE, TRAIN_SAMPLE, bernoulli_sample, mean_entropy, pixel_kind
from vae_fast.errors import DataError, RunError
from vae_fast.kernels import random_bits

Small = Callable[..., vf.Config]


def prepared(config: vf.Config, said: list[str], sampler: Any = "device") -> Splits:
    return prepare(config, DataSet.open(config.data, config.data_root), sampler, said.append)


def test_validation_images_are_the_last_of_the_training_images(small: Small) -> None:
    said: list[str] = []
    splits = prepared(small(valid=300), said)
    pixels = vf.load_images("digits").pixels
    assert splits.valid is not None
    assert torch.equal(splits.train, pixels[:700])
    assert torch.equal(splits.valid, pixels[700:])
    assert said == ["data: digits, 1 x 28 x 28, 700 training, 300 validation, 1,000 test images; grey pixels, uint8"]
    assert splits.nbytes == 2000 * 784
    with pytest.raises(DataError, match="valid: expected fewer than the 1000 training images, got 1000"):
        prepared(small(valid=1000), said)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_held_out_images_are_one_fixed_sample_independent_of_the_training_images(small: Small, binarize: str) -> None:
    splits = prepared(small(binarize=binarize, seed=5), [])
    assert splits.test is not None
    grey = vf.load_images("digits").pixels.flatten(1)
    test = vf.load_images("digits", "test").pixels.flatten(1)
    assert torch.equal(splits.test.flatten(1), bernoulli_sample(test, 0, TEST_SAMPLE))
    expected = grey if binarize == "dynamic" else bernoulli_sample(grey, 0, TRAIN_SAMPLE)
    assert torch.equal(splits.train.flatten(1), expected)


def saved(path: Path, dtype: str, count: int = 500) -> str:
    bits = random_bits(count, 64, seed=3, step=0).view(count, 8, 8)
    array = (bits % 256).to(torch.uint8) if dtype == "uint8" else (bits / 2**32).float()
    np.save(path, array.numpy())
    return str(path)


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_left_in_a_file_equal_those_in_memory(small: Small, tmp_path: Path, dtype: str, binarize: str) -> None:
    config = small(data=saved(tmp_path / "mine.npy", dtype), valid=60, binarize=binarize)
    said: list[str] = []
    here, there = (prepared(config, said, sampler) for sampler in ("device", "stream"))
    for mine, stored in ((here.train, there.train), (here.valid, there.valid), (here.test, there.test)):
        assert isinstance(mine, torch.Tensor)
        assert isinstance(stored, Stored)
        assert (mine.shape, mine.dtype) == (stored.shape, stored.dtype)
        for a in range(0, len(mine), 23):  # in batches, as an evaluation reads them
            assert torch.equal(mine.flatten(1)[a : a + 23], stored.flatten(1)[a : a + 23].to("cpu"))
    assert here.fingerprint() == there.fingerprint()
    assert here.nbytes == there.nbytes
    assert mean_entropy(here.test.flatten(1)) == mean_entropy(there.test.flatten(1))
    grey = binarize == "none"
    assert said[1].endswith(f"{pixel_kind(binarize, (1, 8, 8))}, {f'{dtype}, left in the file' if grey else 'uint8'}")
    order = BatchSampler(len(here.train), 32, config.seed).order(1)
    epochs = []
    for splits in (here, there):
        with Prefetcher(splits.train.flatten(1), torch.device("cpu")).chunks(order, 4) as chunks:
            epochs.append(torch.cat([chunk.clone() for chunk in chunks]))
    assert torch.equal(*epochs)
    assert torch.equal(epochs[0], here.train.flatten(1)[order])


def test_a_folder_of_plain_idx_files_can_be_streamed(small: Small, mnist_root: Path, tmp_path: Path) -> None:
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        found = find_idx(mnist_root / "mnist", name)
        assert found is not None
        raw = found.read_bytes()
        (tmp_path / name).write_bytes(gzip.decompress(raw) if found.suffix == ".gz" else raw)
    splits = prepared(small(data=str(tmp_path)), [], "stream")
    assert isinstance(splits.train, Stored)
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)


def test_a_stream_that_is_impossible_raises_an_error_with_the_reason(small: Small, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.npy", "uint8")
    with pytest.raises(
        RunError, match=r"--feed stream: .*: --binarize static makes a copy of all of them; take none or"
    ):
        vf.fit(small(data=path, binarize="static", feed="stream"))
    with pytest.raises(RunError, match=r"--feed stream: .*digits.npz \(train\): only a plain .npy or IDX file"):
        vf.fit(small(feed="stream"))


# Check, fingerprint, shuffle and read an epoch of a small set, then of a large one, and print the peak memory of each.
PEAKS = """
import sys, torch, vae_fast as vf
from vae_fast.data.prefetch import Prefetcher
from vae_fast.data.sampler import BatchSampler
from vae_fast.data.dataset import DataSet
from vae_fast.data.splits import prepare

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

for data in sys.argv[1:]:
    splits = prepare(vf.Config(data=data), DataSet.open(data), "stream", lambda line: None)
    splits.fingerprint()
    sampler = BatchSampler(len(splits.train), 128, 0)
    with Prefetcher(splits.train.flatten(1), torch.device("cpu")).chunks(sampler.order(1), 8) as chunks:
        assert sum(len(chunk) for chunk in chunks) == sampler.steps_per_epoch
    for a in range(0, len(splits.test), 1000):
        splits.test[a : a + 1000].to("cpu")
    print(peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc/self/status")
@pytest.mark.parametrize(
    ("dtype", "mib", "most"),
    [
        ("uint8", 100, 32),
        pytest.param("float32", 100, 32, marks=pytest.mark.sweep),
        pytest.param("uint8", 2000, 200, marks=pytest.mark.sweep),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, dtype: str, mib: int, most: int) -> None:
    """Compare peaks that include pages of mapped files. The shuffle takes a small multiple of 8 bytes per image."""
    pixels = 784 * np.dtype(dtype).itemsize
    files = [str(tmp_path / f"{count}.npy") for count in (1000, mib * 2**20 // pixels)]
    for file in files:
        np.lib.format.open_memmap(file, "w+", dtype, (int(Path(file).stem), 28, 28))  # a hole: zeros
    done = subprocess.run([sys.executable, "-c", PEAKS, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before < most * 1024
