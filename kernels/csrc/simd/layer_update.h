// The storage of a layer's gradient or its use by Adam, a few rows at a time while they are in the L1 cache.
#pragma once

#include "adam.h"
#include "mlp_loops.h"
#include "values.h"

namespace vae_fast {
namespace {

// Stores or applies the gradient of `count` values of the weight from `at` on.
void take(const LayerUpdate& by, const float* gradient, int64_t at, int64_t count) {
  if (by.adam == nullptr) {
    copy(gradient, count, by.weight + at);
    return;
  }
  adam(*by.adam, {by.weight + at, by.weight_mean + at, by.weight_square + at, gradient, count});
}

void take_bias(const LayerUpdate& by, int64_t row, float gradient) {
  if (by.adam == nullptr) {
    by.bias[row] = gradient;
  } else {
    adam(*by.adam, {by.bias + row, by.bias_mean + row, by.bias_square + row, &gradient, 1});
  }
}

// Prefetches what Adam will read into the L2 cache.
VAE_FAST_INLINE void fetch(const LayerUpdate& by, int64_t begin, int64_t rows, int64_t column, int64_t count) {
  if (by.adam == nullptr) return;
  constexpr int64_t line = 16;
  for (int64_t row = begin; row < begin + rows; ++row) {
    for (int64_t at = row * by.in + column; at < row * by.in + column + count; at += line) {
      __builtin_prefetch(by.weight + at, 0, 2);
      __builtin_prefetch(by.weight_mean + at, 0, 2);
      __builtin_prefetch(by.weight_square + at, 0, 2);
    }
  }
}

}  // namespace
}  // namespace vae_fast
