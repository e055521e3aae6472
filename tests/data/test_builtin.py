"""Tests of the sets known by name: where they are found, how their content identifies them, and the embedded digits."""

import gzip
import hashlib
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vae_fast.data import builtin
from vae_fast.data.arrays.readers import IDX_NAMES, read
from vae_fast.data.builtin import Known, read_known
from vae_fast.errors import DataError

NAMES = ("mnist", "fashion-mnist")


def idx_files(seed: int) -> dict[str, bytes]:
    """Return a small set like MNIST, as the unpacked content of its four files."""
    rng = np.random.default_rng(seed)
    shapes = {"train": (6, 4, 4), "train_labels": (6,), "test": (3, 4, 4), "test_labels": (3,)}
    return {
        part: bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + rng.bytes(np.prod(shape))
        for part, shape in shapes.items()
    }


SETS = {name: idx_files(seed) for seed, name in enumerate(NAMES)}


def put(folder: Path, name: str, *, suffix: str = ".gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in SETS[name].items():
        (folder / f"{IDX_NAMES[part]}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def assert_is(sources, name):
    assert {part: source.array.tobytes() for part, source in sources.items()} == {
        part: content[4 + 4 * content[3] :] for part, content in SETS[name].items()
    }


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return the folders (root, env, cache, system) of a machine that has neither set, with both sets made small."""
    folders = {place: tmp_path / place for place in ("root", "env", "cache", "system")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("VAE_FAST_DATA", str(folders["env"]))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: folders["cache"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, files in SETS.items():
        sha256 = {part: hashlib.sha256(content).hexdigest() for part, content in files.items()}
        system = (folders["system"],) if name == "fashion-mnist" else ()
        monkeypatch.setitem(builtin._KNOWN, name, Known(sha256, mirrors=(), folders=system))
    monkeypatch.setattr(builtin, "_SIZES", {part: len(content) for part, content in files.items()})
    return folders


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["root", "root/{}", "env", "env/{}", "cache", "cache/{}", "system"])
def test_a_set_is_found_in_any_of_its_folders(machine, tmp_path, place, suffix):
    for name in ("fashion-mnist",) if place == "system" else NAMES:
        put(tmp_path / place.format(name), name, suffix=suffix)
        assert_is(read_known(name, machine["root"]), name)


@pytest.mark.parametrize("place", ["root", "env", "cache"])
def test_another_set_with_the_same_file_names_is_ignored(machine, place):
    """Check that fashion-mnist is not read from a folder of MNIST that VAE_FAST_DATA names directly."""
    put(machine[place], "mnist")
    with pytest.raises(DataError, match="fashion-mnist: not in any of"):
        read_known("fashion-mnist", machine["root"])
    put(machine["system"], "fashion-mnist")
    assert_is(read_known("fashion-mnist", machine["root"]), "fashion-mnist")


def test_unknown_content_in_the_folder_of_a_set_is_an_error(machine):
    folder = put(machine["env"] / "fashion-mnist", "mnist")
    with pytest.raises(
        DataError, match=r"content is not that of fashion-mnist .*damaged, or from another set"
    ) as caught:
        read_known("fashion-mnist")
    assert str(caught.value).startswith(str(folder / IDX_NAMES["train"]))


@pytest.mark.parametrize("place", ["root", "root/mnist"])
@pytest.mark.parametrize("damage", ["one pixel", "cut"])
def test_a_damaged_file_is_an_error(machine, tmp_path, place, damage):
    path = put(tmp_path / place, "mnist", suffix="") / IDX_NAMES["test"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{path}: (truncated|its content is not that of mnist)"):
        read_known("mnist", machine["root"])


def test_the_data_root_must_be_a_folder(machine, tmp_path):
    with pytest.raises(DataError, match=r"data root .*/nowhere: no such folder"):
        read_known("mnist", tmp_path / "nowhere")


def test_a_set_is_downloaded_into_the_cache_once(machine, tmp_path):
    mirror = put(tmp_path / "mirror", "mnist")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(mirror))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            assert_is(read_known("mnist", mirrors=[f"http://127.0.0.1:{server.server_port}/"]), "mnist")
        finally:
            server.shutdown()
            thread.join()
    assert_is(read_known("mnist", mirrors=[]), "mnist")


def test_the_error_for_a_missing_set_names_all_folders_and_the_failed_download(machine):
    with pytest.raises(DataError) as caught:
        read_known("mnist", machine["root"])
    for words in ("mnist: not in any of", *(str(machine[place]) for place in ("root", "env", "cache")),
                  "train-images-idx3-ubyte.gz could not be downloaded"):  # fmt: skip
        assert words in str(caught.value)


def test_the_embedded_digits_are_the_first_thousand_of_each_part():
    sources = read_known("digits")
    assert {part: (source.array.shape, str(source.array.dtype)) for part, source in sources.items()} == {
        "train": ((1000, 28, 28), "uint8"),
        "train_labels": ((1000,), "uint8"),
        "test": ((1000, 28, 28), "uint8"),
        "test_labels": ((1000,), "uint8"),
    }
    assert np.bincount(sources["train_labels"].array).tolist() == [97, 116, 99, 93, 105, 92, 94, 117, 87, 100]


def test_the_digits_can_be_made_again_from_mnist(mnist_root, tmp_path):
    script = Path(builtin.__file__).with_name("assets") / "make_digits.py"
    subprocess.run([sys.executable, script, mnist_root / "mnist", tmp_path / "digits.npz"], check=True)
    made = read(tmp_path / "digits.npz")
    for part, source in read_known("digits").items():
        np.testing.assert_array_equal(made[part].array, source.array, strict=True)


def test_the_real_mnist_is_recognised_and_begins_with_the_digits(mnist_root):
    sources = read_known("mnist", mnist_root, mirrors=[])
    assert sources["train"].where.startswith(str(mnist_root))
    assert sources["train"].array.shape == (60_000, 28, 28)
    np.testing.assert_array_equal(sources["test"].array[:1000], read_known("digits")["test"].array)
