"""Tests of labels: where they are read from, and what strings become."""

import gzip

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast.data.dataset import DataSet
from vae_fast.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 5), np.uint8)
NAMES = ["cat", "ant", "bee", "cat", "ant", "cat"]
CODES = [2, 0, 1, 2, 0, 2]


@pytest.mark.parametrize("kind", ["<U9", "S"])
def test_strings_become_the_indices_of_their_sorted_names_in_all_parts(tmp_path, kind):
    labels = np.array(NAMES).astype(kind)
    np.savez(tmp_path / "x.npz", train=IMAGES, train_labels=labels, test=IMAGES[:2], test_labels=labels[[2, 0]])
    train, test = DataSet.open(tmp_path / "x.npz").splits()
    assert train.labels.tolist() == CODES
    assert test.labels.tolist() == [1, 2]
    assert train.label_names == test.label_names == ("ant", "bee", "cat")


@pytest.mark.parametrize("kind", ["text", "csv", "numbers", "npy", "idx"])
def test_labels_are_read_from_a_file_of_their_own(tmp_path, kind):
    np.save(tmp_path / "x.npy", IMAGES)
    path = tmp_path / {"csv": "l.csv", "npy": "l.npy", "idx": "l.gz"}.get(kind, "l.txt")
    if kind == "npy":
        np.save(path, np.array(NAMES))
    elif kind == "idx":
        path.write_bytes(gzip.compress(b"\0\0\x08\1" + (6).to_bytes(4, "big") + bytes(CODES)))
    else:
        path.write_text("\n".join(map(str, CODES if kind == "numbers" else NAMES)) + "\n", encoding="utf-8-sig")
    found = DataSet.open(tmp_path / "x.npy", labels_file=path)
    train, test = found.splits(1 / 3)
    assert torch.cat([train.labels, test.labels]).tolist() == CODES
    assert train.label_names == (() if kind in ("numbers", "idx") else ("ant", "bee", "cat"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\n2\n", r"l.txt: shape \[2\]: expected \[6\], one label for each of .*x.npy"),
        (b"1\n\n\n\n\n\n\n", r"l.txt: shape \[7\]: expected \[6\]"),
        (b"\xff\xfe", r"l.txt: not UTF-8 text \(invalid start byte at byte 0\)"),
        (None, r"l.txt: cannot be read: No such file"),
    ],
)
def test_a_bad_file_of_labels_is_an_error_that_names_it(tmp_path, content, message):
    np.save(tmp_path / "x.npy", IMAGES)
    if content is not None:
        (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        DataSet.open(tmp_path / "x.npy", labels_file=tmp_path / "l.txt").splits()


def test_a_set_with_labels_or_a_test_part_takes_no_file_of_labels(tmp_path):
    with pytest.raises(DataError, match="labels: expected none, since digits has labels of its own; got"):
        DataSet.open("digits", labels_file="l.txt")
    np.savez(tmp_path / "x.npz", train=IMAGES, test=IMAGES)
    with pytest.raises(DataError, match="has a test part, so labels belong beside both; got"):
        DataSet.open(tmp_path / "x.npz", labels_file="l.txt")


def test_a_run_shows_the_names_of_its_labels(tmp_path):
    from vae_fast.analysis.trained import Trained

    np.save(tmp_path / "x.npy", np.repeat(IMAGES, 4, 0))
    (tmp_path / "l.txt").write_text("\n".join(np.repeat(NAMES, 4)))
    config = vf.Config(
        data=tmp_path / "x.npy", labels=tmp_path / "l.txt", hidden=(8,), latent=2, epochs=1, batch_size=4,
        out=tmp_path / "run",
    )  # fmt: skip
    vf.fit(config)
    trained = Trained.open(tmp_path / "run")
    assert trained.recorded["images"]["label_names"] == ["ant", "bee", "cat"]
    selection = trained.images("train")
    assert [selection.label(index) for index in (0, 4, 8)] == ["cat", "ant", "bee"]
    (tmp_path / "l.txt").write_text("\n".join(np.repeat(["x", *NAMES[1:]], 4)))
    with pytest.raises(vf.errors.RunError, match="label_names"):
        trained.images("train")
