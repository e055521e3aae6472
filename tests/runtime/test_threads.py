"""Tests of the number of threads: it adapts to the free cores, and changes nothing but the time."""

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


class Machine:
    """A simulated clock, advanced by steps whose time depends on PyTorch's number of threads and on other load.

    one: seconds that a step takes on one thread.
    """

    def __init__(self, one: float = 4e-3) -> None:
        self.one, self.now, self.interrupted, self.load = one, 0.0, 0.0, "alone"
        self.used: list[int] = []

    def seconds(self, threads: int) -> float:
        """Return what a step takes: threads divide it, but next to others each that is more holds up the rest."""
        return self.one / threads if self.load == "alone" else self.one * (1 + 0.2 * threads)

    def step(self) -> None:
        threads = torch.get_num_threads()
        self.used.append(threads)
        self.now += 5 * self.seconds(threads)
        self.interrupted += 5 * self.seconds(threads) * threads * (20 if self.load == "alone" else 120)

    def train(self, count: ThreadCount, seconds: float) -> float:
        """Train for some seconds and return the mean time of a step in seconds."""
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
@pytest.mark.parametrize("most", [2, 4, 16])
def test_threads_are_given_up_while_other_programs_run_and_taken_back_afterwards(most: int) -> None:
    torch.set_num_threads(most)
    machine = Machine()
    count = ThreadCount(lambda: machine.now, lambda: int(machine.interrupted))
    assert machine.train(count, 10) == pytest.approx(machine.seconds(most))
    assert set(machine.used) == {most}, "alone, nothing is tried"
    machine.load = "next to others"
    machine.train(count, 10)
    assert count.now == 1
    assert machine.train(count, 120) < 1.05 * machine.seconds(1), "what trials cost"
    machine.load = "alone"
    machine.train(count, 40)
    assert count.now == most
    assert torch.get_num_threads() == most


@pytest.mark.usefixtures("four_threads")
def test_slow_steps_are_tried_rarely() -> None:
    """Two threads stay the faster ones although they are interrupted; a call takes seconds."""
    torch.set_num_threads(2)
    machine = Machine(one=1.0)
    count = ThreadCount(lambda: machine.now, lambda: int(120 * machine.now))
    assert machine.train(count, 20_000) < 1.03 * machine.seconds(2)
    assert 1 in machine.used


@pytest.mark.usefixtures("four_threads")
def test_interruptions_between_the_calls_do_not_count() -> None:
    machine = Machine()
    count = ThreadCount(lambda: machine.now, lambda: int(machine.interrupted))
    for _ in range(100):
        machine.interrupted += 1000  # an evaluation
        machine.now += 1
        machine.train(count, 1)
        assert set(machine.used) == {4}


@pytest.mark.usefixtures("four_threads")
def test_a_number_set_from_outside_is_the_new_maximum() -> None:
    machine = Machine()
    count = ThreadCount(lambda: machine.now, lambda: int(machine.interrupted))
    torch.set_num_threads(2)
    machine.train(count, 1)
    assert set(machine.used) == {2}
    torch.set_num_threads(1)
    machine.load = "next to others"
    machine.train(count, 5)
    assert set(machine.used) == {1}


@pytest.mark.usefixtures("four_threads")
def test_work_that_fails_leaves_pytorchs_number_unchanged() -> None:
    count = ThreadCount()
    count.now = 1
    with pytest.raises(ZeroDivisionError):
        count.run(lambda: print(1 // 0), 1)
    assert torch.get_num_threads() == 4


def test_interruptions_are_the_kernels_count() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    assert before <= interruptions() <= resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def test_only_a_run_whose_bits_do_not_depend_on_threads_chooses_their_number() -> None:
    plan = make_plan(vf.Config(device="cpu", step="autograd"))[0]
    assert not chooses_threads(vf.Config(), plan, 1)
    if extension.load():
        plan = make_plan(vf.Config(device="cpu"))[0]
        assert chooses_threads(vf.Config(), plan, 1)
        assert not chooses_threads(vf.Config(threads=2), plan, 1)
        assert not chooses_threads(vf.Config(), plan, 2)


@pytest.mark.skipif(not extension.load(), reason=extension.status())
@pytest.mark.usefixtures("four_threads")
def test_a_run_with_a_changing_number_of_threads_has_the_bits_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
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
