"""Tests of the description of the environment that a run's numbers depend on."""

import os

import pytest
import torch

from vae_fast.runtime.environment import busy, changes, environment

CPU = torch.device("cpu")


def test_the_environment_names_what_numbers_depend_on() -> None:
    keys = {"vae_fast", "python", "torch", "device", "cpu_capability", "processes", "threads", "operators", "products"}
    assert environment(CPU).keys() == keys


def test_changes_cover_only_what_was_recorded_before() -> None:
    before, now = {"torch": "2.11", "threads": 2}, {"torch": "2.13", "threads": 2, "processes": 4}
    assert changes(before, now) == ["torch was 2.11, is 2.13"]
    assert changes({}, now) == []


@pytest.mark.parametrize(("load", "threads", "warns"), [(4.2, 2, True), (4.2, 1, False), (3.9, 2, False)])
def test_a_busy_machine_gets_a_warning(load: float, threads: int, warns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    warning = busy(CPU)
    assert (warning is not None) == warns
    if warning is not None:
        assert warning.startswith("the machine is busy: a load of 4.2 on 4 cores before this run; with --threads 1")
        assert "by itself" in (busy(CPU, chooses_threads=True) or "")
    assert busy(torch.device("meta")) is None
