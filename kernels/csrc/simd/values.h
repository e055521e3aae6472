// Operations on contiguous values that many loops share.
#pragma once

#include "philox.h"  // VAE_FAST_INLINE

#include <cstdint>

namespace vae_fast {
namespace {

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

VAE_FAST_INLINE void copy(const float* __restrict from, int64_t count, float* __restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

VAE_FAST_INLINE double sum_of_lanes(const float* values, int64_t lanes) {
  double sum = 0;
  for (int64_t i = 0; i < lanes; ++i) sum += values[i];
  return sum;
}

}  // namespace
}  // namespace vae_fast
