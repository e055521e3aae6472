"""Fixtures for several test files: real data, and settings small enough for a run of a second or two."""

import os
import shutil
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

# PyTorch reads this once, at the first product on a GPU, and without it refuses deterministic products.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# A shell's background job ignores Ctrl-C, and so would every process that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A process that a test starts may measure and may use both cores; with these variables, pytest-benchmark and others
# would mistake it for a worker of pytest-xdist.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
    del os.environ[name]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Compute on two threads, whatever the number of the process that runs the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, so that with several processes others run alongside."""
    items.sort(key=lambda item: item.name != "test_the_interpreted_kernels_pass")


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., vf.Config]:
    """Return a function that makes settings of a small run on the embedded digits, by default in tmp_path/run."""

    def config(**settings: Any) -> vf.Config:
        defaults = {"data": "digits", "hidden": (16,), "latent": 4, "epochs": 2, "out": str(tmp_path / "run")}
        return vf.Config(**{**defaults, **settings})

    return config


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs on the embedded digits, for tests that do not change it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return vf.fit(vf.Config(data="digits", hidden=(64,), latent=4, epochs=2, lr=2e-3, out=str(out))).directory


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of six runs of two epochs, which differ in `latent` and `lr`, for tests that do not change it."""
    folder = tmp_path_factory.mktemp("sweep")
    for latent in (2, 3, 4):
        for lr in (1e-3, 3e-3):
            out = folder / f"z{latent}-lr{lr:g}"
            vf.fit(vf.Config(data="digits", hidden=(16,), latent=latent, lr=lr, epochs=2, out=str(out)))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a real browser, or skip the test."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver (Debian's chromium-driver) are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread, for tests alongside other processes or libraries: threads that take turns waiting are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mnist_root() -> Path:
    """Return the folder that holds all of MNIST, or skip the test."""
    for folder in (os.environ.get("VAE_FAST_DATA"), SHARED_DATA):
        if folder and (Path(folder) / "mnist").is_dir():
            return Path(folder)
    pytest.skip("all of MNIST is neither in VAE_FAST_DATA nor in ../shared/data")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill every new tensor with NaN, or with the largest integer, until a kernel writes it."""
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory
    yield
    torch.use_deterministic_algorithms(False)


class Recorder(TorchDispatchMode):
    """A CUDA graph emulated on a CPU: the operators of one run, replayed over the same memory.

    Every operator that reaches PyTorch's dispatcher is recorded with its arguments: tensors by reference, Python
    numbers by their current value. A replay calls the operators again in the same order and puts each result where the
    first run had put it. Whatever a program computes in Python, or keeps outside those tensors, therefore stays frozen,
    as it would in a graph.
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
    """Return a substitute for vae_fast.training.cuda_graphs.capture: it runs a program and returns a recording."""

    def recorded(program: Program) -> Recorder:
        recorder = Recorder()
        with recorder:
            program()
        return recorder

    return recorded


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
