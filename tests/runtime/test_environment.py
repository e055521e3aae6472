"""What is said of the machine that a run's numbers depend on."""

import os

import pytest
import torch

from vae_fast.runtime.environment import busy, changes, environment

CPU = torch.device("cpu")


def test_the_environment_names_what_numbers_depend_on() -> None:
    keys = {"vae_fast", "python", "torch", "device", "cpu_capability", "processes", "threads", "operators", "products"}
    assert environment(CPU).keys() == keys


def test_changes_are_of_what_was_known_before() -> None:
    before, now = {"torch": "2.11", "threads": 2}, {"torch": "2.13", "threads": 2, "processes": 4}
    assert changes(before, now) == ["torch was 2.11, is 2.13"]
    assert changes({}, now) == []


@pytest.mark.parametrize(("load", "threads", "is_said"), [(4.2, 2, True), (4.2, 1, False), (3.9, 2, False)])
def test_a_busy_machine_is_named(load: float, threads: int, is_said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    said = busy(CPU)
    assert (said is not None) == is_said
    if said is not None:
        assert said.startswith("the machine is busy: a load of 4.2 on 4 cores before this run; with --threads 1")
        assert "by itself" in (busy(CPU, chooses_threads=True) or "")
    assert busy(torch.device("meta")) is None
