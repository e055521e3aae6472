// -log p(x | logit) of one pixel and its derivatives by the decoder's output `logit` and by s, the log of the scale.
// The formulas, and the cases of inf and NaN, are those of kernels/reference.py, which names their sources; but where
// autograd overflows there on the way to a finite value, these may return the value.
#pragma once

#include "vector_math.h"

#include <cmath>
#include <limits>

namespace vae_fast {

VAE_FAST_INLINE float sigmoid(float x) {
  const float small = exp_f(-std::fabs(x));
  return (x < 0.0F ? small : 1.0F) / (1.0F + small);
}

VAE_FAST_INLINE float log_sigmoid(float x) { return (x < 0.0F ? x : 0.0F) - log1p_f(exp_f(-std::fabs(x))); }

// Returns 1 - e^-x for x >= 0, within a few ulp: by its series below 0.25, where the difference cancels.
VAE_FAST_INLINE float one_minus_exp(float x) {
  float p = 0.008333334F - 0.0013888889F * x;
  p = 0.041666668F - p * x;
  p = 0.16666667F - p * x;
  p = 0.5F - p * x;
  p = 1.0F - p * x;
  return x < 0.25F ? p * x : 1.0F - exp_f(-x);
}

struct Derivatives {
  float by_logit;
  float by_scale;
};

struct Bernoulli {
  static constexpr bool scaled = false;

  static VAE_FAST_INLINE float value(float logit, float x, float) { return (1.0F - x) * logit - log_sigmoid(logit); }

  static VAE_FAST_INLINE Derivatives derivatives(float logit, float x, float) { return {sigmoid(logit) - x, 0.0F}; }
};

// The Bernoulli's value minus log(logit / tanh(logit / 2)): near 0 by its series in (logit / 2)^2.
struct ContinuousBernoulli {
  static constexpr bool scaled = false;

  static VAE_FAST_INLINE float value(float logit, float x, float s) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    const bool near = std::fabs(logit) < 0.5F;
    const float size = near ? 1.0F : std::fabs(logit);
    float far = log_f(size) + log1p_f(exp_f(-size)) - log_f(one_minus_exp(size));
    far = size == inf ? inf : far;  // log_f is for finite values
    const float square = near ? 0.25F * logit * logit : 0.0F;
    const float series = square * (0.33333334F - square * (0.07777778F - square * (0.021869488F - square * 0.0067195767F)));
    return Bernoulli::value(logit, x, s) - (near ? 0.6931472F + series : far);
  }

  static VAE_FAST_INLINE Derivatives derivatives(float logit, float x, float) {
    const bool near = std::fabs(logit) < 0.5F;
    const float size = near ? 1.0F : std::fabs(logit);
    const float far = 1.0F / size - 2.0F * exp_f(-size) / one_minus_exp(2.0F * size);
    const float square = near ? 0.25F * logit * logit : 0.0F;
    const float series = 0.33333334F - square * (0.15555556F - square * (0.065608464F - square * 0.026878307F));
    const float signed_far = logit < 0.0F ? -far : far;
    return {sigmoid(logit) - x - (near ? 0.5F * logit * series : signed_far), 0.0F};
  }
};

struct Gaussian {
  static constexpr bool scaled = true;

  static VAE_FAST_INLINE float value(float mean, float x, float s) {
    const float r = (x - mean) * exp_f(-s);
    return 0.5F * r * r + s + 0.9189385332F;
  }

  static VAE_FAST_INLINE Derivatives derivatives(float mean, float x, float s) {
    const float inverse = exp_f(-s);
    const float r = (x - mean) * inverse;
    return {-r * inverse, 1.0F - r * r};
  }
};

struct DiscretizedLogistic {
  static constexpr bool scaled = true;
  static constexpr float half = 0.0019607844F, width = 0.003921569F;  // of a level: 1 / 510, 1 / 255

  static VAE_FAST_INLINE float value(float mean, float x, float s) {
    const float inverse = exp_f(-s);
    const float below_upper = log_sigmoid((x - mean + half) * inverse);
    const float above_lower = log_sigmoid((mean - x + half) * inverse);
    const float scaled_width = inverse * width;
    // ln(1 - e^-w), for a narrow bin by its series: w itself may be too small for log_f
    const float narrow = -5.5412635F - s - 0.5F * scaled_width;  // ln(1 / 255)
    const float log_mass = scaled_width < 0x1p-12F ? narrow : log_f(one_minus_exp(scaled_width));
    const float inside = below_upper + above_lower + log_mass;
    const float not_black = x >= 1.0F ? above_lower : inside;
    return -(x <= 0.0F ? below_upper : not_black);
  }

  static VAE_FAST_INLINE Derivatives derivatives(float mean, float x, float s) {
    const float inverse = exp_f(-s);
    const float upper = (x - mean + half) * inverse;
    const float lower = (x - mean - half) * inverse;
    // the derivatives of -log sigmoid(upper) and -log sigmoid(-lower): zero where the pixel's bin has no such edge
    const float upper_slope = -sigmoid(-upper), lower_slope = sigmoid(lower);
    const float by_upper = x >= 1.0F ? 0.0F : upper_slope;
    const float by_lower = x <= 0.0F ? 0.0F : lower_slope;
    const float scaled_width = inverse * width;
    const float by_width = scaled_width * exp_f(-scaled_width) / one_minus_exp(scaled_width);
    const float by_scale = -by_upper * upper - by_lower * lower;
    const bool inside = x > 0.0F && x < 1.0F;
    return {-(by_upper + by_lower) * inverse, by_scale + (inside ? by_width : 0.0F)};
  }
};

}  // namespace vae_fast
