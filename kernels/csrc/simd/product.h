// The matrix product of small networks: a tile of the result stays in registers for the whole sum.
#pragma once

#include "vectors.h"

namespace vae_fast {
namespace {

template <int Rows, int Panels>
void multiply_tile(const Product& by, const float* a, const float* b, float* c, const float* bias, bool from_c,
                   int64_t depth) {
  constexpr int width = Panels * kVectors;
  Vector sum[Rows][width];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) {
      const Vector* const old = vectors(c + row * by.c_row + i / kVectors * by.c_panel) + i % kVectors;
      sum[row][i] = from_c ? *old : broadcast(bias == nullptr ? 0.0F : bias[row]);
    }
  }
  for (int64_t begin = 0; begin < depth; begin += kPanel) {
    const int64_t count = depth - begin < kPanel ? depth - begin : kPanel;
    // Prefetch the next rows, which another core may have written. Narrow tiles leave no time for it; in a transposed
    // product they are in the same cache lines as these rows.
    if (Panels > 2 && by.a_k == 1) {
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) __builtin_prefetch(a + (Rows + row) * by.a_row);
    }
    const float* from = a;
    for (int64_t k = 0; k < count; ++k) {
      Vector right[width];
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) right[i] = vectors(b + i / kVectors * by.b_panel)[i % kVectors];
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) {
        const Vector left = broadcast(from[row * by.a_row]);
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) sum[row][i] += left * right[i];
      }
      from += by.a_k;
      b += kPanel;
    }
    a += by.a_run;
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i)
      vectors(c + row * by.c_row + i / kVectors * by.c_panel)[i % kVectors] = sum[row][i];
  }
}

template <int Rows, int Panels>
VAE_FAST_INLINE int64_t multiply_tiles(const Product& by, int64_t row, int64_t panel, int64_t begin, int64_t depth) {
  for (; row + Rows <= by.rows; row += Rows) {
    multiply_tile<Rows, Panels>(by, by.a + row * by.a_row + begin / kPanel * by.a_run,
                                by.b + panel * by.b_panel + begin * kPanel,
                                by.c + row * by.c_row + panel * by.c_panel, by.bias ? by.bias + row : nullptr,
                                begin > 0, depth);
  }
  return row;
}

template <int Panels>
void multiply_panels(const Product& by, int64_t panel, int64_t begin, int64_t depth) {
  constexpr int rows = rows_of_tile(Panels);
  int64_t row = multiply_tiles<rows, Panels>(by, 0, panel, begin, depth);
  if constexpr (rows > 4) row = multiply_tiles<4, Panels>(by, row, panel, begin, depth);
  if constexpr (rows > 2) row = multiply_tiles<2, Panels>(by, row, panel, begin, depth);
  multiply_tiles<1, Panels>(by, row, panel, begin, depth);
}

void multiply(const Product& by) {
  for (int64_t begin = 0; begin < by.depth; begin += kDepth) {
    const int64_t depth = by.depth - begin < kDepth ? by.depth - begin : kDepth;
    for (int64_t panel = 0; panel < by.panels; panel += kWidest) {
      const int64_t panels = by.panels - panel < kWidest ? by.panels - panel : kWidest;
      if constexpr (kWidest > 1) {
        if (panels == 4) multiply_panels<4>(by, panel, begin, depth);
        if (panels == 3) multiply_panels<3>(by, panel, begin, depth);
        if (panels == 2) multiply_panels<2>(by, panel, begin, depth);
      }
      if (panels == 1) multiply_panels<1>(by, panel, begin, depth);
    }
  }
}

}  // namespace
}  // namespace vae_fast
