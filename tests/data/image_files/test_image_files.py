"""Tests of folders and archives of image files: parts, classes, broken files, the cache, and hostile input."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vae_fast as vf
from vae_fast.data.dataset import DataSet
from vae_fast.data.image_files.arrangement import arrange
from vae_fast.data.image_files.cache import Wish
from vae_fast.errors import DataError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "vae_fast" / "images"


def png(value=None, size=(6, 5), mode="RGB"):
    pixels = RANDOM.integers(0, 256, (*size, 3), np.uint8) if value is None else np.full((*size, 3), value, np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def written(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


FILES = {f"{kind}/{i}.png": png(10 * i + k) for k, kind in enumerate(("cat", "ant", "bee")) for i in range(8)}
WAYS = {
    "folder": lambda path: written(path / "set", FILES),
    "zip": lambda path: zipped(path / "set.zip", FILES),
    "tar": lambda path: tarred(path / "set.tar", FILES),
    "tar.gz": lambda path: tarred(path / "set.tar.gz", FILES, "w:gz"),
    "zip of a folder": lambda path: zipped(path / "set.zip", {f"all/set/{name}": FILES[name] for name in FILES}),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_and_classes_are_read_from_folders_and_archives(way, tmp_path, cache):
    found = DataSet.open(WAYS[way](tmp_path))
    train, test = found.splits(0.25)
    assert list(train.pixels.shape) == [18, 3, 6, 5]
    assert train.label_names == ("ant", "bee", "cat")
    inside = {name: f"all/set/{name}" if "of a" in way else name for name in FILES}
    names = sorted(FILES, key=lambda name: sha256(inside[name].encode()).digest())
    assert set(test.labels.tolist()) == {0, 1, 2}  # the images held out are of all classes
    for images, first in ((train, 0), (test, 18)):
        for i in range(len(images)):
            kind, number = names[first + i].removesuffix(".png").split("/")
            assert images.label_names[images.labels[i]] == kind
            assert (images.pixels[i] == 10 * int(number) + ("cat", "ant", "bee").index(kind)).all()
    assert found.name == "set"
    assert found.obstacle is None  # the cache can be streamed
    assert found.notes == ("colour like " + ("all/set/" if "of a" in way else "") + "ant/0.png",)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["a.png", "b.png"], {"train": ([0, 1], [])}),
        (["x/a.png", "y/b.png"], {"train": ([0, 1], ["x", "y"])}),
        (["train/a.png", "test/b.png"], {"train": ([0], []), "test": ([1], [])}),
        (["train/x/a.png", "val/y/b.png"], {"train": ([0], ["x"]), "test": ([1], ["y"])}),
        (["Train/x/a.png", "test/y/b.png", "val/y/c.png"], {"train": ([0], ["x"]), "test": ([1], ["y"])}),
        (["d/train/x/a.png", "d/train/y/b.png"], {"train": ([0, 1], ["x", "y"])}),
        (["test/a.png", "x/b.png"], {"train": ([0, 1], ["test", "x"])}),  # classes
        (["d/e/a.png", "d/e/b.png"], {"train": ([0, 1], ["e", "e"])}),
        (["x/1/a.png", "y/2/b.png"], {"train": ([0, 1], ["x", "y"])}),
    ],
)
def test_folders_are_parts_and_classes(names, parts):
    assert {part: tuple(found) for part, found in arrange(names, Path("set")).items()} == parts


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png", "x/b.png"], r"1 of 2 images are beside the folders of classes \(x\)"),
        (["train/a.png", "b.png"], "b.png is beside the folders train and test"),
        (["train/x/a.png", "test/x/b.png", "more/c.png"], "more is beside train and test, neither part nor class"),
        (["train/x/a.png", "test/b.png"], "one part are in folders of classes, those of the other are not"),
    ],
)
def test_mixed_folders_are_refused(names, message):
    with pytest.raises(DataError, match=f"^set: .*{message}"):
        arrange(names, Path("set"))


def test_the_settings_resize_crop_and_choose_channels(tmp_path):
    folder = written(tmp_path / "set", {"a.png": png(100, (20, 40)), "b.png": png(200, (30, 30))})
    for wish, shape in (
        (Wish((8, 10)), [2, 3, 8, 10]),
        (Wish((8, 8), "center", 1), [2, 1, 8, 8]),
        (Wish((5, 7), "none", 3), [2, 3, 5, 7]),
    ):
        images = vf.load_images(folder, test_fraction=0, image_size=wish.size, crop=wish.crop, channels=wish.channels)
        assert list(images.pixels.shape) == shape
        assert [int(image.float().mean()) for image in images.pixels] == [100, 200]
    with pytest.raises(DataError, match=r"set: b.png has another size: 30 x 30, not 20 x 40; --image-size H W resizes"):
        DataSet.open(folder)


def test_a_few_broken_files_are_left_out_and_named(tmp_path):
    files = {f"{i:03}.png": png(i) for i in range(200)} | {"050.png": b"broken", "120.png": png()[:40]}
    found = DataSet.open(written(tmp_path / "set", files))
    train, _ = found.splits(0)
    kept = [i for i in range(200) if i not in (50, 120)]
    assert train.pixels[:, 0, 0, 0].tolist() == kept
    assert found.notes[1].startswith("left out 2 of 200 files, which are broken: 050.png (cannot identify image file")
    (tmp_path / "set" / "121.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 200 image files are broken, more than 1%: 050.png \(.*; 120.png"):
        DataSet.open(tmp_path / "set")


def test_a_member_of_a_zip_that_cannot_be_inflated_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(120):
            archive.writestr(f"{i:03}.png", png(i))
        info = archive.getinfo("050.png")
    content = bytearray((tmp_path / "set.zip").read_bytes())
    begin = info.header_offset + 30 + len(info.filename)
    content[begin : begin + info.compress_size] = b"\xff" * info.compress_size
    (tmp_path / "set.zip").write_bytes(content)
    found = DataSet.open(tmp_path / "set.zip")
    assert len(found.splits(0)[0]) == 119
    assert found.notes[1].startswith("left out 1 of 120 files, which are broken: 050.png")


def test_transparency_and_orientation_are_said(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    file = BytesIO()
    Image.fromarray(np.zeros((6, 5, 4), np.uint8)).save(file, "PNG", exif=exif)
    found = DataSet.open(written(tmp_path / "set", {"a.png": file.getvalue(), "b.png": png()}))
    assert found.notes[1:] == (
        "1 images had transparent pixels, which are now on white", "1 images were turned upright, as their EXIF says",
    )  # fmt: skip


def test_the_cache_is_found_again_and_depends_on_files_and_settings(tmp_path, cache):
    folder = written(tmp_path / "set", {"a.png": png(1), "b.png": png(2)})

    def folders():
        return {path.name for path in cache.iterdir() if path.is_dir()}

    DataSet.open(folder)
    (first,) = folders()
    array = cache / first / "train.npy"
    before = array.stat().st_mtime_ns
    assert np.load(array).shape == (2, 3, 6, 5)
    DataSet.open(folder)
    assert (folders(), array.stat().st_mtime_ns) == ({first}, before)
    DataSet.open(folder, image_files=Wish((4, 4)))
    assert len(folders()) == 2
    (folder / "c.png").write_bytes(png(3))
    assert len(DataSet.open(folder).splits(0)[0]) == 3
    assert len(folders()) == 3
    made = json.loads((cache / first / "made.json").read_text())
    assert made["from"] == str(folder)


def test_a_killed_conversion_leaves_nothing_that_counts(tmp_path, cache):
    """Kill a process amid its decoding; the next one removes what it left and finishes."""
    files = {f"{i:05}.png": png(i % 256, (64, 64)) for i in range(3000)}
    folder = written(tmp_path / "set", files)
    code = f"from vae_fast.data.dataset import DataSet; DataSet.open({str(folder)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(cache.glob("*.part/train.npy")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".part"]
    train, _ = DataSet.open(folder).splits(0)
    assert train.pixels[:, 0, 0, 0].tolist() == [i % 256 for i in range(3000)]
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [""]


def link_outside(path):
    (path / "secret.png").write_bytes(png())
    written(path / "set", {"a.png": png()})
    (path / "set" / "b.png").symlink_to(path / "secret.png")
    return path / "set"


def pipe(path):
    written(path / "set", {"a.png": png()})
    os.mkfifo(path / "set" / "b.png")
    return path / "set"


def lying_zip(path):
    zipped(path / "set.zip", {"a.png": png(), "b.png": png()})
    content = bytearray((path / "set.zip").read_bytes())
    content[content.index(b"IDAT")] ^= 0xFF
    (path / "set.zip").write_bytes(content)
    return path / "set.zip"


HOSTILE = {
    "a link out": (link_outside, "b.png: a link that leads out of .*set; replace it"),
    "a pipe": (pipe, "b.png: neither a file nor a folder"),
    "a tar with ..": (
        lambda path: tarred(path / "s.tar", {"../../a.png": png()}), r"s.tar: its member '../../a.png' leads out"),
    "a tar with /": (lambda path: tarred(path / "s.tar", {"/etc/a.png": png()}), "its member '/etc/a.png' leads out"),
    "a zip with ..": (lambda path: zipped(path / "s.zip", {"x/../../a.png": png()}), "leads out of the archive"),
    "a damaged zip": (lying_zip, r"set.zip: 1 of 2 image files are broken, more than 1%: a.png \(cannot identify"),
    "a short tar": (
        lambda path: written(path, {"s.tar": tarred(path / "t.tar", FILES).read_bytes()[:3000]}) / "s.tar", "s.tar: "),
    "no tar": (lambda path: written(path, {"s.tar": b"x" * 2000}) / "s.tar", "s.tar: "),
    "no images": (lambda path: zipped(path / "s.zip", {"a.txt": b"x"}), "s.zip: no image files .* in it"),
    "an empty folder": (lambda path: written(path / "s", {".x": b""}), "s: neither image files .*; it holds .x"),
    "all broken": (lambda path: written(path / "s", {"a.png": b"x"}), "none of its first 1 files is an image: a.png: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_input_is_one_clear_error_and_nothing_is_written(kind, tmp_path, cache):
    make, message = HOSTILE[kind]
    with pytest.raises(DataError, match=message) as caught:
        DataSet.open(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert not cache.exists() or [path.name for path in cache.iterdir()] == [".lock"]


def test_settings_of_image_files_are_refused_for_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 5), np.uint8))
    for wish, name in ((Wish((8, 8)), "image_size"), (Wish(crop="center"), "crop"), (Wish(channels=1), "channels")):
        with pytest.raises(DataError, match=f"^{name}: expected none, since .*x.npy is no folder or archive"):
            DataSet.open(tmp_path / "x.npy", image_files=wish)


@pytest.mark.parametrize("feed", ["device", "stream"])
def test_a_run_trains_on_a_folder_and_resumes(feed, tmp_path, capfd):
    folder = written(tmp_path / "set", {f"{c}/{i}.png": png(None, (9, 9)) for c in "ab" for i in range(40)})
    run = vf.fit(
        vf.Config(
            data=folder, image_size=(8,), channels=1, hidden=(8,), latent=2, batch_size=8, epochs=1, feed=feed,
            out=tmp_path / "run",
        )
    )  # fmt: skip
    assert "data: set, 1 x 8 x 8, 72 training, 8 test images" in capfd.readouterr().out
    vf.fit(vf.Config.from_toml(run.directory / "config.toml", resume=run.directory, epochs=2))
    selection = vf.Trained.open(run.directory).images("test")
    assert {selection.label(i) for i in range(8)} == {"a", "b"}
