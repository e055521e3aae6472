// vae_fast::random_bits on the CPU. The schema stands in kernels/operators.py, the specification in kernels/philox.py: the
// integers are identical.
#include "draw.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

namespace vae_fast {
namespace {

constexpr int64_t kGrain = 4096;  // counters that are worth a thread: about 20 us

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

at::Tensor random_bits(const at::Tensor& seed, const at::Tensor& step, int64_t rows, int64_t columns,
                       int64_t row_offset, int64_t stream) {
  const Draw draw = make_draw("random_bits", seed, step, columns, row_offset, stream);
  check_range(rows, std::numeric_limits<int64_t>::max(), "random_bits", "rows");

  const auto bits = at::empty({rows, columns}, seed.options());
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
