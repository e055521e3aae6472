// The stages of a step that draws several samples of z an image. The specification is objectives/multisample.py.
#pragma once

#include "mlp.h"

namespace vae_fast {
namespace {

// Takes one normal of every image: a column of the noise of one sample.
VAE_FAST_INLINE uint32_t draw_column(const SamplesPanel& by, int64_t column, const float* __restrict eps) {
  const int64_t k = column / by.latent, j = column % by.latent;
  const float* const __restrict mu = by.stats + j * kPanel;
  const float* const __restrict logvar = mu + by.latent * kPanel;
  float* const __restrict noise = by.noise + k * by.stride + j * kPanel;
  float* const __restrict z = by.z + k * by.stride + j * kPanel;
  float* const __restrict below = by.below + k * kPanel;
  uint32_t largest = 0;
#pragma omp simd
  for (int64_t i = 0; i < kPanel; ++i) {
    noise[i] = exp_f(0.5F * logvar[i]) * eps[i];
    z[i] = mu[i] + noise[i];
    below[i] += 0.5F * (z[i] * z[i] - eps[i] * eps[i] - logvar[i]);
  }
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < kPanel; ++i) largest = magnitude(z[i]) > largest ? magnitude(z[i]) : largest;
  return largest;
}

uint32_t draw_samples(const SamplesPanel& by) {
  uint32_t largest = 0;
  const int64_t columns = by.samples * by.latent;
  for (int64_t i = 0; i < by.samples * kPanel; ++i) by.below[i] = 0.0F;
  for (int64_t block = 0; block * kWords < columns; ++block) {
    alignas(64) float eps[kWords][kPanel];
    draw_normals(*by.draw, by.rows, block, eps);
    for (int64_t word = 0; word < smaller(kWords, columns - block * kWords); ++word) {
      const uint32_t seen = draw_column(by, block * kWords + word, eps[word]);
      largest = seen > largest ? seen : largest;
    }
  }
  for (int64_t j = 0; j < by.latent; ++j) {
    const float* const __restrict mu = by.stats + j * kPanel;
    const float* const __restrict logvar = mu + by.latent * kPanel;
    alignas(64) float kl[kPanel];
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) kl[i] = -0.5F * (1.0F + logvar[i] - mu[i] * mu[i] - exp_f(logvar[i]));
    by.kl[j] = sum_of_lanes(kl, by.lanes);
  }
  return largest;
}

// Multiplies the gradients of one sample, [rows][16], by its shares, and sums those by the scale of each row.
uint32_t share_gradients(const Shares& by) {
  uint32_t largest = 0;
  for (int64_t row = 0; row < by.rows; ++row) {
    float* const __restrict logits = by.logits + row * kPanel;
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) logits[i] *= by.shares[i];
    if (by.slopes == nullptr) continue;
    const float* const __restrict slopes = by.slopes + row * kPanel;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < kPanel; ++i) sum += by.shares[i] * slopes[i];
    by.by_scale[row] = sum;
    largest = magnitude(sum) > largest ? magnitude(sum) : largest;
  }
  return largest;
}

// Computes the shares of the samples' weights, and for each image the mean of the samples' losses and the bound.
void weigh_samples(const Weights& by) {
  const auto count = static_cast<float>(by.samples);
  alignas(64) float largest[kPanel], total[kPanel] = {}, nll[kPanel] = {};
  for (int64_t i = 0; i < kPanel; ++i) largest[i] = -INFINITY;
  for (int64_t k = 0; k < by.samples; ++k) {
    float* const __restrict shares = by.shares + k * kPanel;
    alignas(64) float own[kPanel] = {};
    for (int64_t block = 0; block < by.blocks; ++block) {
      const float* const __restrict part = by.nll + (k * by.blocks + block) * kPanel;
#pragma omp simd
      for (int64_t i = 0; i < kPanel; ++i) own[i] += part[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      nll[i] += own[i] / count;
      shares[i] = -(own[i] + by.beta * by.below[k * kPanel + i]);
      largest[i] = shares[i] > largest[i] ? shares[i] : largest[i];
    }
  }
  for (int64_t k = 0; k < by.samples; ++k) {
    float* const __restrict shares = by.shares + k * kPanel;
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      shares[i] = exp_f(shares[i] - largest[i]);
      total[i] += shares[i];
    }
  }
  alignas(64) float bound[kPanel];
#pragma omp simd
  for (int64_t i = 0; i < kPanel; ++i) bound[i] = -(largest[i] + log_f(total[i] / count));
  for (int64_t k = 0; k < by.samples; ++k) {
    float* const __restrict shares = by.shares + k * kPanel;
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) shares[i] = by.kind == Bound::elbo ? 1.0F / count : shares[i] / total[i];
  }
  *by.mean_nll = sum_of_lanes(nll, by.lanes);
  *by.bound = sum_of_lanes(bound, by.lanes);
}

uint32_t samples_gradient(const SamplesGradient& by) {
  uint32_t largest = 0;
  const bool is_dreg = by.kind == Bound::dreg;
  for (int64_t j = 0; j < by.latent; ++j) {
    const float* const __restrict mu = by.stats + j * kPanel;
    const float* const __restrict logvar = mu + by.latent * kPanel;
    float* const __restrict by_mu = by.by_stats + j * kPanel;
    float* const __restrict by_logvar = by_mu + by.latent * kPanel;
    alignas(64) float mean[kPanel] = {}, spread[kPanel] = {}, precision[kPanel];
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) precision[i] = exp_f(-logvar[i]);
    for (int64_t k = 0; k < by.samples; ++k) {
      const int64_t at = k * by.stride + j * kPanel;
      const float* const __restrict noise = by.noise + at;
      const float* const __restrict z = by.z + at;
      const float* const __restrict by_z = by.by_z + at;
      const float* const __restrict shares = by.shares + k * kPanel;
#pragma omp simd
      for (int64_t i = 0; i < kPanel; ++i) {
        const float density = by.scale * by.beta * shares[i];
        float gradient = by_z[i];
        if (by.kind == Bound::iwae) gradient += density * z[i];
        if (is_dreg)
          gradient = (1.0F - by.beta + by.beta * shares[i]) * (gradient + density * (z[i] - noise[i] * precision[i]));
        mean[i] += gradient;
        spread[i] += 0.5F * gradient * noise[i];
      }
    }
    const float of_kl = by.scale * by.beta;
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      by_mu[i] = mean[i] + (by.kind == Bound::elbo ? of_kl * mu[i] : 0.0F);
      by_logvar[i] = spread[i] + (by.kind == Bound::elbo   ? 0.5F * of_kl * (exp_f(logvar[i]) - 1.0F)
                                  : by.kind == Bound::iwae ? -0.5F * of_kl
                                                           : 0.0F);
    }
    clear_lanes(by_mu, by.lanes);
    clear_lanes(by_logvar, by.lanes);
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < kPanel; ++i) {
      largest = magnitude(by_mu[i]) > largest ? magnitude(by_mu[i]) : largest;
      largest = magnitude(by_logvar[i]) > largest ? magnitude(by_logvar[i]) : largest;
    }
  }
  return largest;
}

}  // namespace
}  // namespace vae_fast
