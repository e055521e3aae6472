"""Tests of HDF5 files: data sets by their usual names or by name, and what is refused."""

import sys

import numpy as np
import pytest

import vae_fast as vf
from vae_fast.data.dataset import DataSet
from vae_fast.errors import DataError, RunError

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5), np.uint8)


def made(path, **sets):
    with h5py.File(path, "w") as file:
        for name, values in sets.items():
            file.create_dataset(name.replace("__", "/"), data=values)
    return path


def test_data_sets_are_found_by_their_usual_names(tmp_path):
    path = made(tmp_path / "x.h5", x_train=IMAGES, y_train=np.arange(20), x_test=IMAGES[:4], y_test=np.arange(4))
    train, test = DataSet.open(path).splits()
    np.testing.assert_array_equal(train.pixels[:, 0].numpy(), IMAGES)
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert train.name == "x"


def test_a_data_set_is_named_after_a_colon(tmp_path):
    path = made(tmp_path / "x.h5", group__faces=IMAGES / 255, other=np.arange(3), labels=np.arange(20))
    images = vf.load_images(f"{path}:group/faces", test_fraction=0)
    np.testing.assert_array_equal(images.pixels[:, 0].numpy(), IMAGES)
    assert images.labels is None


def test_strings_are_labels(tmp_path):
    path = made(tmp_path / "x.h5", images=IMAGES, labels=np.array([b"b", b"a"] * 10, dtype="S3"))
    assert DataSet.open(path).splits(0)[0].label_names == ("a", "b")


@pytest.mark.parametrize(
    ("sets", "name", "message"),
    [
        (
            {"faces": IMAGES},
            "",
            r"no data set named like images or train; it holds faces \[20, 6, 5\]; name",
        ),
        ({"faces": IMAGES}, ":eyes", "no data set 'eyes'; it holds faces"),
        ({}, "", "it holds none"),
        (
            {"images": np.zeros((2, 1, 1, 1, 1))},
            "",
            r"images\): float64 \[2, 1, 1, 1, 1\]: expected numbers, 1 to",
        ),
    ],
)
def test_what_is_missing_or_no_array_is_one_clear_error(sets, name, message, tmp_path):
    with pytest.raises(DataError, match=message):
        DataSet.open(f"{made(tmp_path / 'x.h5', **sets)}{name}")


def test_damaged_files_and_a_missing_package_are_one_clear_error(tmp_path, monkeypatch):
    path = made(tmp_path / "x.h5", images=IMAGES)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"x.h5: damaged: "):
        DataSet.open(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RunError, match=r"HDF5 needs h5py: pip install"):
        DataSet.open(path)


def test_a_data_set_that_does_not_fit_is_refused_before_it_is_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", (1 << 28, 64, 64), "u1", chunks=(1, 64, 64))
    with pytest.raises(DataError, match=r"images\): .*needs 1,024.0 GiB, .* are free; write it as .npy"):
        DataSet.open(tmp_path / "x.h5")
