"""Tests of Parquet files of images, as Hugging Face writes them, and of those that are not."""

import json
import sys

import pytest

from tests.data.image_files.test_image_files import cache, png, written
from vae_fast.data.dataset import DataSet
from vae_fast.errors import DataError, RunError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")
__all__ = ["cache"]  # a fixture that every test here uses

NAMES = ["zebra", "ant"]


def table(values, labels=None, names=None, column="image"):
    images = [{"bytes": png(value), "path": f"{value}.png"} for value in values]
    columns = {column: images} | ({} if labels is None else {"label": labels})
    made = pa.table(columns)
    if names is None:
        return made
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize("names", [NAMES, None])
def test_parts_labels_and_groups_of_rows_are_read(names, tmp_path):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    labels = [i % 2 for i in range(30)]
    for part, values in (("train-00000-of-00002", range(30)), ("test-00000-of-00001", range(100, 130))):
        pq.write_table(table(values, labels, names), folder / f"{part}.parquet", row_group_size=7)
    train, test = DataSet.open(tmp_path / "set").splits()
    assert (len(train), len(test)) == (30, 30)
    for images, first in ((train, 0), (test, 100)):
        assert sorted(images.pixels[:, 0, 0, 0].tolist()) == list(range(first, first + 30))
        for image, label in zip(images.pixels, images.labels.tolist(), strict=True):
            shown = int(image[0, 0, 0]) % 2
            assert images.label_names[label] == names[shown] if names else label == shown


def test_a_single_file_without_labels_holds_out_its_last_images(tmp_path):
    pq.write_table(pa.table({"photo": [png(i) for i in range(20)]}), tmp_path / "x.parquet")
    train, test = DataSet.open(tmp_path / "x.parquet").splits()
    assert train.pixels[:, 0, 0, 0].tolist() == list(range(18))
    assert len(test) == 2
    assert train.labels is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pa.table({"x": [1.0], "name": ["a"]}), r"its columns are x \(double\), name \(string\)"),
        (lambda: table([1, 2], [0.5, 1.0]), "expected labels that are integers or strings, got label of double"),
        (lambda: table([1, 2], [0, -1], NAMES), "row 1 of group 0: expected label of 0 to 1, got -1"),
        (lambda: table([1, 2], [0, None]), "row 1 of group 0 has no label; expected one for each image"),
        (lambda: pa.table({"image": [b"no", b"image"]}), "none of its first 2 files is an image"),
    ],
)
def test_other_columns_are_one_clear_error(make, message, tmp_path):
    pq.write_table(make(), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        DataSet.open(tmp_path / "x.parquet")


def test_damaged_files_and_a_missing_package_are_one_clear_error(tmp_path, monkeypatch):
    written(tmp_path, {"x.parquet": b"PAR1" + bytes(100)})
    with pytest.raises(DataError, match=r"x.parquet: damaged: "):
        DataSet.open(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RunError, match=r"Parquet needs pyarrow: pip install"):
        DataSet.open(tmp_path / "x.parquet")
