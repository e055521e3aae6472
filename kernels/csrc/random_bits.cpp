// vae_fast::random_bits on the CPU. The schema is in kernels/registration.py, the specification in kernels/philox.py;
// the integers are identical to the specification's.
#include "noise.h"
#include "simd/loops.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

namespace vae_fast {
namespace {

constexpr int64_t kRandomGrain = 4096;  // counters that are worth a thread: about 20 us

at::Tensor random_bits(const at::Tensor& seed, const at::Tensor& step, int64_t rows, int64_t columns,
                       int64_t row_offset, int64_t stream) {
  const Draw draw = make_draw("random_bits", seed, step, columns, row_offset, stream);
  check_range(rows, std::numeric_limits<int64_t>::max(), "random_bits", "rows");

  const auto bits = at::empty({rows, columns}, seed.options());
  auto* const out = bits.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows * draw.blocks, kRandomGrain,
                   [&](int64_t begin, int64_t end) { loops().draw_bits(draw, begin, end, out); });
  return bits;
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("random_bits", random_bits);
}

}  // namespace vae_fast
