"""Tests of the readers: what is written is read back; damaged or forged files raise a `DataError` that says so."""

import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vae_fast.data.arrays.readers import read
from vae_fast.errors import DataError

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray) -> bytes:
    code = IDX_CODES[array.dtype.str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def npy(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def npz(**members: np.ndarray) -> bytes:
    np.savez_compressed(file := io.BytesIO(), **members)
    return file.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


WRITERS = {
    "idx": idx,
    "idx.gz": lambda array: gzip.compress(idx(array), mtime=0),
    "npy": npy,
    "npy, Fortran order": lambda array: npy(np.asfortranarray(array)),
    "npy.gz": lambda array: gzip.compress(npy(array), mtime=0),
    "npz": lambda array: npz(train=array),
    "npz, stored": lambda array: zipped(("train.npy", npy(array)), method=zipfile.ZIP_STORED),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("readers") / "file"  # no suffix: the first bytes must suffice


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back(path, kind, data):
    dtype = data.draw(st.sampled_from([*IDX_CODES] if "idx" in kind else [*IDX_CODES, ">f4", "f2", "u8", "?"]))
    array = data.draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=4, max_side=5)))
    path.write_bytes(WRITERS[kind](array))
    sources = read(path)
    assert [*sources] == ["train"]
    assert sources["train"].where.startswith(str(path))
    np.testing.assert_array_equal(sources["train"].array, array, strict="idx" not in kind)  # IDX is big-endian


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        (["arr_0"], ["train"]),
        (["X", "y"], ["train", "train_labels"]),
        (["images", "labels"], ["train", "train_labels"]),
        (["x_train", "y_train", "x_test", "y_test"], ["train", "train_labels", "test", "test_labels"]),
        (["train", "test", "test_labels"], ["train", "test", "test_labels"]),
    ],
)
def test_members_may_have_other_common_names(path, members, parts):
    path.write_bytes(npz(**{name: IMAGES + i for i, name in enumerate(members)}))
    sources = read(path)
    assert [*sources] == parts
    for i, (name, part) in enumerate(zip(members, parts, strict=True)):
        np.testing.assert_array_equal(sources[part].array, IMAGES + i)
        assert sources[part].where == f"{path} ({name})"
        assert sources[part].alias == ("" if name == part else name)


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_is_found_or_harmless(path, kind, data):
    content = bytearray(WRITERS[kind](IMAGES))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content) - 1)), label="cut")
    for _ in range(data.draw(st.integers(0 if cut is not None else 1, 4), label="changes")):
        # The headers, in the first and (zip) the last bytes, are where damage does most.
        at = data.draw(st.one_of(st.integers(0, 19), st.integers(-80, -1), st.integers(0, len(content) - 1)))
        content[max(at, -len(content))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[:cut])
    try:
        sources = read(path)
    except DataError as error:
        message = str(error)
        assert message.startswith(str(path))
    else:
        array = sources["train"].array
        if kind in ("idx", "npy", "npy, Fortran order"):  # no checksum: the content may differ, but never the size
            assert cut is None
            assert array.nbytes == IMAGES.nbytes
        else:
            np.testing.assert_array_equal(array, IMAGES)


def forged(shape: tuple[int, ...]) -> bytes:
    """Return a .npy whose header claims `shape`, with the elements of IMAGES."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + IMAGES.tobytes()


HUGE = (1 << 20, 1 << 12, 1 << 12)  # 16 TiB
HUGE_IDX = struct.pack(">HBB3I", 0, 0x08, 3, *HUGE) + IMAGES.tobytes()
ZEROS = np.zeros((1000, 1000), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "begins with b''; expected an array", id="no bytes"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "is a PNG picture; expected an array", id="picture"),
        pytest.param(b"PAR1\x15\x04", "is Parquet; expected an array", id="Parquet"),
        pytest.param(b"\x80\x04\x95", "is a pickle; expected an array", id="pickle"),
        pytest.param(gzip.compress(b"hello"), "begins with b.hell.; expected an array", id="other kind gzipped"),
        pytest.param(b"\0\0\x07\x01\0\0\0\x01\0", "IDX has no dtype code 0x07", id="idx dtype"),
        pytest.param(b"\0\0\x08\x03\0\0\0", "ends inside its header", id="idx header cut"),
        pytest.param(b"\0\0\x08\x00", r"shape \[\]: expected 1 to 4 dimensions", id="idx no dimension"),
        pytest.param(idx(IMAGES[None, None]), "expected 1 to 4 dimensions", id="idx five dimensions"),
        pytest.param(idx(IMAGES)[:-1], r"truncated: .* uint8\[2, 3, 4\], 24 bytes, and 23 follow", id="idx cut"),
        pytest.param(idx(IMAGES) + b"\0", "trailing bytes: .* 24 bytes, and 25 follow", id="idx longer"),
        pytest.param(idx(IMAGES[:0]), r"empty: its shape is \[0, 3, 4\]", id="idx empty"),
        pytest.param(HUGE_IDX, "truncated: .* 17592186044416 bytes", id="idx forged shape"),
        pytest.param(
            gzip.compress(HUGE_IDX), "truncated or forged: .* 17592186044416 bytes, which", id="gz forged shape"
        ),
        pytest.param(
            gzip.compress(idx(IMAGES)[:-1]), "truncated: it unpacks to 23 of the 24 bytes", id="gz of cut idx"
        ),
        pytest.param(gzip.compress(idx(IMAGES))[:-9], "damaged: Compressed file ended", id="gz cut"),
        pytest.param(gzip.compress(idx(IMAGES) + bytes(10**8)), "trailing bytes: it unpacks to more", id="gz bomb"),
        pytest.param(npy(IMAGES)[:-1], "truncated: .* 24 bytes, and 23 follow", id="npy cut"),
        pytest.param(npy(IMAGES) + b"\0", "trailing bytes", id="npy longer"),
        pytest.param(npy(IMAGES[:0]), "empty: its shape", id="npy empty"),
        pytest.param(npy(np.float32(1)), "expected 1 to 4 dimensions", id="npy scalar"),
        pytest.param(forged(HUGE), "truncated: .* 17592186044416 bytes", id="npy forged shape"),
        pytest.param(forged((-4, -6)), "expected 1 to 4 dimensions, none negative", id="npy negative shape"),
        pytest.param(npy(np.array([{}], object)), "pickled Python objects, which are never loaded", id="npy pickled"),
        pytest.param(npy(np.array(["a"])), "dtype <U1: expected numbers", id="npy text"),
        pytest.param(npy(IMAGES).replace(b"\x01\0", b"\x02\0", 1), "not .npy version 1.0", id="npy version"),
        pytest.param(npy(IMAGES).replace(b"shape", b"shade"), "damaged: Header does not contain", id="npy header"),
        pytest.param(zipped(), "it holds nothing", id="npz without members"),
        pytest.param(npz(x_train=IMAGES, train=IMAGES), "nothing else; it holds x_train, train", id="npz names"),
        pytest.param(npz(test=IMAGES), "expected the members train and", id="npz without train"),
        pytest.param(zipped(("train", b""), ("train.npy", b"")), "each once", id="npz same name twice"),
        pytest.param(zipped(*((f"m{i}", b"") for i in range(5000))), "nothing else; it holds m0, m1", id="npz crowded"),
        pytest.param(zipped(("train.npy", forged(HUGE))), r"\(train\): truncated: .* 24 follow", id="npz forged shape"),
        pytest.param(zipped(("train.npy", npy(IMAGES) + b"\0")), "trailing bytes", id="npz member longer"),
        pytest.param(npz(train=np.array([{}], object)), "pickled Python objects", id="npz pickled"),
        pytest.param(zipped(("train", npy(IMAGES)), method=zipfile.ZIP_LZMA), "unusual compression", id="npz lzma"),
        pytest.param(npz(train=ZEROS)[:-30], "damaged: File is not a zip file", id="npz cut"),
    ],
)
def test_a_bad_file_raises_an_error_that_names_the_fault(path, content, message):
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}")


def test_a_size_that_only_a_zip_bomb_could_unpack_to_is_refused(path):
    """Check that sizes are compared with the compressed bytes, because the central directory of a zip may lie too."""
    big = bytearray(zipped(("train.npy", forged((1 << 24,)))))
    size = len(forged((1 << 24,)))
    honest, lie = struct.pack("<I", size), struct.pack("<I", size - IMAGES.nbytes + (1 << 24))
    path.write_bytes(big.replace(honest, lie))
    with pytest.raises(DataError, match="compressed bytes cannot hold"):
        read(path)


@pytest.mark.parametrize("file", ["{}", "{}.gz", "{}/{}"])
@pytest.mark.parametrize("dot", ["-idx", ".idx"])
def test_a_folder_of_idx_files_is_read_in_all_usual_layouts(tmp_path, file, dot):
    pack = gzip.compress if file.endswith(".gz") else bytes
    names = {
        "train-images-idx3-ubyte": IMAGES,
        "train-labels-idx1-ubyte": IMAGES[:, 0, 0],
        "t10k-images-idx3-ubyte": IMAGES,
    }
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte\[.gz\] in this folder, which holds nothing"):
        read(tmp_path)
    paths = {name: tmp_path / file.replace("{}", name.replace("-idx", dot)) for name in names}
    for name, array in names.items():
        paths[name].parent.mkdir(exist_ok=True)
        paths[name].write_bytes(pack(idx(array)))
    sources = read(tmp_path)
    assert [*sources] == ["train", "train_labels", "test"]
    for source, array in zip(sources.values(), names.values(), strict=True):
        np.testing.assert_array_equal(source.array, array)
    assert sources["test"].where == str(paths["t10k-images-idx3-ubyte"])


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission_is_an_error(path):
    path.write_bytes(idx(IMAGES))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(path)
