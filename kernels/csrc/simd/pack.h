// Packing of floats into the tiles of bfloat16 products: activations and gradients by panels of images, weights by
// squares.
#pragma once

#include "mlp_loops.h"
#include "transpose.h"
#include "values.h"
#include "vectors.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace vae_fast {
namespace {

#if defined(__AVX512BF16__)
using Halves = uint16_t __attribute__((vector_size(32), aligned(4), may_alias));
using Pairs = PackedPair __attribute__((vector_size(64), aligned(4), may_alias));
#endif

// Packs neighbouring values into pairs: `pairs` is a multiple of 8.
VAE_FAST_INLINE void pack_along(const float* __restrict from, int64_t pairs, PackedPair* __restrict to) {
#if defined(__AVX512BF16__)
  for (int64_t i = 0; i < pairs; i += 8)
    *reinterpret_cast<Halves*>(to + i) = std::bit_cast<Halves>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from + 2 * i)));
#else
#pragma omp simd
  for (int64_t i = 0; i < pairs; ++i) to[i] = pair_of(from[2 * i], from[2 * i + 1]);
#endif
}

// Packs the values of two rows into pairs: `count` is a multiple of 16.
VAE_FAST_INLINE void pack_across(const float* __restrict first, const float* __restrict second, int64_t count,
                                 PackedPair* __restrict to) {
#if defined(__AVX512BF16__)
  for (int64_t i = 0; i < count; i += kLanes) {
    const auto rounded = [i](const float* row) {
      return std::bit_cast<Halves>(_mm512_cvtneps_pbh(_mm512_loadu_ps(row + i)));
    };
    *reinterpret_cast<Pairs*>(to + i) =
        __builtin_convertvector(rounded(first), Pairs) | __builtin_convertvector(rounded(second), Pairs) << 16;
  }
#else
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = pair_of(first[i], second[i]);
#endif
}

// Prefetches memory that is about to be written.
VAE_FAST_INLINE void fetch_rows(const PackedPair* tile, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) __builtin_prefetch(tile + row * kTilePairs, 1);
}

VAE_FAST_INLINE void clear(PackedPair* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = 0;
}

template <int64_t Rows, int64_t Columns>
VAE_FAST_INLINE void transpose_pairs(const PackedPair* from, int64_t from_stride, PackedPair* to) {
  for (int64_t row = 0; row < Rows; row += 4)
    for (int64_t column = 0; column < Columns; column += 4)
      transpose_tile(from + row * from_stride + column, from_stride, to + column * Rows + row, Rows);
}

// Packs with the features along the sum, and zeros past the last feature.
VAE_FAST_INLINE void pack_by_feature(const Packing& by) {
  alignas(64) constexpr float none[kPanel] = {};
  const int64_t last = by.end == by.features ? depth_tiles(by.features) * kTileDepth : by.end;
  for (int64_t row = by.begin; row < last; row += 2) {
    const float* const from = by.values + row * kPanel;
    pack_across(row < by.features ? from : none, row + 1 < by.features ? from + kPanel : none, kPanel,
                by.by_feature + row / 2 * kPanel);
  }
}

void pack_input(const Packing& by) {
  pack_by_feature(by);
  for (int64_t run = by.begin / kPanel; run < panels_for(by.end); ++run) {
    alignas(64) PackedPair rows[kPanel][kHalfOfPairs];
    const int64_t count = smaller(kPanel, by.features - run * kPanel);
    for (int64_t row = 0; row < count; ++row)
      pack_along(by.values + (run * kPanel + row) * kPanel, kHalfOfPairs, rows[row]);
    clear(rows[0] + count * kHalfOfPairs, (kPanel - count) * kHalfOfPairs);
    PackedPair* const to = by.by_image + run * by.stride;
    fetch_rows(to + by.stride, kHalfOfPairs);
    transpose_pairs<kPanel, kHalfOfPairs>(rows[0], kHalfOfPairs, to);
    if (by.is_last) clear(to + kHalfOfPairs * kPanel, kHalfOfPairs * kPanel);
  }
}

// Adds halves to each other until one value is left: an order that does not depend on the width of vectors.
VAE_FAST_INLINE float sum_of_halves(const float* __restrict values) {
  alignas(64) float sums[kPanel / 2];
#pragma omp simd
  for (int64_t i = 0; i < kPanel / 2; ++i) sums[i] = values[i] + values[i + kPanel / 2];
#pragma GCC unroll 4
  for (int64_t half = kPanel / 4; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

void pack_gradient(const Packing& by, float* sums) {
  pack_by_feature(by);
  for (int64_t run = by.begin / kTileRows; run < panels_for(by.end); ++run) {
    const int64_t first = run * kTileRows, count = smaller(kTileRows, by.end - first);
    PackedPair* const to = by.by_image + run * by.stride;
    fetch_rows(to + by.stride, kTileRows);
    for (int64_t row = 0; row < count; ++row) {
      const float* const from = by.values + (first + row) * kPanel;
      pack_along(from, kHalfOfPairs, to + row * kTilePairs);
      sums[first + row] = sum_of_halves(from);
    }
    if (by.is_last)
      for (int64_t row = 0; row < count; ++row) clear(to + row * kTilePairs + kHalfOfPairs, kHalfOfPairs);
  }
}

// Packs a square of 32 x 32 weights into two tiles of each copy.
VAE_FAST_INLINE void pack_square(const float* from, int64_t stride, PackedPair* forward, int64_t forward_rows,
                                 PackedPair* backward, int64_t backward_rows) {
  alignas(64) PackedPair across[kTilePairs][kTileDepth];
  for (int64_t row = 0; row < kTileDepth; ++row) {
    PackedPair* const to = forward + row / kTileRows * forward_rows + row % kTileRows * kTilePairs;
    pack_along(from + row * stride, kTilePairs, to);
  }
  for (int64_t pair = 0; pair < kTilePairs; ++pair)
    pack_across(from + 2 * pair * stride, from + (2 * pair + 1) * stride, kTileDepth, across[pair]);
  transpose_pairs<kTilePairs, kTileRows>(across[0], kTileDepth, backward);
  transpose_pairs<kTilePairs, kTileRows>(across[0] + kTileRows, kTileDepth, backward + backward_rows);
}

// Packs columns [column, column + count) of the rows; the first row and the first column are multiples of 32.
void pack_columns(const float* weight, const WeightRows& by, const WeightTiles& to, int64_t column,
                  int64_t count) {
  const int64_t forward_rows = depth_tiles(by.in) * kTile, backward_rows = depth_tiles(by.out) * kTile;
  for (int64_t row = by.begin; row < by.end; row += kTileDepth) {
    for (int64_t at = column; at < column + count; at += kTileDepth) {
      const float* from = weight + row * by.in + at;
      int64_t stride = by.in;
      alignas(64) float whole[kTileDepth][kTileDepth];
      const int64_t rows = smaller(kTileDepth, by.out - row), columns = smaller(kTileDepth, by.in - at);
      if (rows < kTileDepth || columns < kTileDepth) {
        for (int64_t i = 0; i < kTileDepth; ++i)
          for (int64_t j = 0; j < kTileDepth; ++j) whole[i][j] = i < rows && j < columns ? from[i * stride + j] : 0.0F;
        from = whole[0];
        stride = kTileDepth;
      }
      pack_square(from, stride, to.forward + row / kTileRows * forward_rows + at / kTileDepth * kTile, forward_rows,
                  to.backward + at / kTileRows * backward_rows + row / kTileDepth * kTile, backward_rows);
    }
  }
}

void pack_weight(const float* weight, const WeightRows& by, const WeightTiles& to) {
  pack_columns(weight, by, to, 0, by.in);
}

}  // namespace
}  // namespace vae_fast
