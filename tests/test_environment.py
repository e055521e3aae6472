"""What is said of the machine that a run's numbers depend on."""

import torch

from vae_fast.environment import changes, environment

CPU = torch.device("cpu")


def test_the_environment_names_what_numbers_depend_on() -> None:
    keys = {"vae_fast", "python", "torch", "device", "cpu_capability", "processes", "threads", "operators", "products"}
    assert environment(CPU).keys() == keys


def test_changes_are_of_what_was_known_before() -> None:
    before, now = {"torch": "2.11", "threads": 2}, {"torch": "2.13", "threads": 2, "processes": 4}
    assert changes(before, now) == ["torch was 2.11, is 2.13"]
    assert changes({}, now) == []
