// The loss of a panel's pixels and its gradients. The formulas are those of elbo.h and likelihoods.h; what they share
// between value and derivatives, and what depends on the scale alone, is computed once.
#pragma once

#include "activations.h"
#include "likelihoods.h"
#include "mlp_loops.h"
#include "values.h"

namespace vae_fast {
namespace {

// A pixel's loss, and its derivatives by the logit and by the log of the scale.
struct PixelLoss {
  float value, by_logit, by_scale;
};

// The log of 1 + e^-|l|, which the Bernoulli's part has, cancels against one in the constant's part far from 0.
VAE_FAST_INLINE PixelLoss pixel_loss_of(const ContinuousBernoulli&, float logit, float x, float, float, float) {
  const bool near = std::fabs(logit) < 0.5F;
  const float small = exp_f(-std::fabs(logit)), rest = 1.0F - small;
  const float size = near ? 1.0F : std::fabs(logit);
  const float log = log_f(near ? 1.0F + small : rest / size);
  const float square = near ? 0.25F * logit * logit : 0.0F;
  const float series = square * (0.33333334F - square * (0.07777778F - square * (0.021869488F - square * 0.0067195767F)));
  const float value = (1.0F - x) * logit - (logit < 0.0F ? logit : 0.0F) + log - (near ? 0.6931472F + series : 0.0F);
  const float slope = 0.33333334F - square * (0.15555556F - square * (0.065608464F - square * 0.026878307F));
  const float far = 1.0F / size - 2.0F * small / ((near ? 1.0F : rest) * (1.0F + small));
  const float by_constant = near ? 0.5F * logit * slope : logit < 0.0F ? -far : far;
  return {value, (logit < 0.0F ? small : 1.0F) / (1.0F + small) - x - by_constant, 0.0F};
}

VAE_FAST_INLINE PixelLoss pixel_loss_of(const Gaussian&, float mean, float x, float inverse, float constant, float) {
  const float r = (x - mean) * inverse;
  return {0.5F * r * r + constant, -r * inverse, 1.0F - r * r};
}

VAE_FAST_INLINE PixelLoss pixel_loss_of(const DiscretizedLogistic&, float mean, float x, float inverse, float log_mass,
                                        float by_width) {
  constexpr float half = DiscretizedLogistic::half;
  const bool black = x <= 0.0F, white = x >= 1.0F;  // whose bins have no lower or no upper edge
  const float upper = (x - mean + half) * inverse, lower = (x - mean - half) * inverse;
  const float small_upper = exp_f(-std::fabs(upper)), small_lower = exp_f(-std::fabs(lower));
  const float one_upper = 1.0F + small_upper, one_lower = 1.0F + small_lower;
  const float of_upper = white || upper > 0.0F ? 0.0F : upper, of_lower = black || lower < 0.0F ? 0.0F : -lower;
  const float log = log_f((white ? 1.0F : one_upper) * (black ? 1.0F : one_lower));
  const float by_upper = white ? 0.0F : (upper > 0.0F ? -small_upper : -1.0F) / one_upper;
  const float by_lower = black ? 0.0F : (lower < 0.0F ? small_lower : 1.0F) / one_lower;
  const bool inside = !black && !white;
  return {log - of_upper - of_lower - (inside ? log_mass : 0.0F), -(by_upper + by_lower) * inverse,
          (inside ? by_width : 0.0F) - by_upper * upper - by_lower * lower};
}

VAE_FAST_INLINE void scale_term_of(const Gaussian&, float s, float& inverse, float& constant, float& by_width) {
  inverse = exp_f(-s);
  constant = s + 0.9189385332F;
  by_width = 0.0F;
}

VAE_FAST_INLINE void scale_term_of(const DiscretizedLogistic&, float s, float& inverse, float& log_mass,
                                   float& by_width) {
  inverse = exp_f(-s);
  const float width = inverse * DiscretizedLogistic::width;
  const float narrow = -5.5412635F - s - 0.5F * width;  // ln(1 / 255)
  log_mass = width < 0x1p-12F ? narrow : log_f(one_minus_exp(width));
  by_width = width * exp_f(-width) / one_minus_exp(width);
}

template <typename Model>
void scale_terms_of(const float* __restrict log_scale, int64_t count, const ScaleTerms& to) {
  float *const __restrict inverse = to.inverse, *const __restrict constant = to.constant,
      *const __restrict by_width = to.by_width;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scale_term_of(Model{}, log_scale[i], inverse[i], constant[i], by_width[i]);
}

// Computes what a pixel's loss needs of each of `count` scales.
void scale_terms(Likelihood likelihood, const float* log_scale, int64_t count, const ScaleTerms& to) {
  if (likelihood == Likelihood::gaussian) scale_terms_of<Gaussian>(log_scale, count, to);
  if (likelihood == Likelihood::discretized_logistic) scale_terms_of<DiscretizedLogistic>(log_scale, count, to);
}

VAE_FAST_INLINE PanelLoss total(const float* sums, uint32_t largest, const LikelihoodPanel& by) {
  if (by.nll != nullptr) copy(sums, kPanel, by.nll);
  return {sum_of_lanes(sums, by.lanes), largest};
}

PanelLoss bernoulli_panel(const LikelihoodPanel& by) {
  alignas(64) float sums[kPanel] = {};
  for (int64_t row = 0; row < by.rows; ++row) {
    const float* const __restrict pixels = by.pixels + row * kPanel;
    float* const __restrict logits = by.logits + row * kPanel;
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      const float logit = logits[i], x = pixels[i];
      const float small = exp_f(-std::fabs(logit));
      sums[i] += (1.0F - x) * logit - ((logit < 0.0F ? logit : 0.0F) - log1p_f(small));
      logits[i] = by.scale * ((logit < 0.0F ? small : 1.0F) / (1.0F + small) - x);
    }
    if (by.lanes < kPanel) clear_lanes(logits, by.lanes);
  }
  return total(sums, 0, by);
}

template <typename Model>
PanelLoss likelihood_panel_of(const LikelihoodPanel& by) {
  alignas(64) float sums[kPanel] = {};
  uint32_t largest = 0;
  for (int64_t row = 0; row < by.rows; ++row) {
    const float* const __restrict pixels = by.pixels + row * kPanel;
    float* const __restrict logits = by.logits + row * kPanel;
    const float inverse = Model::scaled ? by.terms.inverse[row] : 1.0F;
    const float constant = Model::scaled ? by.terms.constant[row] : 0.0F;
    const float by_width = Model::scaled ? by.terms.by_width[row] : 0.0F;
    alignas(64) float slopes[kPanel];
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      const PixelLoss loss = pixel_loss_of(Model{}, logits[i], pixels[i], inverse, constant, by_width);
      sums[i] += loss.value;
      logits[i] = by.scale * loss.by_logit;
      slopes[i] = loss.by_scale;
    }
    clear_lanes(logits, by.lanes);
    clear_lanes(slopes, by.lanes);
    if (Model::scaled && by.slopes != nullptr) {
      float* const __restrict to = by.slopes + row * kPanel;
#pragma omp simd
      for (int64_t i = 0; i < kPanel; ++i) to[i] = by.scale * slopes[i];
    } else if (Model::scaled && by.by_scale != nullptr) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < kPanel; ++i) sum += slopes[i];
      by.by_scale[row] = by.scale * sum;
      largest = magnitude(by.by_scale[row]) > largest ? magnitude(by.by_scale[row]) : largest;
    }
  }
  return total(sums, largest, by);
}

PanelLoss likelihood_panel(Likelihood likelihood, const LikelihoodPanel& by) {
  if (likelihood == Likelihood::bernoulli) return bernoulli_panel(by);
  if (likelihood == Likelihood::continuous_bernoulli) return likelihood_panel_of<ContinuousBernoulli>(by);
  if (likelihood == Likelihood::gaussian) return likelihood_panel_of<Gaussian>(by);
  return likelihood_panel_of<DiscretizedLogistic>(by);
}

// Writes the sums over the panels, `stride` apart, of the gradients by the log of each pixel's scale.
void scale_gradient(const float* by_scale, int64_t panels, int64_t stride, int64_t pixels, float* to) {
  constexpr int64_t run = 64;
  for (int64_t begin = 0; begin < pixels; begin += run) {
    const int64_t count = smaller(run, pixels - begin);
    double sums[run] = {};
    for (int64_t panel = 0; panel < panels; ++panel) {
      const float* const __restrict from = by_scale + panel * stride + begin;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) sums[i] += from[i];
    }
    for (int64_t i = 0; i < count; ++i) to[begin + i] = static_cast<float>(sums[i]);
  }
}

}  // namespace
}  // namespace vae_fast
