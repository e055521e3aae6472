// A layer's gradient in bfloat16: the product, its storage or use by Adam, and the copies of the updated weight.
#pragma once

#include "layer_update.h"
#include "pack.h"

namespace vae_fast {
namespace {

// A sum runs over the panels in their order, whatever thread it is on.
void bias_gradient(const TileGradient& by, const LayerUpdate& update) {
  for (int64_t row = update.begin; row < update.end; ++row) {
    float sum = 0;
    for (int64_t panel = 0; panel < by.panels; ++panel) sum += by.sums[panel * update.out + row];
    take_bias(update, row, sum);
  }
}

constexpr int64_t kMostRows = 96;  // the rows of a block if the sum is long: every block reads the whole input
static_assert(kMostRows % kTileDepth == 0);

void tile_gradient(const TileGradient& by, const LayerUpdate& update) {
  constexpr int64_t width = kGroup * kPanel;
  alignas(64) float block[kMostRows * width];
  const int64_t rows = by.depth > kPairRun ? kMostRows : kTileDepth;
  for (int64_t begin = update.begin; begin < update.end; begin += rows) {
    const int64_t end = smaller(begin + rows, update.end);
    for (int64_t column = 0; column < update.in; column += width) {
      const int64_t count = smaller(width, update.in - column);
      fetch(update, begin, end - begin, column, count);
      by.multiply({.a = by.by_output + begin / kTileRows * by.stride,
                   .a_rows = by.stride,
                   .b = by.input + column / kPanel * by.stride,
                   .b_panel = by.stride,
                   .c = block,
                   .c_row = width,
                   .c_panel = kPanel,
                   .bias = nullptr,
                   .rows = end - begin,
                   .depth = by.depth,
                   .panels = panels_for(count)});
      for (int64_t row = begin; row < end; ++row)
        take(update, block + (row - begin) * width, row * update.in + column, count);
      if (update.adam != nullptr)
        pack_columns(update.weight, {update.out, update.in, begin, end}, by.copies, column, count);
    }
  }
  bias_gradient(by, update);
}

}  // namespace
}  // namespace vae_fast
