// Products of packed bfloat16 on AMX: 2 x 2 tiles of the result stay in registers for the whole sum. `Unit` holds eight
// tile registers: the CPU's (amx.cpp), or arrays that emulate them with floats (amx_emulated.h).
#pragma once

#include "mlp_loops.h"
#include "tiles.h"

namespace vae_fast {
namespace {

constexpr int kFirstA = 4, kFirstB = 6;  // registers; 0 to 3 hold c, by rows

template <int Rows, int Panels, typename Unit>
VAE_FAST_INLINE void start_tiles(Unit& unit, const TileProduct& by, int64_t row) {
  if (by.bias == nullptr) {
    unit.template zero<0>();
    if constexpr (Panels > 1) unit.template zero<1>();
    if constexpr (Rows > 1) unit.template zero<2>();
    if constexpr (Rows > 1 && Panels > 1) unit.template zero<3>();
    return;
  }
  alignas(64) float bias[2 * kTileRows][kPanel];
  for (int64_t i = 0; i < Rows * kTileRows; ++i) {
    const float value = row + i < by.rows ? by.bias[row + i] : 0.0F;
    for (int64_t j = 0; j < kPanel; ++j) bias[i][j] = value;
  }
  unit.template load<0>(bias, sizeof bias[0]);
  if constexpr (Panels > 1) unit.template load<1>(bias, sizeof bias[0]);
  if constexpr (Rows > 1) unit.template load<2>(bias + kTileRows, sizeof bias[0]);
  if constexpr (Rows > 1 && Panels > 1) unit.template load<3>(bias + kTileRows, sizeof bias[0]);
}

template <int Rows, int Panels, typename Unit>
VAE_FAST_INLINE void multiply_tiles_of(Unit& unit, const TileProduct& by, int64_t row, int64_t panel) {
  constexpr int64_t bytes = kTilePairs * sizeof(PackedPair);
  const PackedPair* const a = by.a + row / kTileRows * by.a_rows;
  const PackedPair* const b = by.b + panel * by.b_panel;
  const int64_t next_a = by.a_rows, next_b = by.b_panel, depth = by.depth;
  start_tiles<Rows, Panels>(unit, by, row);
  for (int64_t tile = 0; tile < depth; ++tile) {
    unit.template load<kFirstA>(a + tile * kTile, bytes);
    unit.template load<kFirstB>(b + tile * kTile, bytes);
    unit.template multiply<0, kFirstA, kFirstB>();
    if constexpr (Rows > 1) {
      unit.template load<kFirstA + 1>(a + next_a + tile * kTile, bytes);
      unit.template multiply<2, kFirstA + 1, kFirstB>();
    }
    if constexpr (Panels > 1) {
      unit.template load<kFirstB + 1>(b + next_b + tile * kTile, bytes);
      unit.template multiply<1, kFirstA, kFirstB + 1>();
    }
    if constexpr (Rows > 1 && Panels > 1) unit.template multiply<3, kFirstA + 1, kFirstB + 1>();
  }
  const int64_t c_bytes = by.c_row * static_cast<int64_t>(sizeof(float));
  float* const c = by.c + row * by.c_row + panel * by.c_panel;
  float* const below = c + kTileRows * by.c_row;
  unit.template store<0>(c, c_bytes);
  if constexpr (Panels > 1) unit.template store<1>(c + by.c_panel, c_bytes);
  if constexpr (Rows > 1) unit.template store<2>(below, c_bytes);
  if constexpr (Rows > 1 && Panels > 1) unit.template store<3>(below + by.c_panel, c_bytes);
}

template <typename Unit>
void multiply_by_tiles(Unit& unit, const TileProduct& by) {
  for (int64_t row = 0; row < by.rows; row += 2 * kTileRows) {
    const bool two_rows = row + kTileRows < by.rows;
    for (int64_t panel = 0; panel < by.panels; panel += 2) {
      const bool two_panels = panel + 1 < by.panels;
      if (two_rows && two_panels) multiply_tiles_of<2, 2>(unit, by, row, panel);
      if (two_rows && !two_panels) multiply_tiles_of<2, 1>(unit, by, row, panel);
      if (!two_rows && two_panels) multiply_tiles_of<1, 2>(unit, by, row, panel);
      if (!two_rows && !two_panels) multiply_tiles_of<1, 1>(unit, by, row, panel);
    }
  }
}

}  // namespace
}  // namespace vae_fast
