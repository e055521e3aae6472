// A gradient's norm, by chunks.
#pragma once

#include <cstdint>

namespace vae_fast {
namespace {

float sum_of_squares(const float* values, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i] * values[i];
  return sum;
}

}  // namespace
}  // namespace vae_fast
