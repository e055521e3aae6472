// vae_fast::random_bits on the CPU. The schema stands in kernels/ops.py, the specification in kernels/philox.py: the
// integers are identical.
#include "philox.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

namespace vae_fast {
namespace {

constexpr int64_t kGrain = 4096;  // counters that are worth a thread: about 20 us
constexpr int64_t kMaxWord = std::numeric_limits<uint32_t>::max();

// What all counters of a call share. A row takes `blocks` of them, the last of which may be cut short.
struct Draw {
  Key key;
  uint32_t row_offset;
  uint32_t step;
  uint32_t stream;
  int64_t columns;
  int64_t blocks;

  VAE_FAST_INLINE Words words(int64_t row, int64_t block) const {
    return philox4x32({static_cast<uint32_t>(block), row_offset + static_cast<uint32_t>(row), step, stream}, key);
  }
};

// Draws the counters [begin, end), numbered row by row, so that threads share the work evenly whether rows are many and
// short or few and long.
VAE_FAST_CLONES void draw_bits(const Draw& draw, int64_t begin, int64_t end, int64_t* out) {
  while (begin < end) {
    const int64_t row = begin / draw.blocks;
    const int64_t first = begin % draw.blocks;
    const int64_t last = std::min(draw.blocks, first + end - begin);
    const int64_t last_whole = std::min(last, draw.columns / kWords);
    int64_t* const row_out = out + row * draw.columns;
    for (int64_t block = first; block < last_whole; ++block) {
      const Words words = draw.words(row, block);
      for (int64_t word = 0; word < kWords; ++word) row_out[kWords * block + word] = words[word];
    }
    if (last_whole < last) {
      const Words words = draw.words(row, last_whole);
      std::copy_n(words.begin(), draw.columns - kWords * last_whole, row_out + kWords * last_whole);
    }
    begin += last - first;
  }
}

int64_t scalar(const at::Tensor& value, const char* name) {
  TORCH_CHECK_VALUE(value.dim() == 0 && value.scalar_type() == at::kLong, "random_bits: ", name,
                    ": expected a 0-d int64 tensor, got ", value.scalar_type(), " ", value.sizes());
  return *value.const_data_ptr<int64_t>();
}

void check_range(int64_t value, int64_t high, const char* name) {
  TORCH_CHECK_VALUE(0 <= value && value <= high, "random_bits: ", name, ": expected a value in [0, ", high, "], got ",
                    value);
}

at::Tensor random_bits(const at::Tensor& seed, const at::Tensor& step, int64_t rows, int64_t columns,
                       int64_t row_offset, int64_t stream) {
  const auto key = static_cast<uint64_t>(scalar(seed, "seed"));
  check_range(rows, std::numeric_limits<int64_t>::max(), "rows");
  check_range(columns, kWords * (kMaxWord + 1), "columns");
  check_range(stream, kMaxWord, "stream");

  const auto bits = at::empty({rows, columns}, seed.options());
  const Draw draw{
      .key = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
      .row_offset = static_cast<uint32_t>(row_offset),
      .step = static_cast<uint32_t>(scalar(step, "step")),
      .stream = static_cast<uint32_t>(stream),
      .columns = columns,
      .blocks = (columns + kWords - 1) / kWords,
  };
  auto* const out = bits.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows * draw.blocks, kGrain,
                   [&](int64_t begin, int64_t end) { draw_bits(draw, begin, end, out); });
  return bits;
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("random_bits", random_bits);
}

}  // namespace vae_fast
