// Elementary functions in float for loops that the compiler vectorises: no calls, no branches, no tables. Each returns
// NaN for NaN and keeps its error bound whether or not multiplications and additions are fused.
#pragma once

#include "philox.h"  // VAE_FAST_INLINE

#include <bit>
#include <cmath>
#include <cstdint>

namespace vae_fast {

// Returns e^x within 2 ulp over all of float, from inf above 88.73 down to the denormals and 0.
// e^x = 2^n e^r with |r| <= ln 2 / 2, and a polynomial for e^r (Moshier, Cephes, expf).
VAE_FAST_INLINE float exp_f(float x) {
  constexpr float low = -105.0F, high = 89.0F;  // beyond these bounds the result is 0 or inf anyway
  x = x < low ? low : x;                        // NaN passes both
  x = x > high ? high : x;
  constexpr float shift = 0x1.8p23F;  // adding it leaves the rounded integer in the low bits
  const float shifted = x * 1.44269504F + shift;
  const float n = shifted - shift;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;  // ln 2 in two parts, the first of few bits
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = (p * r * r + r) + 1.0F;
  // 2^n in two factors, because n reaches from -151 to 128. Unsigned, because the bits of a NaN are any integer.
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(shift);
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(exponent) >> 1);
  const float scale0 = std::bit_cast<float>((half + 127U) << 23);
  const float scale1 = std::bit_cast<float>((exponent - half + 127U) << 23);
  return p * scale0 * scale1;
}

// Returns ln(1 + x) for x in [-0.3, 1], with a relative error within 4 ulp, even if x is tiny.
// It is 2 artanh(s) with s = x / (2 + x), |s| <= 1/3; the first omitted term of the series is 1.4e-8 of the result.
VAE_FAST_INLINE float log1p_f(float x) {
  const float s = x / (2.0F + x);
  const float square = s * s;
  float p = 1.0F / 13;
  p = p * square + 1.0F / 11;
  p = p * square + 1.0F / 9;
  p = p * square + 1.0F / 7;
  p = p * square + 1.0F / 5;
  p = p * square + 1.0F / 3;
  const float twice = s + s;
  return twice * square * p + twice;
}

// Returns ln x for normal x > 0, within 4 ulp: x = 2^e m with m in [0.70, 1.41), so that m - 1 is exact and nothing
// cancels at 1.
VAE_FAST_INLINE float log_f(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x) - 0x3F330000U;  // 0.69921875
  const float m = std::bit_cast<float>((bits & 0x007FFFFFU) + 0x3F330000U);
  const float e = static_cast<float>(static_cast<int32_t>(bits) >> 23);
  return e * 0.693359375F + (log1p_f(m - 1.0F) - e * 2.12194440e-4F);
}

struct Pair {
  float first;
  float second;
};

// Returns cos and sin of 2 pi u 2^-24 for u < 2^24, within 1e-7: the angle is reduced exactly to an eighth of a turn on
// either side of a quadrant's start, then polynomials are used (Moshier, Cephes, sinf and cosf).
VAE_FAST_INLINE Pair cos_sin_turn(uint32_t u) {
  const uint32_t quadrant = (u + (1U << 21)) >> 22;
  const float angle = static_cast<float>(static_cast<int32_t>(u - (quadrant << 22))) * 3.74507028e-7F;  // 2 pi 2^-24
  const float square = angle * angle;
  float s = -1.9515295891e-4F;
  s = s * square + 8.3321608736e-3F;
  s = s * square - 1.6666654611e-1F;
  s = s * square * angle + angle;
  float c = 2.443315711809948e-5F;
  c = c * square - 1.388731625493765e-3F;
  c = c * square + 4.166664568298827e-2F;
  c = c * square * square + (1.0F - 0.5F * square);
  const bool swap = (quadrant & 1U) != 0;
  const uint32_t cosine = std::bit_cast<uint32_t>(swap ? s : c) ^ (((quadrant + 1U) & 2U) << 30);
  const uint32_t sine = std::bit_cast<uint32_t>(swap ? c : s) ^ ((quadrant & 2U) << 30);
  return {std::bit_cast<float>(cosine), std::bit_cast<float>(sine)};
}

}  // namespace vae_fast
