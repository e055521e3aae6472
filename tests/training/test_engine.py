"""The training step: what it learns, counts, skips and repeats, eager and compiled."""

import time
from itertools import accumulate
from typing import Any

import pytest
import torch

import vae_fast as vf
from tests.training.engine_cases import ROWS, STEPS, engine, gradients, images, parameters, train
from vae_fast.data.transforms import bernoulli_sample
from vae_fast.errors import RunError
from vae_fast.kernels import extension
from vae_fast.objectives.elbo import objective
from vae_fast.training import engine as engine_module
from vae_fast.training.engine import MOST_SKIPS_IN_A_ROW, Engine
from vae_fast.training.schedules import learning_rate_at
from vae_fast.training.validation import validate

fused = pytest.mark.skipif(not extension.load(), reason=extension.status())


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_the_textbook_step(step: str) -> None:
    """Compare with a written-out VAE (forward, elbo_loss, backward, Adam) for two steps, so that the noise changes."""
    e, twin = engine(clip=1.0, step=step), engine().model
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for number in range(2):
        out = twin(images()[:32], 0, number)
        loss = vf.elbo_loss(out.logits, images()[:32], out.mu, out.logvar).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        train(e)
    # Adam divides by the root of its second moment: where a gradient is near zero, rounding moves a step by up to lr
    expected = torch.cat([p.detach().flatten() for p in twin.parameters()])
    torch.testing.assert_close(parameters(e), expected, rtol=0, atol=2e-5)
    assert e.finish_epoch()["train_loss"] > 100


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"binarize": "dynamic", "free_bits": 0.1},
        {"step": "autograd", "compile": True, "binarize": "dynamic"},
        {"step": "autograd", "free_bits": 0.1, "optimizer": "adamw", "weight_decay": 0.1},
        {"amp_dtype": "bf16"},
        {"step": "autograd", "amp_dtype": "bf16"},
        {"amp_dtype": "fp16"},
    ],
)
def test_loss_falls_whatever_the_settings(settings: dict[str, Any]) -> None:
    e = engine(lr=3e-3, **settings)
    e.warm_up()
    averages = []
    for _ in range(3):
        train(e, steps=20)
        averages.append(e.finish_epoch())
    assert averages[0]["train_loss"] > averages[1]["train_loss"] > averages[2]["train_loss"]
    assert all(record["train_nll"] > 0 and record["train_kl"] > 0 for record in averages)


def test_compiled_and_eager_steps_agree() -> None:
    eager, compiled = engine(step="autograd"), engine(step="autograd", compile=True)
    compiled.warm_up()
    for ours, theirs in zip(gradients(compiled), gradients(eager), strict=True):
        # sums over 32 images and 784 pixels in another order
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
    for e in (eager, compiled):
        train(e, steps=20)
    # Adam turns rounding errors of small gradients into whole steps: later losses agree loosely
    assert compiled.finish_epoch()["train_loss"] == pytest.approx(eager.finish_epoch()["train_loss"], rel=1e-3)


def test_nothing_is_recompiled_after_warming_up() -> None:
    """Run later epochs, an evaluation, and steps with other learning rates and betas."""
    e = engine(step="autograd", compile=True, lr_schedule="cosine", beta_schedule="linear", epochs=4)
    e.warm_up()
    compiled = dict(torch._dynamo.utils.counters["stats"])
    train(e, steps=21)
    validate(e.model, images(), 0)
    train(e, steps=1)
    assert compiled["unique_graphs"] > 0
    assert torch._dynamo.utils.counters["stats"] == compiled


def test_warming_up_leaves_no_trace() -> None:
    e, fresh = engine(), engine()
    e.warm_up()
    assert torch.equal(parameters(e), parameters(fresh))
    assert e.state()[2] == fresh.state()[2]
    assert all(torch.equal(t, fresh.state()[1][name]) for name, t in e.state()[1].items())


@pytest.mark.parametrize("step", STEPS)
def test_averages_are_over_the_images_seen(step: str) -> None:
    e = engine(binarize="dynamic", step=step)
    sums = torch.zeros(2, dtype=torch.float64)
    for number, rows in enumerate((ROWS, ROWS + 32)):
        x = bernoulli_sample(images()[rows], 0, number)
        with torch.no_grad():
            _, nll, kl = objective(e.model, x, 0, number)
        sums += torch.stack((nll.double().sum(), kl.double().sum()))
        train(e, rows)
    record = e.finish_epoch()
    assert (record["train_nll"], record["train_kl"]) == pytest.approx((sums / 64).tolist())
    assert record["train_loss"] == pytest.approx(record["train_nll"] + record["train_kl"])
    assert e.finish_epoch()["train_loss"] is None  # the sums were reset


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip": 1.0},
        {"step": "autograd"},
        {"step": "autograd", "clip": 1.0},
        {"step": "autograd", "compile": True},
        {"amp_dtype": "bf16"},
        {"step": "autograd", "amp_dtype": "bf16"},
        {"amp_dtype": "fp16"},
    ],
)
def test_a_step_that_is_not_finite_is_skipped_and_counted(settings: dict[str, Any]) -> None:
    data = images() / 255
    data[40] = float("nan")
    e = engine(data, **settings)
    train(e, steps=8)  # under fp16 the scaler first finds its scale
    e.finish_epoch()
    before, optimizer = parameters(e), {k: v.clone() for k, v in e.state()[1].items()}
    train(e, ROWS + 20)  # holds image 40
    assert torch.equal(parameters(e), before)
    assert all(torch.equal(v, optimizer[k]) for k, v in e.state()[1].items())
    train(e)
    assert not torch.equal(parameters(e), before)
    record = e.finish_epoch()
    assert record["skipped_steps"] == 1
    assert record["train_loss"] < 1000
    assert e.step_number == 10


@pytest.mark.parametrize("step", STEPS)
def test_a_step_with_an_infinite_loss_but_finite_gradients_is_skipped(step: str) -> None:
    e = engine(step=step)
    with torch.no_grad():
        e.model.encoder.stats.bias[4:] = 88.5  # e^logvar / 2 is finite, and so is every gradient; the sum of 4 is not
    before = parameters(e)
    train(e)
    assert torch.equal(parameters(e), before)


@fused
@pytest.mark.parametrize("feed", ["device", "host"])
def test_one_fused_call_makes_several_steps(monkeypatch: pytest.MonkeyPatch, feed: str) -> None:
    """Fill CALL_SECONDS, then finish the epoch in one more call; the bits equal those of single steps."""
    monkeypatch.setattr(engine_module, "CHECK_EVERY", 4)
    order = torch.stack([torch.randperm(64)[:32] for _ in range(10)])
    found = []
    for seconds, launches in ((0.0, [1] * 10), (60.0, [4, 4, 2])):
        monkeypatch.setattr(engine_module, "CALL_SECONDS", seconds)
        e = engine(step="fused", feed=feed)
        e.warm_up()
        assert e.launches(10) == launches
        e.begin_epoch(order)
        for first, count in zip(accumulate(launches, initial=0), launches, strict=False):
            e.advance(count, images()[order[first : first + count]] if feed == "host" else None)
        found.append((parameters(e), e.step_metrics.ring))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@fused
def test_a_call_of_several_steps_is_over_within_a_tenth_of_a_second() -> None:
    """Bound the delay of a signal, which waits for the call; the ten steps of this epoch take longer."""
    e = engine(torch.randint(256, (4096, 784), dtype=torch.uint8), step="fused", batch_size=4096, hidden=(400,))
    e.warm_up()
    e.begin_epoch(torch.stack([torch.randperm(4096) for _ in range(e.steps_per_epoch)]))
    steps = []
    for _ in range(3):
        began = time.perf_counter()
        e.advance(1)
        steps.append(time.perf_counter() - began)
    most = max(e.launches(e.steps_per_epoch))
    assert most == 1 or most * min(steps) < 0.1


def test_a_diverged_run_stops_within_200_steps() -> None:
    e = engine(torch.full((64, 784), float("nan")))
    with pytest.raises(RunError, match=r"training diverged: .* not finite in \d+ steps in a row"):
        train(e, steps=200)
    assert MOST_SKIPS_IN_A_ROW <= e.step_number <= 200


@pytest.mark.parametrize(
    "settings",
    [
        *({"step": step, "feed": feed} for step in ("auto", "autograd") for feed in ("device", "host")),
        *({"step": "autograd", "amp_dtype": dtype} for dtype in ("bf16", "fp16")),
        {"amp_dtype": "bf16"},
        {"step": "autograd", "compile": True},
        {"clip": 1.0, "binarize": "dynamic"},
    ],
)
def test_steps_read_nothing_from_the_device_and_keep_no_memory(settings: dict[str, Any]) -> None:
    """Check that the loop never reads a tensor's value between two of its checks, which read a host copy."""
    e = engine(**settings)
    e.warm_up()
    few, many = profiled(e, 6), profiled(e, 18)
    assert sum(any(name in event.name for name in ("addmm", "product", "mlp_step")) for event in many) >= 18
    for event in many:
        if event.name in ("aten::_local_scalar_dense", "aten::nonzero"):
            # the fused CPU kernel reads its step count; the GPU kernel does so on the device
            assert "aten::_fused_adamw_" in (event.cpu_parent.name, event.cpu_parent.cpu_parent.name)
    kept = [sum(event.self_cpu_memory_usage for event in events) for events in (few, many)]
    assert abs(kept[1] - kept[0]) < 1.1 * parameters(e).nbytes  # one step's gradients more or less
    if settings == {"step": "auto", "feed": "device"} and e.plan.step == "fused":  # it has its own workspace
        assert max(event.self_cpu_memory_usage for event in many) < 32 * 784


def profiled(e: Engine, steps: int) -> Any:
    with torch.profiler.profile(profile_memory=True) as profile:
        train(e, steps=steps)
    return profile.events()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"step": "autograd"},
        {"amp_dtype": "bf16"},
        {"amp_dtype": "fp16"},  # its first steps change the scale
        {"binarize": "dynamic", "lr_schedule": "cosine", "beta_schedule": "linear", "optimizer": "adamw"},
    ],
)
def test_training_continues_bit_for_bit_from_a_loaded_state(settings: dict[str, Any]) -> None:
    whole, first, second = engine(**settings), engine(**settings), engine(**settings)
    train(whole, steps=6)
    train(first, steps=3)
    *tensors, counters = first.state()
    second.load_state(*({k: v.clone() for k, v in of.items()} for of in tensors), counters)
    train(second, steps=3)
    assert torch.equal(parameters(whole), parameters(second))
    for ours, theirs in zip(whole.state()[1:], second.state()[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_step_follows_its_schedules() -> None:
    e = engine(lr_schedule="cosine", beta_schedule="linear", beta_warmup=2.0)
    for step in range(3):
        train(e)
        assert (e.learning_rate, e.beta) == (learning_rate_at(step, e.config, 10), step / 20)
        record = e.finish_epoch()  # the loss that was minimised
        assert record["train_loss"] == pytest.approx(record["train_nll"] + step / 20 * record["train_kl"])


def test_free_bits_reach_the_loss() -> None:
    e, x = engine(free_bits=2.0), images()[:32]
    with torch.no_grad():
        expected = objective(e.model, x, 0, 0, free_bits=2.0)
    train(e)
    assert e.finish_epoch()["train_loss"] == pytest.approx(expected.loss.item())
    assert expected.loss.item() > (expected.nll + expected.kl).mean().item() + 1


def test_weight_decay_reaches_the_optimizer() -> None:
    decayed, plain = engine(optimizer="adamw", weight_decay=0.5), engine()
    before = parameters(plain)
    for e in (decayed, plain):
        train(e)
    torch.testing.assert_close(parameters(decayed), parameters(plain) - 1e-3 * 0.5 * before)


def test_amp_computes_in_its_dtype() -> None:
    seen: list[torch.dtype] = []
    e = engine(step="autograd", amp_dtype="bf16")
    for model in (e._train.network, e.model):
        model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    train(e)
    validate(e.model, images(), 0)
    assert (seen[0], seen[-1]) == (torch.bfloat16, torch.float32)


def test_skips_in_a_row_survive_a_resume() -> None:
    e = engine(torch.full((64, 784), float("nan")))
    train(e, steps=30)
    again = engine()
    again.load_state(*e.state())
    assert again.is_diverging
    train(again)
    assert not again.is_diverging
