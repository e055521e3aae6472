// vae_fast::mixture_joint on the CPU. The schema is in kernels/registration.py, the specification in
// kernels/reference.py.
#include "rows.h"
#include "simd/mlp_loops.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

namespace vae_fast {
namespace {

constexpr int64_t kTerms = 1 << 17;  // of the sums over the latent dimensions that are worth a thread: about 10 us
constexpr int64_t kAligned = 16;     // floats

at::Tensor as_floats(const at::Tensor& tensor, const char* name, int64_t dimensions) {
  TORCH_CHECK_VALUE(tensor.dim() == dimensions, "mixture_joint: ", name, ": expected ", dimensions,
                    " dimensions, got ", tensor.sizes());
  return tensor.to(at::kFloat).contiguous();
}

at::Tensor mixture_joint(const at::Tensor& z, const at::Tensor& stats, const at::Tensor& log_weights) {
  const auto at_z = as_floats(z, "z", 2), of = as_floats(stats, "stats", 2);
  const auto weights = as_floats(log_weights, "log_weights", 1);
  const int64_t rows = z.size(0), latent = z.size(1), count = stats.size(0);
  TORCH_CHECK_VALUE(stats.size(1) == 2 * latent && log_weights.size(0) == count,
                    "mixture_joint: z, stats, log_weights: expected [B, Z], [N, 2 Z] and [N], got ", z.sizes(), ", ",
                    stats.sizes(), " and ", log_weights.sizes());
  const auto joint = at::empty({rows, count}, at_z.options());
  const int64_t panels = (count + kPanel - 1) / kPanel, stride = (2 * latent + 1) * kPanel;
  const auto memory = at::empty({panels * stride + kAligned}, at_z.options());
  auto* const start = memory.mutable_data_ptr<float>();
  const auto past = reinterpret_cast<std::uintptr_t>(start) / sizeof(float) % kAligned;
  float* const laid_out = start + (kAligned - past) % kAligned;
  const Normals normals{of.const_data_ptr<float>(), weights.const_data_ptr<float>(), count, latent};
  const MlpLoops& loops = *vae_fast::loops().mlp;
  const int64_t grain = std::max<int64_t>(1, kTerms / std::max<int64_t>(1, stride));
  at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      loops.lay_out_normals(normals, panel * kPanel, laid_out + panel * stride);
  });
  const MixtureRows by{at_z.const_data_ptr<float>(), laid_out, stride, count, latent, joint.mutable_data_ptr<float>()};
  const int64_t row_grain = std::max<int64_t>(8, kTerms / std::max<int64_t>(1, panels * stride));
  at::parallel_for(0, rows, row_grain, [&](int64_t begin, int64_t end) { loops.mixture_joint(by, begin, end); });
  return joint;
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("mixture_joint", mixture_joint);
}

}  // namespace vae_fast
