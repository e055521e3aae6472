"""A script for compute-sanitizer that compares every Triton kernel with the reference at odd shapes and layouts."""

import torch

from tests.kernels.finish_step_cases import CASES, check_finish_step
from tests.kernels.operator_cases import (
    LAYOUTS,
    check_elbo,
    check_nll,
    check_reparameterize,
    check_sample_posterior,
    encoded,
    images,
    posterior,
    scales,
)
from tests.kernels.training_cases import (
    check_nll_with_gradient,
    check_row_offset_on_the_device,
    check_sample_posterior_gradient,
)
from vae_fast.kernels import random_bits, reference

SHAPES = [(1, 1, 1), (41, 401, 3), (3, 2049, 33), (5, 9, 300)]

random_bits(41, 7, 1, 2, impl="triton", device="cuda")
for (b, d, z), layout in zip(SHAPES, [*LAYOUTS, "strided"], strict=True):
    latents = posterior(b, z, layout, torch.bfloat16, "cuda")
    check_reparameterize("triton", *latents)
    check_sample_posterior("triton", encoded(b, z, layout, torch.bfloat16, "cuda"))
    for likelihood in reference.LIKELIHOODS:
        for log_scale in scales(likelihood, d, "cuda"):
            pixels = images(b, d, layout, torch.uint8, torch.bfloat16, "cuda")
            check_elbo("triton", *pixels, *latents, likelihood, log_scale)
            check_nll("triton", *pixels, likelihood, log_scale)
            check_nll_with_gradient("triton", *pixels, likelihood, log_scale)
    for by_dimension in (False, True):
        check_sample_posterior_gradient("triton", encoded(b, z, layout, torch.bfloat16, "cuda"), by_dimension)
    check_row_offset_on_the_device("triton", encoded(b, z, layout, torch.bfloat16, "cuda"))
for settings in CASES:
    check_finish_step("triton", "cuda", **settings)
torch.cuda.synchronize()
print("all calls done")
