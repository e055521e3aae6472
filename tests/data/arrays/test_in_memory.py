"""Tests of images that a program passes to `fit`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vae_fast as vf
from vae_fast.analysis.trained import Trained
from vae_fast.data.arrays.in_memory import sources
from vae_fast.data.dataset import DataSet
from vae_fast.errors import ConfigError, DataError, RunError
from vae_fast.train import main

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 3, 5), np.uint8)
LABELS = np.arange(60) % 3


class Items(Dataset):
    """A map-style data set, whose items can be had by index alone, for ever."""

    def __init__(self, label=lambda index: int(LABELS[index])):
        self.label = label

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return torch.from_numpy(IMAGES[index]), self.label(index)


WAYS = {
    "an array": lambda: (IMAGES, LABELS),
    "a tensor": lambda: (torch.from_numpy(IMAGES), torch.from_numpy(LABELS)),
    "a list": lambda: ([*IMAGES], LABELS.tolist()),
    "a data set": lambda: (Items(), None),
    "tensors with 0-d labels": lambda: (TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS)), None),
    "a generator": lambda: (((image, label) for image, label in zip(IMAGES, LABELS, strict=True)), None),
    "names": lambda: (Items(lambda index: "abc"[LABELS[index]]), None),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_in_memory_are_those_of_a_file(way, tmp_path):
    np.savez(tmp_path / "x.npz", train=IMAGES, train_labels=LABELS)
    expected = DataSet.open(tmp_path / "x.npz").splits()
    images, labels = WAYS[way]()
    found = DataSet.in_memory({"images": images, "labels": labels}).splits()
    for part, other in zip(found, expected, strict=True):
        assert torch.equal(part.pixels, other.pixels)
        assert torch.equal(part.labels, other.labels)
    assert found[0].label_names == (("a", "b", "c") if way == "names" else ())


def test_arrays_and_tensors_are_shared_not_copied():
    for given_ in (IMAGES, torch.from_numpy(IMAGES)):
        assert np.shares_memory(sources(given_)["train"].array, IMAGES)
        assert DataSet.in_memory({"images": given_}).splits(0)[0].pixels.data_ptr() == IMAGES.ctypes.data


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 3000), has_length=st.booleans())
def test_an_iterable_of_any_length_is_read_whole(count, has_length):
    values = np.arange(count, dtype=np.int64) % 256
    items = [value.reshape(1, 1) for value in values]
    found = sources(items if has_length else iter(items))
    np.testing.assert_array_equal(found["train"].array.ravel(), values)


class Refusing:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("no array here")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (None, LABELS, "^images: expected an array or a tensor .*, got none"),
        ("x.npy", None, r"^images: expected .*, got 'x.npy'; a path or a name is Config\(data=...\)"),
        (7, None, "^images: expected .*, got 7"),
        (DataLoader(Items()), None, "^images: a DataLoader gives batches, .*; expected its data set, loader.dataset"),
        ([], None, "^images: expected at least one image, got none"),
        ([IMAGES[0], IMAGES[1].T], None, r"^images: item 1 is uint8 \[5, 3\], the first is uint8 \[3, 5\]"),
        ([IMAGES[0], IMAGES[1] / 255], None, "^images: item 1 is float64 .*, the first is uint8"),
        ([(IMAGES[0], 1), (IMAGES[1], None)], None, "^images: 1 of 2 items have no label"),
        ([(IMAGES[0], 1, 2)], None, r"^images: item 0: expected an image or a pair \(image, label\), got 3 things"),
        ([{"image": IMAGES[0]}], None, "^images: item 0: expected an image or a pair"),
        ([(IMAGES[0], 1)], [1], "^labels: given twice, as an argument and in pairs with images"),
        (np.array([{}]), None, "^images: dtype object: expected numbers"),
        (np.zeros((0, 3, 5)), None, r"^images: shape \[0, 3, 5\]: expected 2 to 4 dimensions"),
        (np.ma.masked_array(IMAGES), None, "^images: a masked array"),
        (torch.zeros(3, 3).to_sparse(), None, "^images: a tensor of layout torch.sparse_coo: expected a dense one"),
        (Refusing(), None, "^images: no array can be made of it: no array here"),
        (IMAGES, LABELS[:4], r"^labels: shape \[4\]: expected \[60\], one label for each of images"),
        (IMAGES, [[1], [2, 3]], "^labels: no array can be made of it"),
        (IMAGES * 1.0, None, r"^images: image 0: the value at \[0, 0, 0\] is .*white is 255: divide by 255"),
    ],
)  # fmt: skip
def test_what_cannot_be_images_raises_an_error_that_names_the_argument(images, labels, message):
    with pytest.raises(DataError, match=message):
        DataSet.in_memory({"images": images, "labels": labels}).splits()


def small(**settings):
    return vf.Config(**{"hidden": (8,), "latent": 2, "epochs": 1, "batch_size": 10, **settings})


def test_a_run_from_memory_is_the_run_from_a_file_and_is_resumed_with_the_same_images(tmp_path, capfd):
    np.savez(tmp_path / "x.npz", train=IMAGES, test=IMAGES[:20])
    vf.fit(small(data=tmp_path / "x.npz", epochs=2, out=tmp_path / "file"))
    run = vf.fit(small(out=tmp_path / "run"), images=IMAGES, test_images=torch.from_numpy(IMAGES[:20]))
    assert "data: memory, 1 x 3 x 5, 60 training, 20 test images" in capfd.readouterr().out
    recorded = Trained.open(run.directory).recorded
    assert recorded["data"] == "memory"

    again = vf.Config.from_toml(run.directory / "config.toml", resume=run.directory, epochs=2)
    with pytest.raises(RunError, match=r"data: these are not the images of .* sha256"):
        vf.fit(again, images=IMAGES[::-1], test_images=IMAGES[:20])
    vf.fit(again, images=IMAGES, test_images=IMAGES[:20])
    state = "checkpoints/latest/model.safetensors"
    assert (run.directory / state).read_bytes() == (tmp_path / "file" / state).read_bytes()

    assert main(["--resume", str(run.directory), "--epochs", "3"]) == 1
    assert capfd.readouterr().err.startswith("error: data: 'memory' stands for images that a program passes to vf.fit(")
    assert main(["--resume", str(run.directory), "--epochs", "3", "--data", str(tmp_path / "x.npz")]) == 0

    trained = Trained.open(run.directory)
    own = trained.images("test", in_memory={"images": IMAGES, "test_images": IMAGES[:20]})
    assert (own.is_runs_own, len(own.pixels), own.data) == (True, 20, "memory")
    other = trained.images("test", in_memory={"images": IMAGES[::-1]})
    assert (other.is_runs_own, len(other.pixels), other.part) == (False, 60, "all")


@pytest.mark.parametrize("name", ["data", "labels"])
def test_images_in_memory_allow_no_other_source(name, tmp_path):
    with pytest.raises(ConfigError, match=f"{name}: expected none beside images in memory, got '.*x'"):
        vf.fit(small(**{name: "x"}, out=tmp_path / "run"), images=IMAGES)
    assert not (tmp_path / "run").exists()
