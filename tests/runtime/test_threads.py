"""The number of threads follows what the cores can give, and changes nothing but the time."""

import resource
from collections.abc import Iterator

import pytest
import torch

import vae_fast as vf
from tests.training.engine_cases import engine, parameters, train
from vae_fast.kernels import extension
from vae_fast.runtime import threads
from vae_fast.runtime.plan import make_plan
from vae_fast.runtime.threads import ThreadCount, chooses_threads, interruptions

SECONDS_A_STEP = {"alone": {1: 4e-3, 2: 2.2e-3, 4: 1.2e-3}, "beside others": {1: 5e-3, 2: 6e-3, 4: 8e-3}}


class Machine:
    """A clock that moves by what steps take, with the threads PyTorch is set to and what else runs."""

    def __init__(self) -> None:
        self.now, self.interrupted, self.load = 0.0, 0.0, "alone"
        self.used: list[int] = []

    def step(self) -> None:
        seconds = SECONDS_A_STEP[self.load][torch.get_num_threads()]
        self.used.append(torch.get_num_threads())
        self.now += 5 * seconds
        self.interrupted += 5 * seconds * (20 if self.load == "alone" else 250)

    def train(self, count: ThreadCount, seconds: float) -> float:
        """Return the mean seconds a step."""
        self.used.clear()
        began = self.now
        while self.now < began + seconds:
            count.run(self.step, 5)
        return (self.now - began) / len(self.used) / 5


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_threads_are_given_up_beside_others_and_taken_again_afterwards() -> None:
    machine = Machine()
    count = ThreadCount(lambda: machine.now, lambda: int(machine.interrupted))
    assert machine.train(count, 10) == pytest.approx(SECONDS_A_STEP["alone"][4])
    assert set(machine.used) == {4}, "alone, nothing is tried"
    machine.load = "beside others"
    machine.train(count, 3)
    assert count.now == 1
    assert machine.train(count, 60) < 1.05 * SECONDS_A_STEP["beside others"][1], "what trials cost"
    machine.load = "alone"
    machine.train(count, 25)
    assert count.now == 4
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_a_number_set_from_outside_is_the_most_from_then_on() -> None:
    machine = Machine()
    count = ThreadCount(lambda: machine.now, lambda: int(machine.interrupted))
    torch.set_num_threads(2)
    machine.train(count, 1)
    assert set(machine.used) == {2}
    torch.set_num_threads(1)
    machine.load = "beside others"
    machine.train(count, 5)
    assert set(machine.used) == {1}


@pytest.mark.usefixtures("four_threads")
def test_work_that_fails_leaves_pytorchs_number_as_it_was() -> None:
    count = ThreadCount()
    count.now = 1
    with pytest.raises(ZeroDivisionError):
        count.run(lambda: print(1 // 0), 1)
    assert torch.get_num_threads() == 4


def test_interruptions_are_those_of_the_kernel() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    assert before <= interruptions() <= resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def test_only_a_step_of_the_same_bits_chooses() -> None:
    plan = make_plan(vf.Config(device="cpu", step="autograd"))[0]
    assert not chooses_threads(vf.Config(), plan, 1)
    if extension.load():
        plan = make_plan(vf.Config(device="cpu"))[0]
        assert chooses_threads(vf.Config(), plan, 1)
        assert not chooses_threads(vf.Config(threads=2), plan, 1)
        assert not chooses_threads(vf.Config(), plan, 2)


@pytest.mark.skipif(not extension.load(), reason=extension.status())
@pytest.mark.usefixtures("four_threads")
def test_a_run_whose_threads_change_has_the_bits_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (used.add(n), set_threads(n)))
    monkeypatch.setattr(threads, "BUSY", -1.0)
    monkeypatch.setattr(threads, "WINDOW", 0.0)
    monkeypatch.setattr(threads, "FIRST_WAIT", 0.0)
    changing = engine()
    train(changing, steps=40)
    assert len(used) > 1
    fixed = engine(threads=1)
    set_threads(1)
    train(fixed, steps=40)
    assert torch.equal(parameters(changing), parameters(fixed))
