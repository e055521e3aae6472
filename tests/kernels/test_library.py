"""Tests that the C++ library is optional: whatever is wrong with it, the reference is used and one line says why."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vae_fast
from vae_fast import kernels
from vae_fast.kernels import extension, functional
from vae_fast.runtime.environment import cpp_compiler

needs_library = pytest.mark.skipif(not extension.load(), reason=extension.status())

DRAW = """
import torch
from vae_fast.kernels import extension
from vae_fast.kernels import functional

assert extension.__file__.startswith(os.getcwd()), "the copy is not what was imported"
bits = functional.random_bits(3, 5, seed=1, step=2)
assert torch.equal(bits, functional.random_bits(3, 5, seed=1, step=2, impl="reference"))
try:
    functional.random_bits(3, 5, seed=1, step=2, impl="cpp")
except RuntimeError as error:
    assert extension.status() in str(error)
print(extension.status())
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy the installed package without its library and return the folder for another library."""
    for package in (vae_fast, kernels):
        target = tmp_path.joinpath(*package.__name__.split("."))
        shutil.copytree(Path(package.__file__).parent, target, ignore=shutil.ignore_patterns("_C*"))
    return tmp_path / "vae_fast" / "kernels"


def draw_in_fresh_process(copy: Path) -> tuple[str, str]:
    """Return the status() of the copied package after a draw, and what the process wrote to stderr."""
    command = [sys.executable, "-c", "import os" + DRAW]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy.parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_the_library_is_loaded_if_a_compiler_could_build_it() -> None:
    if cpp_compiler() is None:
        pytest.skip("no C++ compiler")
    assert extension.load()
    assert extension.status().startswith(f"C++ operators: built with torch {torch.__version__}, loaded, ")


def test_a_missing_library_gives_no_warning_but_the_status_says_why(copy: Path) -> None:
    (copy / "_C_missing.txt").write_text("no C++ compiler found\n")
    assert draw_in_fresh_process(copy) == ("C++ operators: not built: no C++ compiler found", "")


@needs_library
def test_a_library_of_another_torch_is_not_loaded(copy: Path) -> None:
    library_bytes = extension._LIBRARY.read_bytes()
    marker = f"built with torch {torch.__version__}".encode()
    assert library_bytes.count(marker) == 1
    (copy / "_C.so").write_bytes(library_bytes.replace(marker, marker[:-1] + b"?"))
    status, stderr = draw_in_fresh_process(copy)
    assert f"not loaded: built with torch {torch.__version__[:-1]}?, this is torch {torch.__version__}; " in status
    assert stderr == status


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("truncated", "names no torch version"),
        (f"vae_fast built with torch {torch.__version__}\0", "_C.so: "),  # the system loader's message
    ],
)
def test_a_broken_library_is_not_loaded(copy: Path, content: str, complaint: str) -> None:
    (copy / "_C.so").write_text(content)
    status, stderr = draw_in_fresh_process(copy)
    assert status.startswith("C++ operators: not loaded: ")
    assert complaint in status
    assert "reinstall" in status
    assert stderr == status


@needs_library
@pytest.mark.parametrize(("rows", "columns"), [(1, 100_003), (40_001, 2), (333, 785)])
def test_threads_do_not_change_the_bits(rows: int, columns: int) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = functional.random_bits(rows, columns, seed=3, step=4, impl="cpp")
        torch.set_num_threads(3)
        together = functional.random_bits(rows, columns, seed=3, step=4, impl="cpp")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


@needs_library
def test_the_library_shares_the_thread_pool_of_torch() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps")
    functional.random_bits(40_000, 4, seed=0, step=0, impl="cpp")
    runtimes = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line or "libomp" in line}
    assert len(runtimes) <= 1


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": torch.tensor(1.0)}, "seed: expected a 0-d int64 tensor, got Float"),
        ({"step": torch.tensor([1])}, r"step: expected a 0-d int64 tensor, got Long \[1\]"),
        ({"rows": -1}, "rows: expected a value in"),
        ({"columns": 2**34 + 1}, "columns: expected a value in"),
        ({"stream": 2**32}, "stream: expected a value in"),
    ],
)
def test_the_operator_refuses_invalid_arguments(change: dict[str, object], message: str) -> None:
    arguments = {
        "seed": torch.tensor(1), "step": torch.tensor(2), "rows": 3, "columns": 4, "row_offset": 0, "stream": 0
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        torch.ops.vae_fast.random_bits(**arguments | change)
