"""Tests of the Triton kernels in Triton's interpreter on a CPU; test_triton.py runs this file in a separate process."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vae_fast as vf
from tests.kernels.finish_step_cases import CASES as FINISHED
from tests.kernels.finish_step_cases import Case, check_finish_step
from tests.kernels.global_states import STATES, check_state
from tests.kernels.image_shape_cases import (
    LATENTS,
    SCALES,
    check_broadcast_scale,
    check_latents_of_elbo,
    check_sample_of_channels,
)
from tests.kernels.operator_calls import CALLS, FUSED
from tests.kernels.operator_cases import (
    DTYPES,
    LAYOUTS,
    SEED,
    SHAPES,
    STEP,
    cases,
    check_elbo,
    check_extreme_scales,
    check_extremes,
    check_extremes_apart,
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
from tests.kernels.transform_cases import (
    SECOND,
    TRANSFORMS,
    check_second_derivative_is_refused,
    check_transform_is_refused,
    check_vmap,
    scalar,
)
from vae_fast.kernels import extension, nll, random_bits, reference, registration, sample_posterior
from vae_fast.runtime.plan import make_plan
from vae_fast.training.engine import Engine

pytestmark = pytest.mark.usefixtures("poisoned")
EXTREMES = [  # float targets, and the operators that combine two of these, use the same arithmetic
    (check_extremes, torch.uint8, "bernoulli"),
    *((check_extremes_apart, torch.uint8, likelihood) for likelihood in reference.LIKELIHOODS),
]
FEW = settings(deadline=None, max_examples=15)
FEWER = settings(deadline=None, max_examples=6)  # for examples of many calls each


def parameters(every: int) -> Iterator[Any]:
    """Yield cases with few images, because the interpreter takes seconds for 128: one case has 128, and 41 become 9."""
    for (b, *case), slow in cases(every):
        slow = slow or (b == 128 and (case[-1], case[2]) != ("bernoulli", "halves"))
        yield pytest.param(9 if b == 41 else b, *case, marks=[pytest.mark.sweep] if slow else [])


def test_memory_is_poisoned() -> None:
    assert torch.empty(3).isnan().all()
    assert torch.ones(2).new_empty((2, 3), dtype=torch.float16).isnan().all()


def test_the_interpreter_replaces_the_cpu_kernels() -> None:
    assert registration.INTERPRETED, "run this file through test_triton.py"
    assert not extension.load()
    assert "TRITON_INTERPRET" in extension.status()
    with pytest.raises(RuntimeError, match=r"impl='cpp' of reparameterize is not available: .*TRITON_INTERPRET"):
        vf.reparameterize(torch.zeros(1, 1), torch.zeros(1, 1), 0, 0, impl="cpp")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_reparameterize_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_reparameterize("triton", *posterior(b, z, layout, dtype))


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        pytest.param(layout, dtype, marks=[] if i == j else [pytest.mark.sweep])
        for (i, layout), (j, dtype) in product(enumerate(LAYOUTS), enumerate(DTYPES))
    ],
)
@pytest.mark.parametrize(("b", "d", "z"), [*SHAPES, (5, 1, 300), (3, 1, 0)])
def test_sample_posterior_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_sample_posterior("triton", encoded(b, z, layout, dtype), row_offset=d)


def test_dtypes_may_differ() -> None:
    (mu, _), (_, logvar) = posterior(5, 6, "halves", torch.bfloat16), posterior(5, 6, "halves")
    check_reparameterize("triton", mu, logvar)
    check_elbo("triton", *images(5, 9, "halves", torch.float16, torch.bfloat16), mu, logvar)


@pytest.mark.parametrize(("b", "d", "z", "layout", "dtype", "likelihood"), list(parameters(every=2)))
def test_elbo_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str) -> None:
    target_dtype = torch.uint8 if layout != "contiguous" else torch.float32
    for log_scale in scales(likelihood, d):
        check_elbo(
            "triton", *images(b, d, layout, target_dtype, dtype), *posterior(b, z, layout, dtype), likelihood, log_scale
        )


@pytest.mark.parametrize(("b", "d", "z", "layout", "dtype", "likelihood"), list(parameters(every=4)))
def test_nll_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str) -> None:
    target_dtype = torch.uint8 if layout != "contiguous" else dtype
    for log_scale in scales(likelihood, d):
        check_nll("triton", *images(b, d, layout, target_dtype, dtype), likelihood, log_scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), [(1, 1, 1), (5, 401, 3), (0, 5, 4), (3, 2049, 33)])
def test_training_operators_match_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    for likelihood in reference.LIKELIHOODS:
        for log_scale in scales(likelihood, d):
            check_nll_with_gradient("triton", *images(b, d, layout, torch.uint8, dtype), likelihood, log_scale)
    for by_dimension in (False, True):
        check_sample_posterior_gradient("triton", encoded(b, z, layout, dtype), by_dimension, row_offset=d)
    check_row_offset_on_the_device("triton", encoded(b, z, layout, dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for values that are intentionally not finite
@pytest.mark.parametrize("settings", FINISHED)
def test_the_end_of_a_step_matches_the_specification(settings: dict[str, Any]) -> None:
    check_finish_step("triton", **settings)


def test_the_end_of_a_step_works_with_more_blocks_than_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_fast.kernels.triton.finish_step.MOST_PARTS", 4)
    check_finish_step("triton", **FINISHED[1])


@FEWER
@given(shapes=st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), min_size=1, max_size=4))
def test_the_end_of_a_step_works_for_any_shapes(shapes: list[tuple[int, ...]]) -> None:
    if sum(map(prod, shapes)) > 0:
        check_finish_step("triton", **FINISHED[0], shapes=[*shapes, (1,)])


@pytest.mark.parametrize("settings", [{}, {"amp_dtype": "bf16", "free_bits": 0.1}, {"amp_dtype": "fp16", "clip": 1.0}])
def test_the_engine_takes_the_same_steps_with_either_end(settings: dict[str, Any]) -> None:
    """Compare the end on a GPU, with flat weights that the kernel copies, with the end on a CPU."""
    losses = []
    for optimizer in ("triton", "torch"):
        config = vf.Config(hidden=(16,), latent=4, device="cpu", batch_size=32, step="autograd", **settings)
        plan = replace(make_plan(config)[0], optimizer=optimizer)
        torch.manual_seed(0)
        data = vf.load_images("digits").pixels[:64].flatten(1)
        e = Engine(vf.VAE(hidden=(16,), latent=4), data, config, plan, 2)
        e.warm_up()
        for epoch in range(5):
            e.begin_epoch(torch.arange(64).add(epoch).remainder(64).view(2, 32))
            e.advance(1)
            e.advance(1)
        assert (e.optimizer.state.parameters.data is not None) == (optimizer == "triton")
        losses.append(e.step_metrics.latest(10, 10))
    # the interpreter truncates bfloat16 copies, which a GPU rounds: half of the products of ten weights differ by 2^-8
    torch.testing.assert_close(*losses, rtol=1e-2 if "bf16" in settings.values() else 1e-5, atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for the intentional overflows
@pytest.mark.parametrize(
    ("check", "target_dtype", "likelihood"),
    [
        pytest.param(*case, marks=[] if case in EXTREMES else [pytest.mark.sweep])
        for case in product((check_extremes, check_extremes_apart), (torch.uint8, torch.float32), reference.LIKELIHOODS)
    ],
)
def test_extreme_values_match_the_reference(
    check: Callable[..., None], target_dtype: torch.dtype, likelihood: str
) -> None:
    check("triton", target_dtype, 1, likelihood, scales(likelihood, 1)[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("likelihood", reference.SCALED)
def test_extreme_scales_match_the_reference(likelihood: str) -> None:
    check_extreme_scales("triton", likelihood)


@FEW
@given(
    b=st.integers(0, 9),
    d=st.integers(0, 70),
    z=st.integers(0, 40),
    layout=st.sampled_from(LAYOUTS),
    likelihood=st.sampled_from(list(reference.LIKELIHOODS)),
    row_offset=st.integers(0, 2**33),
)
def test_results_match_for_any_shape(b: int, d: int, z: int, layout: str, likelihood: str, row_offset: int) -> None:
    check_reparameterize("triton", *posterior(b, z, layout), row_offset)
    check_sample_posterior("triton", encoded(b, z, layout), row_offset)
    for log_scale in scales(likelihood, d):
        check_elbo("triton", *images(b, d, layout, torch.uint8), *posterior(b, z, layout), likelihood, log_scale)
        check_nll("triton", *images(b, d, layout, torch.uint8), likelihood, log_scale)


@FEWER
@given(b=st.integers(0, 40), z=st.integers(1, 30), split=st.integers(0, 40))
def test_a_split_batch_matches_the_whole_bit_for_bit(b: int, z: int, split: int) -> None:
    stats, (logits, target) = encoded(b, z, "halves"), images(b, 37, "contiguous", torch.uint8)
    parts = [slice(0, min(split, b)), slice(min(split, b), b)]
    whole = sample_posterior(stats, SEED, STEP, row_offset=7, impl="triton")
    samples = [sample_posterior(stats[p], SEED, STEP, row_offset=7 + p.start, impl="triton") for p in parts]
    assert torch.equal(whole.z, torch.cat([sample.z for sample in samples]))
    assert torch.equal(whole.kl, torch.cat([sample.kl for sample in samples]))
    assert torch.equal(whole.z, vf.reparameterize(*stats.chunk(2, 1), SEED, STEP, row_offset=7, impl="triton"))
    values = [nll(logits[p], target[p], impl="triton") for p in parts]
    assert torch.equal(nll(logits, target, impl="triton"), torch.cat(values))


@FEW
@given(
    rows=st.integers(0, 9),
    columns=st.integers(0, 300),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    row_offset=st.integers(0, 2**40),
    stream=st.integers(0, 2**32 - 1),
)
def test_bits_match_the_specification(
    rows: int, columns: int, seed: int, step: int, row_offset: int, stream: int
) -> None:
    ours, exact = (
        random_bits(rows, columns, seed, step, row_offset=row_offset, stream=stream, impl=impl)
        for impl in ("triton", "reference")
    )
    assert torch.equal(ours, exact)


def test_all_are_proper_operators() -> None:
    ops = torch.ops.vae_fast
    mu_data, logvar_data = posterior(6, 5, "halves")
    logits, target = images(6, 11, "strided", torch.uint8)
    mu, logvar, logits = (t.detach().requires_grad_() for t in (mu_data, logvar_data, logits))
    torch.library.opcheck(ops.random_bits, (SEED, STEP, 3, 5, 4, 16))
    torch.library.opcheck(ops.reparameterize, (mu, logvar, SEED, STEP, 4, 16))
    torch.library.opcheck(ops.reparameterize_backward, (mu_data, logvar_data, SEED, STEP, 4, 16))
    gradients = torch.ones(6), torch.ones(()).expand(6)
    stats = encoded(6, 5, "strided")
    torch.library.opcheck(ops.sample_posterior, (stats.detach().requires_grad_(), SEED, STEP, 4, 16))
    for used in ((mu_data, gradients[1]), (mu_data, None), (None, gradients[1])):
        torch.library.opcheck(ops.sample_posterior_backward, (*used, stats, SEED, STEP, 4, 16))
    for likelihood, scale in (("bernoulli", None), ("gaussian", torch.zeros(())), ("gaussian", torch.zeros(11))):
        wanted = None if scale is None else scale.clone().requires_grad_()
        pixels = (logits.detach(), target)
        torch.library.opcheck(ops.elbo, (logits, target, mu, logvar, wanted, likelihood))
        torch.library.opcheck(ops.elbo_backward, (*gradients, *pixels, mu_data, logvar_data, scale, likelihood))
        torch.library.opcheck(ops.nll, (logits, target, wanted, likelihood))
        torch.library.opcheck(ops.nll_backward, (gradients[1], *pixels, scale, likelihood))
        torch.library.opcheck(ops.nll_with_gradient, (*pixels, torch.tensor(0.5), scale, likelihood))
    torch.library.opcheck(ops.sample_posterior_from, (stats, SEED, STEP, torch.tensor(4), 16))
    for weight in (torch.tensor(0.5), torch.ones(5)):
        torch.library.opcheck(ops.sample_posterior_gradient, (mu_data, weight, stats, SEED, STEP, 4, 16))
    for case in FINISHED:
        torch.library.opcheck(ops.finish_step_, Case(case, "cpu", [(3, 5), (7,)]).arguments(0))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # PyTorch's, in forward mode
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", ["reparameterize", "sample_posterior", "elbo_loss of mu", "nll gaussian"])
def test_transforms_are_refused_or_use_the_reference(function: str, transform: str) -> None:
    check_transform_is_refused("triton", function, transform)
    transformed, call = TRANSFORMS[transform][0], FUSED[function]
    auto, exact = (transformed(scalar(call, impl), call.argument) for impl in ("auto", "reference"))
    assert torch.equal(auto, exact)


@pytest.mark.parametrize("way", SECOND)
@pytest.mark.parametrize("function", ["reparameterize", "sample_posterior", "elbo_loss of mu", "nll gaussian"])
def test_second_derivatives_are_refused(function: str, way: str) -> None:
    check_second_derivative_is_refused("triton", function, way)


@pytest.mark.parametrize("function", ["reparameterize", "sample_posterior", "elbo_loss of mu", "nll gaussian"])
def test_vmap_matches_a_call_for_each_sample(function: str) -> None:
    check_vmap("triton", function)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("function", [f for f in CALLS if f.split()[1:] in ([], ["bernoulli"], ["of", "mu"])])
def test_global_states_change_no_bit(function: str, state: str) -> None:
    check_state("triton", function, state)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("shape", LATENTS[1:])
def test_latents_may_have_channels(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_latents_of_elbo("triton", shape, dtype, channels_last=True)
    check_sample_of_channels("triton", shape, dtype, channels_last=False)


@pytest.mark.parametrize("likelihood", reference.SCALED)
@pytest.mark.parametrize(("image", "shape"), [(image, shape) for image in SCALES for shape in SCALES[image]])
def test_a_scale_broadcasts_to_the_images(image: tuple[int, ...], shape: tuple[int, ...], likelihood: str) -> None:
    check_broadcast_scale("triton", likelihood, 3, image, shape, torch.float32, "target")


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_forward_and_backward_have_no_graph_break(dynamic: bool) -> None:
    def step(stats: Tensor, logits: Tensor, target: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = stats.chunk(2, dim=-1)
        z = vf.reparameterize(mu, logvar, seed, step, impl="triton")
        sample = sample_posterior(stats, seed, step, row_offset=3, impl="triton")
        elbo = vf.elbo_loss(logits + z.sum(1, keepdim=True), target, mu, logvar, beta=0.5, impl="triton")
        return z, *sample, elbo.loss + (nll(logits, target, impl="triton") * sample.kl).sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for b in (6, 9):
        results = []
        for function in (step, compiled):
            stats = encoded(b, 4, "halves").requires_grad_()
            logits, target = images(b, 11, "contiguous", torch.uint8)
            outputs = function(stats, logits.requires_grad_(), target, SEED, STEP)
            results.append((*outputs, *torch.autograd.grad(outputs[-1], (stats, logits))))
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(eager, traced)
