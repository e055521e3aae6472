// The transposition of tiles of 32-bit values.
#pragma once

#include "philox.h"  // VAE_FAST_INLINE

namespace vae_fast {

using Four = float __attribute__((vector_size(16), aligned(4), may_alias));

// Transposes a tile of 4 x 4: four loads, eight shuffles, four stores.
template <typename Value>
VAE_FAST_INLINE void transpose_tile(const Value* from, int64_t from_stride, Value* to, int64_t to_stride) {
  static_assert(sizeof(Value) == 4);
  const auto load = [&](int64_t row) { return *reinterpret_cast<const Four*>(from + row * from_stride); };
  const auto store = [&](int64_t row, Four values) { *reinterpret_cast<Four*>(to + row * to_stride) = values; };
  const Four a = load(0), b = load(1), c = load(2), d = load(3);
  const Four ab01 = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd01 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four ab23 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd23 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store(0, __builtin_shufflevector(ab01, cd01, 0, 1, 4, 5));
  store(1, __builtin_shufflevector(ab01, cd01, 2, 3, 6, 7));
  store(2, __builtin_shufflevector(ab23, cd23, 0, 1, 4, 5));
  store(3, __builtin_shufflevector(ab23, cd23, 2, 3, 6, 7));
}

}  // namespace vae_fast
