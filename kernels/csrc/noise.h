// The arguments of a call that draws from Philox, checked.
#pragma once

#include "simd/philox.h"

#include <ATen/core/Tensor.h>

#include <limits>

namespace vae_fast {

inline int64_t counter_scalar(const at::Tensor& value, const char* op, const char* name) {
  TORCH_CHECK_VALUE(value.dim() == 0 && value.scalar_type() == at::kLong, op, ": ", name,
                    ": expected a 0-d int64 tensor, got ", value.scalar_type(), " ", value.sizes());
  return *value.const_data_ptr<int64_t>();
}

inline void check_range(int64_t value, int64_t high, const char* op, const char* name) {
  TORCH_CHECK_VALUE(0 <= value && value <= high, op, ": ", name, ": expected a value in [0, ", high, "], got ", value);
}

inline Draw make_draw(const char* op, const at::Tensor& seed, const at::Tensor& step, int64_t columns,
                      int64_t row_offset, int64_t stream) {
  constexpr int64_t max_word = std::numeric_limits<uint32_t>::max();
  const auto key = static_cast<uint64_t>(counter_scalar(seed, op, "seed"));
  check_range(columns, kWords * (max_word + 1), op, "columns");
  check_range(stream, max_word, op, "stream");
  return {
      .key = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
      .row_offset = static_cast<uint32_t>(row_offset),
      .step = static_cast<uint32_t>(counter_scalar(step, op, "step")),
      .stream = static_cast<uint32_t>(stream),
      .columns = columns,
      .blocks = (columns + kWords - 1) / kWords,
  };
}

}  // namespace vae_fast
