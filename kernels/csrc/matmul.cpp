// vae_fast::product on the CPU: oneDNN's linear, which PyTorch includes. kernels/matmul.py decides when to use it.
#include "simd/transpose.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace vae_fast {
namespace {

using Scalars = c10::List<std::optional<at::Scalar>>;
using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                          Scalars, std::optional<std::string_view>);

constexpr int64_t kSide = 4;
constexpr int64_t kProductGrain = 32768;  // values that are worth a thread: about 10 us

bool lies_by_rows(const at::Tensor& a) { return a.stride(1) == 1 && a.stride(0) >= a.size(1); }
bool lies_by_columns(const at::Tensor& a) { return a.stride(0) == 1 && a.stride(1) >= a.size(0); }

// Converts a matrix from column-major to row-major order. oneDNN's linear needs its first argument in rows, and would
// otherwise make PyTorch copy it, which takes five times as long.
at::Tensor by_rows(const at::Tensor& a) {
  const int64_t rows = a.size(0), columns = a.size(1), stride = a.stride(1);
  const int64_t tiled_columns = columns / kSide * kSide;
  auto result = at::empty(a.sizes(), a.options());
  const auto* const from = a.const_data_ptr<float>();
  auto* const to = result.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, kProductGrain / (kSide * columns));
  at::parallel_for(0, rows / kSide, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kSide; row < end * kSide; row += kSide) {
      for (int64_t column = 0; column < tiled_columns; column += kSide)
        transpose_tile(from + column * stride + row, stride, to + row * columns + column, columns);
    }
  });
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = row < rows / kSide * kSide ? tiled_columns : 0; column < columns; ++column)
      to[row * columns + column] = from[column * stride + row];
  return result;
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias) {
  static const auto linear =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
  check_float(a, "product", "a");
  check_float(b, "product", "b");
  TORCH_CHECK_VALUE(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(1),
                    "product: a and b: expected [B, N] and [M, N], got ", a.sizes(), " and ", b.sizes());
  return linear.call(lies_by_columns(a) ? by_rows(a) : a, lies_by_rows(b) || lies_by_columns(b) ? b : b.contiguous(),
                     bias, "none", Scalars(), "");
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) { m.impl("product", product); }

}  // namespace vae_fast
