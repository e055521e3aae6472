// A layer's gradient in float32: the product, and its storage or use by Adam.
#pragma once

#include "layer_update.h"
#include "product.h"

namespace vae_fast {
namespace {

constexpr int64_t kShort = 32;    // the number of images up to which only Adam's memory traffic matters
constexpr int64_t kPiece = 3072;  // gradients of a weight that stay in the L1 cache until Adam has used them: 12 kB

// The pieces in which a weight's gradient is computed: `rows` rows at the same columns, `step` of them at a time.
struct Pieces {
  int64_t rows, step, panels;
};

// A long sum is computed in runs of kDepth over a block of rows. After a shorter one Adam runs before its gradients
// leave the L1 cache. The shortest need so little computation that only Adam's memory traffic matters: it gets long
// pieces of few rows.
Pieces pieces_of(int64_t images) {
  constexpr int64_t tile = rows_of_tile(kWidest), rows = kPiece / (kGroup * kPanel);
  if (images > kDepth) return {rows, rows, kGroup};
  if (images > kShort) return {rows, 2 * tile, kGroup};
  return {tile, tile, kPiece / kPanel / tile};
}

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
  alignas(64) float block[kPiece];
  const int64_t in_panels = panels_for(update.in), in_stride = image_stride(by.images);
  const auto [most_rows, step, most_panels] = pieces_of(by.images);
  const int64_t width = most_panels * kPanel;
  for (int64_t first = update.begin; first < update.end; first += most_rows) {
    const int64_t last = smaller(first + most_rows, update.end);
    for (int64_t panel = 0; panel < in_panels; panel += most_panels) {
      const int64_t panels = smaller(most_panels, in_panels - panel);
      const int64_t count = smaller(panels * kPanel, update.in - panel * kPanel);
      for (int64_t begin = first; begin < last; begin += step) {
        const int64_t rows = smaller(step, last - begin);
        if (by.images > kShort)  // else a piece ends before its memory arrives; long rows are prefetched anyway
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
