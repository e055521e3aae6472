"""The engine on a GPU: recorded steps equal ordinary ones, wait for nothing, and keep memory constant."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.data.sampler import BatchSampler
from vae_fast.kernels import dispatch
from vae_fast.runtime.plan import make_plan
from vae_fast.training import cuda_graphs
from vae_fast.training.engine import Engine
from vae_fast.training.validation import Validation, validate

GPU = "cuda"
TAKEN = dispatch.preferred(torch.device(GPU)) if torch.cuda.is_available() else "torch sees no CUDA device"
pytestmark = [
    pytest.mark.skipif(not TAKEN.startswith("triton"), reason=TAKEN),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),  # Inductor's advice
]
PRECISIONS: list[dict[str, Any]] = [{}, {"amp_dtype": "bf16"}, {"amp_dtype": "fp16"}]


def images() -> Tensor:
    return vf.load_images("digits").pixels.flatten(1).to(GPU)


def engine(data: Tensor | None = None, together: int = 0, **settings: Any) -> tuple[Engine, BatchSampler]:
    """Return an engine and its sampler. together: the steps in a graph; 0 lets the engine choose."""
    config = vf.Config(**{"hidden": (128,), "device": GPU, "batch_size": 50, "epochs": 100, **settings})
    data = images() if data is None else data
    sampler = BatchSampler(len(data), config.batch_size, config.seed, data.device)
    torch.manual_seed(0)
    plan = replace(make_plan(config)[0], steps_per_graph=together)
    e = Engine(vf.VAE(hidden=config.hidden).to(GPU), data, config, plan, sampler.steps_per_epoch)
    e.warm_up()
    return e, sampler


def train(e: Engine, sampler: BatchSampler, epochs: int) -> list[dict[str, Any]]:
    records = []
    for epoch in range(1, epochs + 1):
        e.begin_epoch(sampler.order(epoch))
        for count in e.launches(sampler.steps_per_epoch):
            e.advance(count)
        records.append(e.finish_epoch())
    return records


def parameters(e: Engine) -> Tensor:
    return torch.cat([p.detach().flatten() for p in e.model.parameters()])


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_recorded_steps_equal_ordinary_ones(precision: dict[str, Any], compile: bool) -> None:
    settings = {**precision, "compile": compile, "lr_schedule": "cosine", "beta_schedule": "linear", "clip": 10.0}
    recorded, sampler = engine(**settings, cuda_graphs="on", together=3)
    ordinary, _ = engine(**settings, cuda_graphs="off")
    assert recorded.launches(20) == [3] * 6 + [1] * 2
    assert train(recorded, sampler, 3) == train(ordinary, sampler, 3)
    assert torch.equal(parameters(recorded), parameters(ordinary))
    assert recorded.state()[2] == ordinary.state()[2]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_loss_falls_over_replays(precision: dict[str, Any]) -> None:
    e, sampler = engine(**precision, compile=True, cuda_graphs="on")
    losses = [record["train_loss"] for record in train(e, sampler, 10)]
    assert losses[0] > losses[1] > losses[4] > losses[9]
    assert losses[9] < 190


def test_replays_recover_from_an_overflow_of_fp16() -> None:
    e, sampler = engine(amp_dtype="fp16", cuda_graphs="on")
    train(e, sampler, 1)
    parts = e.state()
    parts[2]["scaler"]["scale"] = 2.0**24  # 2^11 times a working scale: no fp16 gradient survives it
    e.load_state(*parts)
    records = train(e, sampler, 2)
    assert 1 <= records[0]["skipped_steps"] < sampler.steps_per_epoch
    assert records[1]["skipped_steps"] == 0
    assert parameters(e).isfinite().all()


def test_a_step_that_is_not_finite_is_skipped_in_a_replay() -> None:
    data = images() / 255
    data[40] = float("nan")
    e, sampler = engine(data, cuda_graphs="on")
    assert train(e, sampler, 1)[0]["skipped_steps"] == 1
    assert parameters(e).isfinite().all()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("graph", ["on", "off"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_step_waits_for_the_device(precision: dict[str, Any], graph: Any) -> None:
    e, sampler = engine(**precision, compile=True, clip=1.0, cuda_graphs=graph)
    for epoch in (1, 2, 3):  # enough steps for reports to the host
        e.begin_epoch(sampler.order(epoch))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for count in e.launches(sampler.steps_per_epoch):
                e.advance(count)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert e.recent_loss is not None


@pytest.mark.null_gpu
def test_memory_stays_flat_over_ten_thousand_replays() -> None:
    e, sampler = engine(cuda_graphs="on", together=2)
    train(e, sampler, 1)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    e.begin_epoch(sampler.order(2))
    for _ in range(10_000):
        e._graphs[2].replay()
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_a_recorded_evaluation_follows_the_weights() -> None:
    e, sampler = engine(cuda_graphs="on")
    recorded = Validation(e.model, images(), 0, cuda_graphs.capture)
    values = []
    for _ in range(2):
        train(e, sampler, 1)
        values.append(recorded())
        assert values[-1] == pytest.approx(validate(e.model, images(), 0), rel=1e-6)
    assert values[0]["loss"] > values[1]["loss"]


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path: Any) -> None:
    """Compare two epochs at once with one and one, under --deterministic, compiled and recorded."""
    settings: dict[str, Any] = {"data": "digits", "hidden": (64,), "batch_size": 50, "device": GPU, "compile": True}
    settings |= {"deterministic": True, "cuda_graphs": "on", "amp": True}
    whole = vf.fit(vf.Config(**settings, epochs=2, out=str(tmp_path / "whole")))
    vf.fit(vf.Config(**settings, epochs=1, out=str(tmp_path / "parts")))
    parts = vf.fit(vf.Config(**settings, epochs=2, resume=str(tmp_path / "parts")))
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), parts.model.parameters(), strict=True))


def test_images_from_the_host_make_the_same_run(tmp_path: Any) -> None:
    """Check that images copied on a separate stream while recorded steps run arrive complete and in time."""
    settings: dict[str, Any] = {"data": "digits", "hidden": (64,), "batch_size": 50, "device": GPU, "epochs": 2}
    settings |= {"deterministic": True, "cuda_graphs": "on"}
    on_device, on_host = (vf.fit(vf.Config(**settings, feed=f, out=str(tmp_path / f))) for f in ("device", "host"))
    assert all(torch.equal(p, q) for p, q in zip(on_device.model.parameters(), on_host.model.parameters(), strict=True))
