"""Tests of reading rows of a file: C++ and Python give the same rows and the same errors."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vae_fast.kernels import extension, file_io

HEADER, COUNT, WIDTH = 24, 50, 96
ROWS = torch.randint(0, 256, (COUNT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMPLEMENTATIONS = [
    pytest.param("cpp", marks=pytest.mark.skipif(not extension.load(), reason=extension.status())),
    "python",
]


@pytest.fixture(params=IMPLEMENTATIONS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(file_io, "HAS_LIBRARY", request.param == "cpp")
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "rows"
    path.write_bytes(bytes(HEADER) + ROWS.numpy().tobytes())
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    yield descriptor
    os.close(descriptor)


@pytest.mark.usefixtures("impl")
@pytest.mark.parametrize("cold", [False, True])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.integers(0, COUNT - 1), max_size=70))
def test_rows_are_read_in_the_requested_order(file: int, cold: bool, rows: list[int]) -> None:
    if cold:  # rows that are not in memory are read differently
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    index = torch.tensor(rows, dtype=torch.int64)
    for dtype in (torch.uint8, torch.float32):
        out = torch.empty(len(rows), WIDTH // dtype.itemsize, dtype=dtype)
        file_io.read_rows(file, HEADER, index, out)
        assert torch.equal(out.view(torch.uint8), ROWS[index])


@pytest.mark.usefixtures("impl")
def test_rows_that_cannot_be_read_raise(file: int) -> None:
    out = torch.empty(2, WIDTH, dtype=torch.uint8)
    os.ftruncate(file, HEADER + COUNT * WIDTH - 1)
    with pytest.raises(EOFError):
        file_io.read_rows(file, HEADER, torch.tensor([0, COUNT - 1]), out)
    with pytest.raises(EOFError):
        file_io.read_span(file, HEADER + (COUNT - 2) * WIDTH, out)
    folder = os.open("/", os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        file_io.read_rows(folder, HEADER, torch.tensor([0, 1]), out)
    os.close(folder)
    with pytest.raises(ValueError, match="rows: expected 0 or more, got -1"):
        file_io.read_rows(file, HEADER, torch.tensor([0, -1]), out)
    with pytest.raises(ValueError, match=r"read_rows: expected contiguous rows \[n\] and out \[n, ...\]"):
        file_io.read_rows(file, HEADER, torch.tensor([0, 1, 2]), out)
    with pytest.raises(ValueError, match=r"read_rows: expected contiguous rows \[n\] and out \[n, ...\]"):
        file_io.read_rows(file, HEADER, torch.tensor([0, 1]), out[:, ::2])
    with pytest.raises(TypeError, match="rows: expected int64"):
        file_io.read_rows(file, HEADER, torch.tensor([0.0, 1.0]), out)
