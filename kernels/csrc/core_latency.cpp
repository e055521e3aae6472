// vae_fast::core_latency: the latency between the cores that compute. Its schema is in kernels/extension.py.
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <atomic>
#include <chrono>
#include <limits>

namespace vae_fast {
namespace {

constexpr int64_t kPatience = 1 << 22;  // reads of the number, some ms, until the other thread counts as not running

// Two threads of PyTorch's pool pass a number back and forth `count` times. Returns the nanoseconds of one way, or NaN
// if there is one thread only or one of the two waited too long.
double core_latency(int64_t count) {
  TORCH_CHECK_VALUE(count > 0, "core_latency: count: expected at least 1, got ", count);
  double result = std::numeric_limits<double>::quiet_NaN();
#ifdef _OPENMP
  alignas(128) std::atomic<int64_t> turn{0};  // two cache lines, because adjacent lines are prefetched together
  const auto comes_to = [&](int64_t value) {
    for (int64_t i = 0; i < kPatience; ++i) {
      const int64_t now = turn.load(std::memory_order_acquire);
      if (now == value || now < 0) return now == value;
    }
    turn.store(-1, std::memory_order_release);
    return false;
  };
#pragma omp parallel num_threads(at::get_num_threads())
  if (omp_get_num_threads() > 1 && omp_get_thread_num() < 2) {
    const bool first = omp_get_thread_num() == 0;
    const auto began = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < count && comes_to(2 * i + (first ? 0 : 1)); ++i)
      turn.store(2 * i + (first ? 1 : 2), std::memory_order_release);
    if (first && comes_to(2 * count)) {
      const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - began;
      result = took.count() / static_cast<double>(2 * count);
    }
  }
#endif
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CompositeExplicitAutograd, m) { m.impl("core_latency", core_latency); }

}  // namespace vae_fast
