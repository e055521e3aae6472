"""-log p(x | logit) of one pixel and its derivatives, as functions that the Triton kernels of elbo.py call.

Each takes the decoder's output `logit`, the pixel x in [0, 1] and the log of the scale s (0 if there is none), float32
of one shape. `value` returns the nll; `gradient` returns its derivatives by the logit and by s. The formulas are those
of reference.py, which names their sources.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from .math import exp_f, log1p_f, log_f, one_minus_exp


@triton.jit
def _sigmoid(x):
    small = exp_f(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0) / (1.0 + small)


@triton.jit
def _log_sigmoid(x):
    return tl.where(x < 0.0, x, 0.0) - log1p_f(exp_f(-tl.abs(x)))


@triton.jit
def bernoulli(logit, x, s):
    return (1.0 - x) * logit - _log_sigmoid(logit)


@triton.jit
def bernoulli_gradient(logit, x, s):
    return _sigmoid(logit) - x, tl.zeros_like(logit)


@triton.jit
def continuous_bernoulli(logit, x, s):
    """Return the Bernoulli's value minus log(logit / tanh(logit / 2)): near 0 by its series in (logit / 2)^2."""
    near = tl.abs(logit) < 0.5
    size = tl.where(near, 1.0, tl.abs(logit))
    far = log_f(size) + log1p_f(exp_f(-size)) - log_f(one_minus_exp(size))
    far = tl.where(size == float("inf"), size, far)  # log_f is for finite values
    square = tl.where(near, 0.25 * logit * logit, 0.0)
    series = square * (0.33333334 - square * (0.07777778 - square * (0.021869488 - square * 0.0067195767)))
    return bernoulli(logit, x, s) - tl.where(near, 0.6931472 + series, far)


@triton.jit
def continuous_bernoulli_gradient(logit, x, s):
    """Return the Bernoulli's derivative minus 1 / logit - 1 / sinh(logit): near 0 by the derivative of the series."""
    near = tl.abs(logit) < 0.5
    size = tl.where(near, 1.0, tl.abs(logit))
    small = exp_f(-size)
    far = tl.div_rn(1.0, size) - tl.div_rn(2.0 * small, one_minus_exp(2.0 * size))  # they nearly cancel
    square = tl.where(near, 0.25 * logit * logit, 0.0)
    series = 0.33333334 - square * (0.15555556 - square * (0.065608464 - square * 0.026878307))
    return _sigmoid(logit) - x - tl.where(near, 0.5 * logit * series, tl.where(logit < 0.0, -far, far)), tl.zeros_like(
        logit
    )


@triton.jit
def gaussian(logit, x, s):
    r = (x - logit) * exp_f(-s)
    return 0.5 * r * r + s + 0.9189385332


@triton.jit
def gaussian_gradient(logit, x, s):
    inverse = exp_f(-s)
    r = (x - logit) * inverse
    return -r * inverse, 1.0 - r * r


@triton.jit
def discretized_logistic(logit, x, s):
    inverse = exp_f(-s)
    upper = (x - logit + 0.0019607844) * inverse  # half a level, 1 / 510
    lower = (x - logit - 0.0019607844) * inverse
    below_upper = _log_sigmoid(upper)
    above_lower = _log_sigmoid(-lower)
    width = inverse * 0.003921569
    # ln(1 - e^-w), for a narrow bin by its series: w itself may be too small for log_f
    narrow = -5.5412635 - s - 0.5 * width  # ln(1 / 255)
    inside = below_upper + above_lower + tl.where(width < 0.000244140625, narrow, log_f(one_minus_exp(width)))
    return -tl.where(x <= 0.0, below_upper, tl.where(x >= 1.0, above_lower, inside))


@triton.jit
def discretized_logistic_gradient(logit, x, s):
    inverse = exp_f(-s)
    upper = (x - logit + 0.0019607844) * inverse
    lower = (x - logit - 0.0019607844) * inverse
    # the derivatives of -log sigmoid(upper) and -log sigmoid(-lower): zero where the pixel's bin has no such edge
    by_upper = tl.where(x >= 1.0, 0.0, -_sigmoid(-upper))
    by_lower = tl.where(x <= 0.0, 0.0, _sigmoid(lower))
    width = inverse * 0.003921569
    by_width = width * exp_f(-width) / one_minus_exp(width)
    inside = (x > 0.0) & (x < 1.0)
    by_scale = -by_upper * upper - by_lower * lower
    return -(by_upper + by_lower) * inverse, by_scale + tl.where(inside, by_width, 0.0)


class Likelihood(NamedTuple):
    value: triton.JITFunction
    gradient: triton.JITFunction


LIKELIHOODS = {
    "bernoulli": Likelihood(bernoulli, bernoulli_gradient),
    "continuous_bernoulli": Likelihood(continuous_bernoulli, continuous_bernoulli_gradient),
    "gaussian": Likelihood(gaussian, gaussian_gradient),
    "discretized_logistic": Likelihood(discretized_logistic, discretized_logistic_gradient),
}
