""".npz files written piece by piece."""

import errno
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vae_fast.artifacts import atomic, npz

ARRAYS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mu": (np.float32, (7, 3)),
    "index": (np.int64, (7,)),
    "names": (np.dtype("<U5"), (2,)),
}
MU = np.arange(21, dtype=np.float32).reshape(7, 3)
INDEX = np.arange(7) - 3


def pieces() -> Iterator[dict[str, Any]]:
    yield {"names": np.array(["left", "right"])}
    for rows in (slice(0, 4), slice(4, 7)):
        yield {"index": INDEX[rows], "mu": MU[rows].T.copy().T}  # rows that do not lie one after the other


def test_numpy_reads_the_arrays(tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        npz.write(tmp_path / name, ARRAYS, pieces())
    with np.load(tmp_path / "one.npz") as found:
        assert list(found) == ["mu", "index", "names"]
        for name, values in {"mu": MU, "index": INDEX, "names": np.array(["left", "right"])}.items():
            assert found[name].dtype == values.dtype
            assert (found[name] == values).all()
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.npz", "two.npz"}


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        block = np.zeros((1000, 64), np.float32)
        arrays = dict.fromkeys(("a", "b"), (np.float32, (1000 * count, 64)))
        tracemalloc.start()
        npz.write(tmp_path / "file.npz", arrays, ({"a": block, "b": block} for _ in range(count)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (tmp_path / "file.npz").stat().st_size > 2 * count * block.nbytes
        return most

    assert peak(80) < peak(8) + 200_000  # 41 MB of rows, and 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mu": MU[:6]}, "mu: expected 7 rows, got 6"),
        ({"mu": MU[:, :2]}, r"expected rows \[3\], float32, got \[2\], float32"),
        ({"mu": MU.astype(np.float64)}, r"expected rows \[3\], float32, got \[3\], float64"),
    ],
)
def test_rows_that_do_not_fit_leave_no_file(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        npz.write(tmp_path / "file.npz", {"mu": ARRAYS["mu"]}, [wrong])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_between_the_pieces_keeps_what_was_there(stop: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> Iterator[dict[str, Any]]:
        yield next(pieces())
        raise stop

    (tmp_path / "file.npz").write_text("an earlier file")
    with pytest.raises(stop):
        npz.write(tmp_path / "file.npz", ARRAYS, interrupted())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_is_named(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        npz.write(tmp_path / "file.npz", ARRAYS, pieces())
    assert caught.value.filename == str(tmp_path / "file.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to a device without room in place of the temporary file."""
    real = atomic._new_temporary

    def full(path: Path) -> tuple[int, Path]:
        descriptor, temporary = real(path)
        os.dup2(os.open("/dev/full", os.O_RDWR), descriptor)
        return descriptor, temporary

    monkeypatch.setattr(atomic, "_new_temporary", full)
    with pytest.raises(OSError, match="No space left") as caught:
        npz.write(tmp_path / "file.npz", ARRAYS, pieces())
    assert caught.value.filename == str(tmp_path / "file.npz")
    assert list(tmp_path.iterdir()) == []
