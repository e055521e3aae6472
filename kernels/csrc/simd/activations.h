// Activation functions and their derivatives, as in torch.nn with its defaults.
#pragma once

#include "likelihoods.h"
#include "mlp_loops.h"
#include "vector_math.h"

#include <bit>
#include <cmath>

namespace vae_fast {
namespace {

struct Activated {
  float value;
  float slope;
};

// 1 if x > 0, and if x is NaN, so that NaN propagates; else `below`.
VAE_FAST_INLINE Activated relu_with(float x, float below) {
  const float slope = x <= 0.0F ? below : 1.0F;
  return {below == 0.0F ? (x <= 0.0F ? 0.0F : x) : slope * x, slope};
}

VAE_FAST_INLINE Activated elu(float x) {
  const float below = x < 0.0F ? x : 0.0F;
  return {x <= 0.0F ? -one_minus_exp(-below) : x, x <= 0.0F ? exp_f(below) : 1.0F};
}

VAE_FAST_INLINE Activated silu(float x) {
  const float s = sigmoid(x);
  return {x * s, s * (1.0F + x * (1.0F - s))};
}

// x Phi(x); Phi within 0.75e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
VAE_FAST_INLINE Activated gelu(float x) {
  const float size = std::fabs(x);
  const float bell = exp_f(-0.5F * x * x);
  const float t = 1.0F / (1.0F + 0.3275911F * 0.70710678F * size);
  float p = 1.061405429F;
  p = p * t - 1.453152027F;
  p = p * t + 1.421413741F;
  p = p * t - 0.284496736F;
  p = p * t + 0.254829592F;
  const float tail = 0.5F * p * t * bell;
  const float phi = x < 0.0F ? tail : 1.0F - tail;
  return {x * phi, phi + x * 0.39894228F * bell};
}

VAE_FAST_INLINE Activated softplus(float x) {
  return {(x > 0.0F ? x : 0.0F) + log1p_f(exp_f(-std::fabs(x))), sigmoid(x)};
}

VAE_FAST_INLINE Activated hyperbolic_tangent(float x) {
  const float size = std::fabs(x);
  const float value = one_minus_exp(2.0F * size) / (1.0F + exp_f(-2.0F * size));
  return {x < 0.0F ? -value : value, 1.0F - value * value};
}

// Clears the lanes of one row that have no image.
VAE_FAST_INLINE void clear_lanes(float* row, int64_t lanes) {
  for (int64_t i = lanes; i < kPanel; ++i) row[i] = 0.0F;
}

VAE_FAST_INLINE uint32_t magnitude(float x) { return std::bit_cast<uint32_t>(x) & 0x7FFFFFFFU; }

template <typename Function>
VAE_FAST_INLINE uint32_t activate_by(float* __restrict values, float* __restrict slopes, int64_t count,
                                     const Function& function) {
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    const Activated result = function(values[i]);
    values[i] = result.value;
    slopes[i] = result.slope;
    const uint32_t bits = magnitude(result.value);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

uint32_t activate(Activation activation, float* values, float* slopes, int64_t count) {
  switch (activation) {
    case Activation::relu:
      return activate_by(values, slopes, count, [](float x) { return relu_with(x, 0.0F); });
    case Activation::leaky_relu:
      return activate_by(values, slopes, count, [](float x) { return relu_with(x, 0.01F); });
    case Activation::elu:
      return activate_by(values, slopes, count, [](float x) { return elu(x); });
    case Activation::silu:
      return activate_by(values, slopes, count, [](float x) { return silu(x); });
    case Activation::gelu:
      return activate_by(values, slopes, count, [](float x) { return gelu(x); });
    case Activation::softplus:
      return activate_by(values, slopes, count, [](float x) { return softplus(x); });
    case Activation::tanh:
      break;
  }
  return activate_by(values, slopes, count, [](float x) { return hyperbolic_tangent(x); });
}

// Returns the gradient by an activation's input from the one by its output. If the slope is 0 so is the result,
// whatever the gradient.
uint32_t times_slopes(const float* __restrict slopes, float* __restrict gradients, int64_t count) {
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    const float gradient = slopes[i] == 0.0F ? 0.0F : slopes[i] * gradients[i];
    gradients[i] = gradient;
    const uint32_t bits = magnitude(gradient);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

}  // namespace
}  // namespace vae_fast
