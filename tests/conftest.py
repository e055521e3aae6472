"""What several test files need: real data, and settings small enough for a run of a second or two."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vae_fast as vf
from vae_fast.runtime.compile import can_precompile_headers
from vae_fast.training.cuda_graphs import Capture, Program

# As the engine does for itself.
os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", str(int(can_precompile_headers())))

# PyTorch looks at this once, at the first product on a GPU, and refuses deterministic ones where it was not there.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# A shell's job in the background ignores Ctrl-C, and so would all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test starts may measure, and may use both cores: it is no process of pytest-xdist, which pytest-benchmark and
# others take every process with these variables for.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
    del os.environ[name]

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, so that others run beside it where there are several processes."""
    items.sort(key=lambda item: item.name != "test_interpreted")


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., vf.Config]:
    """Settings of a small run on the embedded digits, in tmp_path/run unless told otherwise."""

    def config(**settings: Any) -> vf.Config:
        defaults = {"data": "digits", "hidden": (16,), "latent": 4, "epochs": 2, "out": str(tmp_path / "run")}
        return vf.Config(**{**defaults, **settings})

    return config


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on the embedded digits, for those who only look at it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return vf.fit(vf.Config(data="digits", hidden=(64,), latent=4, epochs=2, lr=2e-3, out=str(out))).directory


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For whatever runs beside other processes or libraries: threads that wait for each other in turns are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mnist_root() -> Path:
    """The folder that holds all of MNIST."""
    for folder in (os.environ.get("VAE_FAST_DATA"), SHARED_DATA):
        if folder and (Path(folder) / "mnist").is_dir():
            return Path(folder)
    pytest.skip("all of MNIST is neither in VAE_FAST_DATA nor in ../shared/data")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every new tensor is full of NaN, or of the largest integer, until a kernel has written it."""
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory
    yield
    torch.use_deterministic_algorithms(False)


class Recorder(TorchDispatchMode):
    """What a CUDA graph does with a program, on a CPU: the kernels of one run, replayed over the same memory.

    Every operator that reaches PyTorch's dispatcher is written down with its arguments as they are: tensors by
    reference, Python numbers as values of that moment. A replay calls them again in the same order and puts each result
    where the first run had put it. So whatever a program works out in Python, or keeps anywhere else than in those
    tensors, stands still, as it would in a graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, _tensors(result)))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outputs in self._calls:
            for new, static in zip(_tensors(func(*args, **kwargs)), outputs, strict=True):
                if new.data_ptr() != static.data_ptr():
                    static.copy_(new)


@pytest.fixture
def record() -> Capture:
    """As vae_fast.training.cuda_graphs.capture: the program runs, and what it did is returned."""

    def recorded(program: Program) -> Recorder:
        recorder = Recorder()
        with recorder:
            program()
        return recorder

    return recorded


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
