"""What the suites share: options, images, the cases for this machine, and what goes into the JSON."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from benchmarks import cores
from benchmarks.contenders import registry
from benchmarks.harness import budget, floors
from benchmarks.harness.metadata import Case, machine
from benchmarks.harness.pacing import Pacing
from benchmarks.harness.rounds import Pace
from vae_fast.cli.numbers import non_negative, positive_number
from vae_fast.data.builtin import find_known
from vae_fast.runtime.plan import auto_precision

BATCHES = {"cpu": [128, 1024], "cuda": [128, 1024, 4096, 8192]}
# Warnings that are errors elsewhere: on a GPU, contenders run as users have them, float32 without TF32, Adam captured.
ADVICE = ("TensorFloat32 tensor cores", "This instance was constructed with capturable=True")
_NOT_MEASURED = pytest.StashKey[list[dict[str, Any]]]()
_FLOORS = pytest.StashKey[dict[str, Any]]()
_IMAGES = pytest.StashKey[str]()
_PACING = pytest.StashKey[Pacing]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vae_fast")
    group.addoption("--long", action="store_true", help="the peers and time_to_elbo, too: a quarter of an hour more")
    group.addoption("--batch", type=positive_number, nargs="+", help="batch sizes instead of the device's usual ones")
    group.addoption(
        "--rounds", type=positive_number, default=9, help="rounds of a contender and its baseline; half for epochs"
    )
    waits = "seconds a benchmark may wait for cores that share a cache (CPU)"
    group.addoption("--patience", type=non_negative, default=0.0, help=waits)
    lasts = f"seconds that all benchmarks may take; 0: no limit (default: {budget.DEFAULT:.0f}, or 0 with "
    group.addoption("--budget", type=non_negative, help=f"{lasts} --long or --patience)")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("benchmark_json", None)
    if file is not None and not file.resolve().parent.is_dir():  # or noticed only after minutes, when it is written
        raise pytest.UsageError(f"--benchmark-json: the folder of {file} does not exist")
    for beginning in ADVICE:
        config.addinivalue_line("filterwarnings", f"ignore:{beginning}")
    config.stash[_NOT_MEASURED] = []
    config.stash[_FLOORS] = {}
    config.stash[_IMAGES] = "random"
    more = config.getoption("--long") or config.getoption("--patience") > 0
    whole = budget.Budget(budget.seconds_of(config.getoption("--budget"), more))
    config.stash[_PACING] = Pacing(config, whole, config.stash[_NOT_MEASURED].append)
    config.pluginmanager.register(config.stash[_PACING], "vae_fast-pacing")


def the_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def cases(config: pytest.Config, module: object = None) -> list[Case]:
    """Return float32, and mixed precision where it is fast; a module may name its own BATCHES and PRECISIONS."""
    device = the_device()
    batches = getattr(module, "BATCHES", None) or config.getoption("--batch") or BATCHES[device]
    usual = dict.fromkeys(("fp32", auto_precision(torch.device(device))[0]))
    return [Case(device, precision, n) for precision in getattr(module, "PRECISIONS", usual) for n in batches]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases(metafunc.config, metafunc.module), ids=str)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Start every test with the same random numbers, and drop its compiled code."""
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def pace(pytestconfig: pytest.Config) -> Pace:
    rounds, patience = pytestconfig.getoption("--rounds"), pytestconfig.getoption("--patience")
    return Pace(rounds, patience, pytestconfig.stash[_PACING].budget)


@pytest.fixture(scope="session")
def mnist() -> dict[str, Tensor] | None:
    """Return both splits, [N, 784] uint8 on the device, or None if they are not on disk: nothing is downloaded."""
    if find_known("mnist") is None:
        return None
    return {split: vf.load_images("mnist", split).pixels.flatten(1).to(the_device()) for split in ("train", "test")}


@pytest.fixture(scope="session")
def pixels(pytestconfig: pytest.Config, mnist: dict[str, Tensor] | None, measured_floors: None) -> Tensor:
    """Return [N, 784] uint8 on the device: MNIST, or else the thousand embedded digits."""
    pytestconfig.stash[_IMAGES] = "digits" if mnist is None else "mnist"
    return vf.load_images("digits").pixels.flatten(1).to(the_device()) if mnist is None else mnist["train"]


@pytest.fixture(scope="session")
def measured_floors(pytestconfig: pytest.Config, pace: Pace) -> None:
    batches = sorted({case.batch for case in cases(pytestconfig)})
    if the_device() == "cpu":
        cores.wait(pace.patience)
    pytestconfig.stash[_FLOORS] |= floors.measure(the_device(), batches)


@pytest.fixture
def skip(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return skip(reason, suite=..., contender=..., ...), which records in the JSON what was not measured, and why."""

    def skipped(reason: str, **what: Any) -> None:
        request.config.stash[_NOT_MEASURED].append({**what, "reason": reason})
        pytest.skip(reason)

    return skipped


@pytest.fixture
def require(skip: Callable[..., None]) -> Callable[..., None]:
    """Return require(suite, name, label, case), which skips a contender that is not available here."""

    def required(suite: str, name: str, label: str, case: Case) -> None:
        reason = registry.missing(name, case.device, case.precision)
        if reason is not None:
            skip(
                reason,
                suite=suite,
                contender=name,
                label=label,
                batch=case.batch,
                precision=case.precision,
                device=case.device,
            )

    return required


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    return machine()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    output_json["images"] = config.stash[_IMAGES]
    output_json["floors"] = config.stash[_FLOORS]
    output_json["not_measured"] = config.stash[_NOT_MEASURED]
    output_json["budget"] = config.stash[_PACING].budget.seconds
    output_json["busy"] = config.stash[_PACING].busy
