"""Tests that images left in their file behave like the tensor that they would be in memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vae_fast.data.file_images import Stored, obstacle
from vae_fast.data.images import pieces
from vae_fast.errors import DataError

IMAGES = {
    "uint8": torch.arange(20 * 6, dtype=torch.uint8).view(20, 1, 2, 3),
    "float32": torch.linspace(0, 1, 20 * 6).view(20, 1, 2, 3),
    "float32 as uint8": torch.arange(120, 240, dtype=torch.uint8).view(20, 1, 2, 3),
}


@pytest.fixture(scope="module", params=IMAGES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Stored]:
    path = tmp_path_factory.mktemp("stored") / "images.npy"
    as_uint8 = request.param == "float32 as uint8"
    np.save(path, (IMAGES[request.param] / 255 if as_uint8 else IMAGES[request.param]).numpy())
    images = Stored.of(np.load(path, mmap_mode="r"), as_uint8)
    path.unlink()  # an open file stays readable
    return IMAGES[request.param], images


def same(images: Stored, tensor: Tensor) -> None:
    assert (images.shape, images.dtype, images.nbytes) == (tensor.shape, tensor.dtype, tensor.nbytes)
    assert (len(images), images.device) == (len(tensor), tensor.device)
    assert torch.equal(images.to("cpu"), tensor)


@given(
    ends=st.lists(st.tuples(*[st.one_of(st.none(), st.integers(-25, 25))] * 2), max_size=3),
    flat=st.booleans(),
    data=st.data(),
)
def test_views_of_views_equal_those_of_the_tensor(
    pair: tuple[Tensor, Stored], ends: list[tuple[int | None, int | None]], flat: bool, data: st.DataObject
) -> None:
    tensor, images = pair
    for start, stop in ends:
        tensor, images = tensor[start:stop], images[start:stop]
    if flat:
        tensor, images = tensor.flatten(1), images.flatten(1)
    same(images, tensor)
    if len(tensor):
        rows = torch.tensor(data.draw(st.lists(st.integers(0, len(tensor) - 1), max_size=9)), dtype=torch.int64)
        out = torch.empty(len(rows), 6, dtype=images.dtype)
        images.gather(rows, out)
        assert torch.equal(out, tensor.flatten(1)[rows])


def test_pixels_are_read_on_the_cpu_whatever_the_default_device_is(pair: tuple[Tensor, Stored]) -> None:
    tensor, images = pair
    with torch.device("meta"):
        read = images.to("cpu")
        out = torch.empty(2, 6, dtype=images.dtype, device="cpu")
        images.flatten(1).gather(torch.tensor([3, 1], device="cpu"), out)
    assert torch.equal(read, tensor)
    assert torch.equal(out, tensor.flatten(1)[[3, 1]])


def test_a_treatment_receives_the_index_within_its_part(pair: tuple[Tensor, Stored]) -> None:
    def add(pixels: Tensor, first: int) -> Tensor:
        return (255 * pixels if pixels.is_floating_point() else pixels).to(torch.uint8) + torch.arange(
            first, first + len(pixels), dtype=torch.uint8
        ).unsqueeze(1)

    tensor, images = pair
    part, treated = add(tensor[5:15].flatten(1), 0).view(10, 1, 2, 3), images[5:15].treated(add)
    same(treated, part)
    same(treated[3:7].flatten(1), part[3:7].flatten(1))


def test_pieces_cover_all_images(pair: tuple[Tensor, Stored]) -> None:
    tensor, images = pair
    for whole in pair:
        parts = list(pieces(whole, 3 * tensor[:1].nbytes))
        assert [len(part) for part in parts] == [3] * 6 + [2]
        assert torch.equal(torch.cat([part.to("cpu") for part in parts]), tensor)
    assert len(list(pieces(images, 1))) == 20
    with pytest.raises(ValueError, match="step 1"):
        images[::2]


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((4, 4)), "its dtype is <f8, expected uint8 or float32 of this machine's byte order; convert it"),
        (np.zeros((4, 4), ">f4"), "its dtype is >f4"),
        (np.zeros((4, 4), np.uint8, order="F"), "it is in Fortran order; write it with numpy.save(file, numpy.asc"),
        (np.zeros((4, 4), np.uint8), None),
    ],
)
def test_obstacle_says_why_images_have_to_be_in_memory(tmp_path: Path, array: np.ndarray, why: str | None) -> None:
    np.save(tmp_path / "it.npy", array)
    found = obstacle(np.load(tmp_path / "it.npy", mmap_mode="r"))
    assert found is None if why is None else str(found).startswith(why)
    assert "only a plain .npy or IDX file" in str(obstacle(array))


def test_the_error_for_a_file_cut_short_names_it(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, IMAGES["uint8"].numpy())
    images = Stored.of(np.load(path, mmap_mode="r"))
    os.truncate(path, path.stat().st_size - 1)
    assert images[:19].to("cpu").shape == (19, 1, 2, 3)
    with pytest.raises(DataError, match=f"^{path}: ends before its last image: it was cut short"):
        images.to("cpu")


@pytest.mark.sweep
def test_a_set_of_two_gigabytes_trains_in_bounded_memory(tmp_path: Path) -> None:
    """Compare peak resident memory, including pages of files, with that of the same run on 1,000 images."""
    code = "import sys, vae_fast.train as t; t.main(sys.argv[1:]); print(open('/proc/self/status').read())"
    peaks = []
    for count in (1_000, 2_700_000):
        np.lib.format.open_memmap(
            tmp_path / "x.npy", "w+", np.uint8, (count, 28, 28)
        )  # zeros that are never written to disk
        flags = ["--feed", "stream", "--hidden", "16", "--epochs", "1", "--out", str(tmp_path / str(count))]
        command = [sys.executable, "-c", code, "--data", str(tmp_path / "x.npy"), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
        peaks.append(int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) / 1024)
    assert peaks[1] - peaks[0] < 512
