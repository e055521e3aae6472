// The stages of a whole MLP VAE's step around its products. The formulas are those of elbo.h and noise.h.
#pragma once

#include "activations.h"
#include "likelihoods.h"
#include "mlp_loops.h"
#include "noise.h"
#include "transpose.h"
#include "values.h"

namespace vae_fast {
namespace {

constexpr int64_t kSquare = kPanel * kPanel;

// Transposes 16 x 16 values; both squares are contiguous.
VAE_FAST_INLINE void transpose_square(const float* __restrict from, float* __restrict to) {
  for (int64_t row = 0; row < kPanel; row += 4)
    for (int64_t column = 0; column < kPanel; column += 4)
      transpose_tile(from + row * kPanel + column, kPanel, to + column * kPanel + row, kPanel);
}

// Prefetches memory that is about to be written. It has to be inline, like every function that only prefetches: GCC
// sees no effect in a call and drops it.
VAE_FAST_INLINE void fetch_square(const float* square) {
  for (int64_t row = 0; row < kPanel; ++row) __builtin_prefetch(square + row * kPanel, 1);
}

// Copies runs [begin, end) of 16 features of one panel, [features][16], to squares `stride` apart.
void by_image(const float* from, int64_t features, int64_t begin, int64_t end, float* to, int64_t stride) {
  for (int64_t run = begin; run < end; ++run) {
    const float* const square = from + run * kSquare;
    if (run + 1 < end) fetch_square(to + (run + 1) * stride);
    const int64_t count = smaller(kPanel, features - run * kPanel);
    if (count == kPanel) {
      transpose_square(square, to + run * stride);
    } else {
      alignas(64) float whole[kSquare] = {};
      copy(square, count * kPanel, whole);
      transpose_square(whole, to + run * stride);
    }
  }
}

// Returns the bits of the largest pixel's magnitude.
template <typename Pixel>
VAE_FAST_INLINE uint32_t gather_of(const Gather& by, float factor) {
  const auto* const images = static_cast<const Pixel*>(by.images);
  uint32_t largest = 0;
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    const Pixel* const image = images + by.rows[lane] * by.columns;
    const Pixel* const next = images + by.rows[(lane + 1) % kPanel] * by.columns;
    for (int64_t run = by.begin; run < by.end; ++run) {
      __builtin_prefetch(next + run * kPanel);
      __builtin_prefetch(by.by_image + run * by.stride + (lane + 1) % kPanel * kPanel, 1);
      const Pixel* const __restrict from = image + run * kPanel;
      float* const __restrict to = by.by_image + run * by.stride + lane * kPanel;
      const int64_t count = smaller(kPanel, by.columns - run * kPanel);
      if (count == kPanel) {
#pragma omp simd
        for (int64_t i = 0; i < kPanel; ++i) to[i] = static_cast<float>(from[i]) * factor;
      } else {
        for (int64_t i = 0; i < kPanel; ++i) to[i] = i < count ? static_cast<float>(from[i]) * factor : 0.0F;
      }
      if (sizeof(Pixel) > 1) {
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < kPanel; ++i) largest = magnitude(to[i]) > largest ? magnitude(to[i]) : largest;
      }
    }
  }
  return largest;
}

uint32_t gather(const Gather& by) {
  const uint32_t largest = by.type == Type::uint8 ? gather_of<uint8_t>(by, 1.0F / 255) : gather_of<float>(by, 1.0F);
  for (int64_t run = by.begin; run < by.end; ++run) {
    const float* const from = by.by_image + run * by.stride;
    const int64_t count = smaller(kPanel, by.columns - run * kPanel);
    if (count == kPanel) {
      transpose_square(from, by.by_feature + run * kSquare);
    } else {
      alignas(64) float whole[kSquare];
      transpose_square(from, whole);
      copy(whole, count * kPanel, by.by_feature + run * kSquare);
    }
  }
  return largest;
}

// Draws the normals of one block of columns, four of each of the noise's 16 rows.
VAE_FAST_INLINE void draw_normals(const Draw& draw, const uint32_t* rows, int64_t block, float (*eps)[kPanel]) {
#pragma omp simd
  for (int64_t i = 0; i < kPanel; ++i) {
    const Words words = philox4x32({static_cast<uint32_t>(block), rows[i], draw.step, draw.stream}, draw.key);
    const auto [eps0, eps1] = normals(words.word[0], words.word[1]);
    const auto [eps2, eps3] = normals(words.word[2], words.word[3]);
    eps[0][i] = eps0;
    eps[1][i] = eps1;
    eps[2][i] = eps2;
    eps[3][i] = eps3;
  }
}

uint32_t posterior(const PosteriorPanel& by) {
  uint32_t largest = 0;
  const int64_t latent = by.draw->columns;
  for (int64_t block = 0; block < by.draw->blocks; ++block) {
    alignas(64) float eps[kWords][kPanel];
    draw_normals(*by.draw, by.rows, block, eps);
    for (int64_t word = 0; word < smaller(kWords, latent - block * kWords); ++word) {
      const int64_t j = block * kWords + word;
      const float* const __restrict mu = by.stats + j * kPanel;
      const float* const __restrict logvar = mu + latent * kPanel;
      float* const __restrict noise = by.noise + j * kPanel;
      float* const __restrict z = by.z + j * kPanel;
      alignas(64) float kl[kPanel];
#pragma omp simd
      for (int64_t i = 0; i < kPanel; ++i) {
        noise[i] = exp_f(0.5F * logvar[i]) * eps[word][i];
        z[i] = mu[i] + noise[i];
        kl[i] = -0.5F * (1.0F + logvar[i] - mu[i] * mu[i] - exp_f(logvar[i]));
      }
      by.kl[j] = sum_of_lanes(kl, by.lanes);
#pragma omp simd reduction(max : largest)
      for (int64_t i = 0; i < kPanel; ++i) largest = magnitude(z[i]) > largest ? magnitude(z[i]) : largest;
    }
  }
  return largest;
}

uint32_t posterior_gradient(const PosteriorGradient& by) {
  uint32_t largest = 0;
  for (int64_t j = 0; j < by.latent; ++j) {
    const float* const __restrict mu = by.stats + j * kPanel;
    const float* const __restrict logvar = mu + by.latent * kPanel;
    const float* const __restrict noise = by.noise + j * kPanel;
    const float* const __restrict by_z = by.by_z + j * kPanel;
    float* const __restrict by_mu = by.by_stats + j * kPanel;
    float* const __restrict by_logvar = by_mu + by.latent * kPanel;
    const float by_kl = by.by_kl[j];
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      by_mu[i] = by_z[i] + by_kl * mu[i];
      by_logvar[i] = 0.5F * (by_z[i] * noise[i]) + 0.5F * by_kl * (exp_f(logvar[i]) - 1.0F);
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
