// Products of packed bfloat16 in the order of pairs, as `vdpbf16ps` adds them up: by that instruction if this is
// compiled for it, else by the same operations on floats; on floats also in the order of tiles, as AMX adds.
#pragma once

#include "flush.h"
#include "tiles.h"
#include "vectors.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace vae_fast {
namespace {

using Bits = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));

VAE_FAST_INLINE Bits load_pairs(const PackedPair* from) { return *reinterpret_cast<const Bits*>(from); }
VAE_FAST_INLINE Bits broadcast_pair(PackedPair pair) { return pair - Bits{}; }
VAE_FAST_INLINE Vector firsts(Bits pairs) { return std::bit_cast<Vector>(pairs << 16); }
VAE_FAST_INLINE Vector seconds(Bits pairs) { return std::bit_cast<Vector>(pairs & 0xFFFF0000U); }

VAE_FAST_INLINE Vector add_pairs(Vector sum, Bits a, Bits b) {
#if defined(__AVX512BF16__)
  return std::bit_cast<Vector>(
      _mm512_dpbf16_ps(std::bit_cast<__m512>(sum), std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b)));
#else
  sum += seconds(a) * seconds(b);
  return sum + firsts(a) * firsts(b);
#endif
}

VAE_FAST_INLINE const PackedPair* row_of(const TileProduct& by, int64_t row) {
  return by.a + row / kTileRows * by.a_rows + row % kTileRows * kTilePairs;
}

template <int Rows, int Panels>
void multiply_pair_tile(const TileProduct& by, int64_t row, int64_t panel, int64_t begin, int64_t end) {
  constexpr int width = Panels * kVectors;
  const PackedPair* a[Rows];
  [[maybe_unused]] const PackedPair* next[Rows];  // the next rows, which another core may have written
  Vector sum[Rows][width];
  float* const c = by.c + row * by.c_row + panel * by.c_panel;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    a[i] = row_of(by, row + i) + begin * kTile;
    if constexpr (Panels > 2) next[i] = row_of(by, row + Rows + i) + begin * kTile;
#pragma GCC unroll 16
    for (int j = 0; j < width; ++j) {
      const Vector* const old = vectors(c + i * by.c_row + j / kVectors * by.c_panel) + j % kVectors;
      sum[i][j] = begin > 0 ? *old : broadcast(by.bias == nullptr ? 0.0F : by.bias[row + i]);
    }
  }
  const PackedPair* b = by.b + panel * by.b_panel + begin * kTile;
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t pair = 0; pair < kTilePairs; ++pair) {
      Bits right[width];
#pragma GCC unroll 16
      for (int j = 0; j < width; ++j) right[j] = load_pairs(b + j / kVectors * by.b_panel + j % kVectors * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const Bits left = broadcast_pair(a[i][pair]);
#pragma GCC unroll 16
        for (int j = 0; j < width; ++j) sum[i][j] = add_pairs(sum[i][j], left, right[j]);
      }
      b += kPanel;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      a[i] += kTile;
      if constexpr (Panels > 2) {  // narrow tiles leave no time for it
        __builtin_prefetch(next[i]);
        next[i] += kTile;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < width; ++j) vectors(c + i * by.c_row + j / kVectors * by.c_panel)[j % kVectors] = sum[i][j];
  }
}

// The number of rows of a tile in registers. On floats a pair takes four registers in addition to the sums.
#if defined(__AVX512BF16__)
constexpr int pair_rows(int panels) { return rows_of_tile(panels); }
constexpr int kPairWidest = kWidest;
#else
constexpr int pair_rows(int) { return kLanes == 4 ? 1 : kLanes == 8 ? 4 : 6; }
constexpr int kPairWidest = kLanes == 16 ? 2 : 1;
#endif

template <int Rows, int Panels>
VAE_FAST_INLINE int64_t multiply_pair_rows(const TileProduct& by, int64_t row, int64_t panel, int64_t begin,
                                           int64_t end) {
  for (; row + Rows <= by.rows; row += Rows) multiply_pair_tile<Rows, Panels>(by, row, panel, begin, end);
  return row;
}

template <int Panels>
void multiply_pair_panels(const TileProduct& by, int64_t panel, int64_t begin, int64_t end) {
  constexpr int rows = pair_rows(Panels);
  int64_t row = multiply_pair_rows<rows, Panels>(by, 0, panel, begin, end);
  if constexpr (rows > 4) row = multiply_pair_rows<4, Panels>(by, row, panel, begin, end);
  if constexpr (rows > 2) row = multiply_pair_rows<2, Panels>(by, row, panel, begin, end);
  if constexpr (rows > 1) multiply_pair_rows<1, Panels>(by, row, panel, begin, end);
}

void multiply_pairs(const TileProduct& by) {
#if !defined(__AVX512BF16__)
  const FlushDenormals flushed;
#endif
  for (int64_t begin = 0; begin < by.depth; begin += kPairRun) {
    const int64_t end = by.depth - begin < kPairRun ? by.depth : begin + kPairRun;
    for (int64_t panel = 0; panel < by.panels; panel += kPairWidest) {
      const int64_t panels = by.panels - panel < kPairWidest ? by.panels - panel : kPairWidest;
      if constexpr (kPairWidest > 2) {
        if (panels == 4) multiply_pair_panels<4>(by, panel, begin, end);
        if (panels == 3) multiply_pair_panels<3>(by, panel, begin, end);
      }
      if constexpr (kPairWidest > 1) {
        if (panels == 2) multiply_pair_panels<2>(by, panel, begin, end);
      }
      if (panels == 1) multiply_pair_panels<1>(by, panel, begin, end);
    }
  }
}

#if !defined(__AVX512BF16__)
// The specification of AMX's sums, one row of c after the other.
void multiply_in_tile_order(const TileProduct& by) {
  const FlushDenormals flushed;
  for (int64_t panel = 0; panel < by.panels; ++panel) {
    for (int64_t row = 0; row < by.rows; ++row) {
      Vector* const c = vectors(by.c + row * by.c_row + panel * by.c_panel);
      for (int i = 0; i < kVectors; ++i) {
        Vector sum = broadcast(by.bias == nullptr ? 0.0F : by.bias[row]);
        for (int64_t tile = 0; tile < by.depth; ++tile) {
          const PackedPair* const a = row_of(by, row) + tile * kTile;
          const PackedPair* const b = by.b + panel * by.b_panel + tile * kTile + i * kLanes;
          Vector first{}, second{};
          for (int64_t pair = 0; pair < kTilePairs; ++pair) {
            const Bits left = broadcast_pair(a[pair]), right = load_pairs(b + pair * kPanel);
            first += firsts(left) * firsts(right);
            second += seconds(left) * seconds(right);
          }
          sum += first + second;
        }
        c[i] = sum;
      }
    }
  }
}
#endif

}  // namespace
}  // namespace vae_fast
