"""Elementary functions in float32 for the Triton kernels.

They use the formulas of csrc/simd/vector_math.h, for two reasons: Triton's own sin and cos spill to local memory on
every NVIDIA target, to handle angles that never occur here; and its fast exp and log lose more than the error budget of
the operators allows. Each function returns NaN for NaN.
"""

import triton
import triton.language as tl


@triton.jit
def exp_f(x):
    """Return e^x within 2 ulp, from inf above 88.73 down to the denormals and 0.

    e^x = 2^n e^r with |r| <= ln 2 / 2, and a polynomial for e^r (Moshier, Cephes, expf).
    """
    x = tl.where(x < -105.0, -105.0, x)  # beyond these bounds the result is 0 or inf anyway; NaN passes both
    x = tl.where(x > 89.0, 89.0, x)
    shifted = x * 1.44269504 + 12582912.0  # 1.5 * 2^23 leaves the rounded integer in the low bits
    n = shifted - 12582912.0
    r = (x - n * 0.693359375) + n * 2.12194440e-4  # ln 2 in two parts, the first of few bits
    p = 1.9875691500e-4
    p = p * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = (p * r * r + r) + 1.0
    # 2^n in two factors, because n reaches from -151 to 128
    exponent = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    half = exponent >> 1
    scale0 = ((half + 127) << 23).to(tl.float32, bitcast=True)
    scale1 = ((exponent - half + 127) << 23).to(tl.float32, bitcast=True)
    return p * scale0 * scale1


@triton.jit
def one_minus_exp(x):
    """Return 1 - e^-x for x >= 0, within a few ulp: by its series below 0.25, where the difference cancels."""
    p = -0.0013888889 * x + 0.008333334
    p = p * -x + 0.041666668
    p = p * -x + 0.16666667
    p = p * -x + 0.5
    p = p * -x + 1.0
    return tl.where(x < 0.25, p * x, 1.0 - exp_f(-x))


@triton.jit
def log1p_f(x):
    """Return ln(1 + x) for x in [-0.3, 1] within 6 ulp, 2 of them from a GPU's division.

    It is 2 artanh(s) with s = x / (2 + x).
    """
    s = x / (2.0 + x)
    square = s * s
    p = 0.07692307692307693  # 1 / 13
    p = p * square + 0.09090909090909091
    p = p * square + 0.1111111111111111
    p = p * square + 0.14285714285714285
    p = p * square + 0.2
    p = p * square + 0.3333333333333333
    twice = s + s
    return twice * square * p + twice


@triton.jit
def log_f(x):
    """Return ln x for normal x > 0 within 6 ulp: x = 2^e m with m in [0.70, 1.41), so that nothing cancels at 1."""
    bits = x.to(tl.int32, bitcast=True) - 0x3F330000  # 0.69921875
    m = ((bits & 0x007FFFFF) + 0x3F330000).to(tl.float32, bitcast=True)
    e = (bits >> 23).to(tl.float32)
    return e * 0.693359375 + (log1p_f(m - 1.0) - e * 2.12194440e-4)


@triton.jit
def cos_sin_turn(u):
    """Return cos and sin of 2 pi u 2^-24 for uint32 u < 2^24, within 1e-7.

    The angle is reduced exactly to an eighth of a turn on either side of a quadrant's start, then polynomials are used
    (Moshier, Cephes, sinf and cosf).
    """
    quadrant = (u + 2097152) >> 22
    angle = (u - (quadrant << 22)).to(tl.int32, bitcast=True).to(tl.float32) * 3.74507028e-7  # 2 pi 2^-24
    square = angle * angle
    s = -1.9515295891e-4
    s = s * square + 8.3321608736e-3
    s = s * square - 1.6666654611e-1
    s = s * square * angle + angle
    c = 2.443315711809948e-5
    c = c * square - 1.388731625493765e-3
    c = c * square + 4.166664568298827e-2
    c = c * square * square + (1.0 - 0.5 * square)
    swap = (quadrant & 1) != 0
    cosine = tl.where(swap, s, c)
    sine = tl.where(swap, c, s)
    return tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine), tl.where((quadrant & 2) != 0, -sine, sine)
