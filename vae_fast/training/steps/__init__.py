"""The interface of a training step and its implementations, which all learn the same."""

from vae_fast.training.steps.autograd import AutogradStep
from vae_fast.training.steps.base import Step
from vae_fast.training.steps.fused_cpu import FusedStep

IMPLEMENTATIONS: dict[str, type[Step]] = {"autograd": AutogradStep, "fused": FusedStep}
"""The implementations, by their names in a plan."""
