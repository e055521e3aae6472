// A layer's gradient in float32: the product, and what becomes of it.
#pragma once

#include "layer_update.h"
#include "product.h"

namespace vae_fast {
namespace {

constexpr int64_t kBlockRows = 48;  // of a weight, whose gradients lie in the first cache until Adam has taken them

void bias_gradient(const LayerGradient& by, const LayerUpdate& update) {
  for (int64_t row = update.begin; row < update.end; ++row) {
    alignas(64) float sums[kPanel] = {};
    for (int64_t panel = 0; panel < panels_for(by.images); ++panel) {
      const float* const __restrict from = by.by_output + panel * feature_stride(update.out) + row * kPanel;
#pragma omp simd
      for (int64_t i = 0; i < kPanel; ++i) sums[i] += from[i];
    }
    take_bias(update, row, static_cast<float>(sum_of_lanes(sums, kPanel)));
  }
}

void layer_gradient(const LayerGradient& by, const LayerUpdate& update) {
  constexpr int64_t width = kGroup * kPanel;
  alignas(64) float block[kBlockRows * width];
  const int64_t in_panels = panels_for(update.in), in_stride = image_stride(by.images);
  // A short sum is followed by Adam before its gradients leave the first cache; a long one passes in runs of kDepth
  // over a block of rows.
  const int64_t step = by.images > kDepth ? kBlockRows : 2 * rows_of_tile(kWidest);
  for (int64_t first = update.begin; first < update.end; first += kBlockRows) {
    const int64_t last = smaller(first + kBlockRows, update.end);
    for (int64_t panel = 0; panel < in_panels; panel += kGroup) {
      const int64_t panels = smaller(kGroup, in_panels - panel);
      const int64_t count = smaller(panels * kPanel, update.in - panel * kPanel);
      for (int64_t begin = first; begin < last; begin += step) {
        const int64_t rows = smaller(step, last - begin);
        fetch(update, begin, rows, panel * kPanel, count);
        multiply({.a = by.by_output + begin * kPanel,
                  .a_row = kPanel,
                  .a_k = 1,
                  .a_run = feature_stride(update.out),
                  .b = by.input + panel * in_stride,
                  .b_panel = in_stride,
                  .c = block,
                  .c_row = width,
                  .c_panel = kPanel,
                  .bias = nullptr,
                  .rows = rows,
                  .depth = by.images,
                  .panels = panels});
        for (int64_t row = 0; row < rows; ++row)
          take(update, block + row * width, (begin + row) * update.in + panel * kPanel, count);
      }
    }
  }
  bias_gradient(by, update);
}

}  // namespace
}  // namespace vae_fast
