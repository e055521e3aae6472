// Adam over contiguous values (Kingma and Ba, Adam, 2014).
#pragma once

#include "loops.h"

#include <cmath>

namespace vae_fast {
namespace {

void adam(const AdamStep& by, const Chunk& chunk) {
  const auto [decay, scale, mean_rate, square_rate, step_size, correction, epsilon] = by;
  float* const __restrict parameter = chunk.parameter;
  float* const __restrict mean = chunk.mean;
  float* const __restrict square = chunk.square;
  const float* const __restrict gradient = chunk.gradient;
#pragma omp simd
  for (int64_t i = 0; i < chunk.count; ++i) {
    const float g = scale * gradient[i];
    const float m = mean[i] + mean_rate * (g - mean[i]);
    const float v = square[i] + square_rate * (g * g - square[i]);
    mean[i] = m;
    square[i] = v;
    parameter[i] = decay * parameter[i] - step_size * m / (correction * std::sqrt(v) + epsilon);
  }
}

}  // namespace
}  // namespace vae_fast
