"""The operators of `vae_fast`: reparameterization, the ELBO and the counter-based noise they draw.

The folder is at the top level of the repository and is installed as `vae_fast.kernels`.
"""

if __name__ != "vae_fast.kernels":
    raise ImportError(f"this folder is the package vae_fast.kernels and was imported as {__name__!r}; install vae_fast")

from . import streams
from .adam import Flat, adam_, flat_like
from .finish_step import AdamState, Rates, Record, Scale, Terms, enter_, finish_step_
from .functional import (
    Elbo,
    PosteriorSample,
    elbo_loss,
    kl_per_dimension,
    nll,
    random_bits,
    reparameterize,
    sample_posterior,
)
from .fused_mlp import (
    FLOAT32,
    bf16_loops,
    mlp_copies,
    mlp_copy_,
    mlp_gradients,
    mlp_refuses,
    mlp_steps_,
    mlp_workspace,
    set_flush_denormal,
)
from .matmul import linear
from .training import mixture_log_density, nll_with_gradient, sample_posterior_gradient

__all__ = [
    "FLOAT32",
    "AdamState",
    "Elbo",
    "Flat",
    "PosteriorSample",
    "Rates",
    "Record",
    "Scale",
    "Terms",
    "adam_",
    "bf16_loops",
    "elbo_loss",
    "enter_",
    "finish_step_",
    "flat_like",
    "kl_per_dimension",
    "linear",
    "mixture_log_density",
    "mlp_copies",
    "mlp_copy_",
    "mlp_gradients",
    "mlp_refuses",
    "mlp_steps_",
    "mlp_workspace",
    "nll",
    "nll_with_gradient",
    "random_bits",
    "reparameterize",
    "sample_posterior",
    "sample_posterior_gradient",
    "set_flush_denormal",
    "streams",
]
