"""Tests of several processes: together they do what one alone would do, and they continue, fail and stop together."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vae_fast as vf
from vae_fast.errors import ConfigError
from vae_fast.kernels import extension
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from vae_fast.runtime.plan import make_plan
from vae_fast.training import cuda_graphs
from vae_fast.training.cuda_graphs import Capture
from vae_fast.training.engine import Engine

SEVERAL = str(Path(__file__).with_name("several.py"))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
EPOCHS, STEPS = 3, 62
SETTINGS: dict[str, Any] = {"data": "digits", "hidden": (16,), "latent": 4, "epochs": EPOCHS, "batch_size": 16}
FLAGS = ("--data", "digits", "--hidden", "16", "--latent", "4", "--epochs", str(EPOCHS), "--batch-size", "16")


@given(count=st.integers(0, 10_000), size=st.integers(1, 64))
def test_shares_are_contiguous_and_even(count: int, size: int) -> None:
    shares = [ProcessGroup(rank, size).shard(count) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    sizes = {share.stop - share.start for share in shares}
    assert max(sizes) - min(sizes) <= 1
    assert SINGLE_PROCESS.shard(count) == slice(0, count)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 3}, "batch_size: expected an image for each of the 4 processes, got 3"),
        ({"device": "cuda:1"}, r"device: expected cuda or auto, .* each of the 4 processes .* got 'cuda:1'"),
    ],
)
def test_settings_that_several_processes_cannot_share_are_refused(settings: dict[str, Any], message: str) -> None:
    config = vf.Config(**settings)
    with pytest.raises(ConfigError, match=message):
        ProcessGroup(0, 4).check(config)
    SINGLE_PROCESS.check(config)


@pytest.fixture
def one_joined() -> Iterator[ProcessGroup]:
    """Yield a group of one process that nevertheless communicates, with itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = ProcessGroup(group=dist.group.WORLD)
    yield group
    group.barrier()
    group.destroy()


def trained(group: ProcessGroup, device: str, capture: Capture | None, **settings: Any) -> Engine:
    """Return an engine after two epochs of five steps, recorded if there is a `capture`."""
    config = vf.Config(hidden=(16,), latent=4, batch_size=32, device=device, free_bits=0.02, **settings)
    plan = make_plan(config)[0]
    plan = group.bind_device(replace(plan, cuda_graphs=capture is not None, steps_per_graph=2 if capture else 0))
    torch.manual_seed(0)
    model = vf.VAE(hidden=(16,), latent=4).to(plan.torch_device)
    images = vf.load_images("digits").pixels[:64].flatten(1).to(plan.torch_device)
    e = Engine(model, images, config, plan, 5, capture=capture or cuda_graphs.capture, group=group)
    e.warm_up()
    for epoch in range(2):
        e.begin_epoch(torch.arange(5 * 32).add(epoch).remainder(64).view(5, 32))
        for count in e.launches(5):
            e.advance(count)
    assert e.graphs_failed is None
    return e


def flat(e: Engine) -> Tensor:
    return torch.cat([p.detach().flatten() for p in e.model.parameters()])


def test_communication_is_part_of_a_recording(one_joined: ProcessGroup, record: Capture) -> None:
    """Check that the sums of one process are its own values: the bits are those without communication."""
    alone, joined = trained(SINGLE_PROCESS, "cpu", None), trained(one_joined, "cpu", record)
    assert max(joined.launches(5)) == 2
    assert torch.equal(flat(joined), flat(alone))
    torch.testing.assert_close(
        joined.step_metrics.ring, alone.step_metrics.ring, rtol=1e-13, atol=0
    )  # 48 bits were sent


def test_compiled_steps_sum_the_means_for_free_bits(one_joined: ProcessGroup) -> None:
    """Check the communication inside the compiled function."""
    alone, joined = (
        trained(group, "cpu", None, step="autograd", compile=True) for group in (SINGLE_PROCESS, one_joined)
    )
    torch.testing.assert_close(flat(joined), flat(alone), rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_nccl_is_recorded_in_the_graph(one_joined: ProcessGroup) -> None:
    alone, joined = (trained(group, "cuda", cuda_graphs.capture) for group in (SINGLE_PROCESS, one_joined))
    assert max(joined.launches(5)) == 2
    torch.testing.assert_close(flat(joined), flat(alone), rtol=0, atol=1e-5)
    assert joined.step_metrics.latest(10, 10)[:, 3].tolist() == [32.0] * 10


fused = pytest.mark.skipif(not extension.load(), reason=extension.status())


class Compared(NamedTuple):
    """The observations and results of two processes and of one alone, and how the two ended."""

    found: list[dict[str, Any]]
    processes: list["subprocess.CompletedProcess[str]"]
    run: Path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Run several.py in two processes, started without torchrun so that the output of each is separate."""
    folder = tmp_path_factory.mktemp("compared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, SEVERAL, "compare", str(folder), *FLAGS, "--out", str(folder / "run")]
    started = [
        subprocess.Popen(
            command,
            env={**env, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    done = []
    for process in started:
        out, err = process.communicate(timeout=200)
        done.append(subprocess.CompletedProcess(command, process.returncode, out, err))
    assert all((folder / f"{rank}.pt").is_file() for rank in "01"), done
    return Compared([torch.load(folder / f"{rank}.pt") for rank in "01"], done, folder / "run")


def case(compared: Compared, name: str) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Return the results of a case, of each of the two processes and of one alone."""
    return [found[name][0] for found in compared.found], compared.found[0][name][1]


@pytest.mark.parametrize("name", ["plain", "dynamic", "free_bits", "nan", "conv"])
def test_two_processes_do_what_one_does(compared: Compared, name: str) -> None:
    two, alone = case(compared, name)
    for key in ("images", "noise"):  # [steps, B, ...]
        both = torch.cat([one[key] for one in two], 1)
        torch.testing.assert_close(both, alone[key], rtol=0, atol=0, equal_nan=True)
    assert len(alone["noise"].unique()) > 0.9 * alone["noise"].numel()
    for key in ("parameters", "terms", "gradients", "evaluation"):  # the same in both processes
        torch.testing.assert_close(two[0][key], two[1][key], rtol=0, atol=0, equal_nan=True)
    first, expected = two[0]["gradients"][0], alone["gradients"][0]
    assert (first - expected).norm() < 1e-6 * expected.norm()  # sums of 33 float32 in another order
    torch.testing.assert_close(two[0]["terms"], alone["terms"], rtol=1e-3, atol=0)
    rtol = 1e-3 if name == "conv" else 1e-5  # Adam's first steps have the size of lr however small a gradient is
    torch.testing.assert_close(two[0]["evaluation"], alone["evaluation"], rtol=rtol, atol=0)
    assert two[0]["terms"][:, 4].sum() == (1 if name == "nan" else 0)  # skipped by both, though one alone had the NaN


@pytest.mark.parametrize(
    "name", ["compiled", "vamp", *(pytest.param(n, marks=fused) for n in ("fused", "fused_bf16", "fused_dynamic"))]
)
def test_two_processes_with_steps_of_one_function_do_what_one_does(compared: Compared, name: str) -> None:
    two, alone = case(compared, name)
    for key in ("parameters", "terms", "evaluation"):
        torch.testing.assert_close(two[0][key], two[1][key], rtol=0, atol=0)
    torch.testing.assert_close(two[0]["terms"][0], alone["terms"][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(two[0]["terms"], alone["terms"], rtol=1e-3, atol=0)


def test_free_bits_bind_in_some_dimensions_only(compared: Compared) -> None:
    """Check that the test above can tell the mean of the whole batch from the mean of a shard."""
    plain, bound = (case(compared, name)[1]["gradients"][0] for name in ("plain", "free_bits"))
    last = torch.arange(len(plain))[16 * 785 :][: 8 * 17]  # the encoder's second layer: mu and logvar of 4 dimensions
    # Gradients of unbound dimensions are computed differently, and so differ by rounding, a relative 1e-7.
    changed = ((plain - bound).abs() > 1e-5 * plain.abs().max())[last][: 8 * 16].view(2, 4, 16).any(-1)
    assert 0 < changed.sum() < changed.numel()


def test_two_processes_scale_the_loss_alike(compared: Compared) -> None:
    """Compare the two only: what overflows float16 in a shard may fit in the batch, so one alone may skip others."""
    two, _ = case(compared, "fp16")
    assert torch.equal(two[0]["parameters"], two[1]["parameters"])
    assert torch.equal(two[0]["terms"], two[1]["terms"])
    assert 0 < two[0]["terms"][:, 4].sum() < 10


def test_a_signal_to_one_process_reaches_all_at_the_same_step(compared: Compared) -> None:
    calls = [found["agreed"] for found in compared.found]
    assert calls[0] == calls[1]
    assert 40 <= calls[0] <= 40 + 25


def records(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.mark.usefixtures("one_thread")
def test_a_run_of_two_processes_has_the_metrics_of_a_run_of_one(compared: Compared, tmp_path: Path) -> None:
    alone = vf.fit(vf.Config(**SETTINGS, out=str(tmp_path / "run")))
    expected = records(alone.directory)
    assert len(expected) == EPOCHS
    for record, other in zip(records(compared.run), expected, strict=True):
        assert record == pytest.approx(other, rel=1e-3)


def test_a_mistake_is_printed_once_and_ends_all_processes(compared: Compared) -> None:
    first, second = compared.processes
    assert (first.returncode, second.returncode) == (1, 1)
    mistake = f"--out: {compared.run} already holds a run (config.toml); continue it with --resume {compared.run}"
    assert first.stderr == f"error: {mistake}\n"
    assert (second.stdout, second.stderr) == ("", "")
    assert "training: 62 steps of 16 an epoch, shared by 2 processes" in first.stdout


def struck(out: Path, step: int, number: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [*TORCHRUN, *options, SEVERAL, "strike", str(step), number, *FLAGS, "--out", str(out), "--resume", "auto"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.usefixtures("one_thread")
def test_torchrun_ends_and_restarts_a_run(compared: Compared, tmp_path: Path) -> None:
    """Check that a run resumed after SIGTERM in epoch 1 and restarted after a kill in epoch 3 has unchanged bits."""
    out = tmp_path / "run"
    ended = struck(out, 20, "SIGTERM")
    assert ended.returncode == 1  # torchrun's own exit code
    assert ended.stderr.count(f"SIGTERM: saved; go on with --resume {out}\n") == 1
    saved = (out / "checkpoints" / "latest").readlink().name
    assert 20 < int(saved[5:]) < STEPS
    shutil.copytree(out, tmp_path / "other", symlinks=True)

    restarted = struck(out, 130, "SIGKILL", "--max-restarts", "1")
    assert restarted.returncode == 0, restarted.stderr
    assert restarted.stderr.count("error: process 0 has lost contact with the others: ") == 1
    for step, done in ((int(saved[5:]), 0), (2 * STEPS, 2)):
        assert f"(step {step}, {done} epochs done)" in restarted.stdout
    model, expected = (run / "checkpoints" / "latest" / "model.safetensors" for run in (out, compared.run))
    assert model.read_bytes() == expected.read_bytes()
    assert records(out) == records(compared.run)

    alone = vf.fit(vf.Config(**SETTINGS, resume=str(tmp_path / "other")))  # resumed by another number of processes
    for record, other in zip(records(alone.directory), records(compared.run), strict=True):
        assert record == pytest.approx(other, rel=1e-3)
