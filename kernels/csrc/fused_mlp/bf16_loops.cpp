#include "bf16_loops.h"

#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#if defined(VAE_FAST_AVX512_BF16) || defined(VAE_FAST_AMX)
#include <cpuid.h>
#endif
#ifdef VAE_FAST_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace vae_fast {

#ifdef VAE_FAST_AVX512_BF16
extern const Bf16Stages stages_avx512_bf16;
void multiply_avx512_bf16(const TileProduct&);
#endif
#ifdef VAE_FAST_AMX
void multiply_amx(const TileProduct&);
void begin_amx();
void end_amx();
#endif

namespace {

#if defined(VAE_FAST_AVX512_BF16) || defined(VAE_FAST_AMX)
struct Features {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

// Intel SDM, CPUID, leaf 7.
Features features(unsigned subleaf) {
  Features result;
  __get_cpuid_count(7, subleaf, &result.a, &result.b, &result.c, &result.d);
  return result;
}
#endif

#ifdef VAE_FAST_AVX512_BF16
bool has_avx512_bf16() { return (features(1).a >> 5 & 1U) != 0; }
#endif

#ifdef VAE_FAST_AMX
// Tiles add 8 kB of state to every thread, so Linux has to be asked for permission. A kernel without support refuses.
bool has_amx() {
  constexpr unsigned bf16 = 1U << 22, tile = 1U << 24;
  constexpr long request_permission = 0x1023, tile_data = 18;  // asm/prctl.h, and the number of the state component
  return (features(0).d & (bf16 | tile)) == (bf16 | tile) &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

std::vector<Bf16Loop> loops_of_this_cpu() {
  std::vector<Bf16Loop> result;
  // ATEN_CPU_CAPABILITY forces lower instruction sets here as well.
  [[maybe_unused]] const bool may_use_avx512 = at::get_cpu_capability() == "AVX512";
  const MlpLoops& portable = *loops().mlp;
  const Bf16Stages* fastest = &portable.bf16;
#ifdef VAE_FAST_AVX512_BF16
  const bool has_bf16 = may_use_avx512 && has_avx512_bf16();
  if (has_bf16) fastest = &stages_avx512_bf16;
#endif
#ifdef VAE_FAST_AMX
  if (may_use_avx512 && has_amx()) result.push_back({"amx", multiply_amx, fastest, begin_amx, end_amx});
#endif
#ifdef VAE_FAST_AVX512_BF16
  if (has_bf16) result.push_back({"avx512_bf16", multiply_avx512_bf16, fastest, nullptr, nullptr});
#endif
  result.push_back({"portable", portable.multiply_pairs, &portable.bf16, nullptr, nullptr});
  result.push_back({"portable_as_amx", portable.multiply_in_tile_order, &portable.bf16, nullptr, nullptr});
  result.push_back({"emulated_amx", portable.multiply_emulated, &portable.bf16, nullptr, nullptr});
  return result;
}

}  // namespace

const std::vector<Bf16Loop>& bf16_loops() {
  static const std::vector<Bf16Loop> result = loops_of_this_cpu();
  return result;
}

const Bf16Loop& bf16_loop(const char* op, std::string_view name) {
  std::string names;
  for (const Bf16Loop& loop : bf16_loops()) {
    if (loop.name == name) return loop;
    names += std::string(names.empty() ? "" : ", ") + loop.name;
  }
  TORCH_CHECK_VALUE(false, op, ": products: expected float32 or one of ", names, ", which this CPU has, got '", name,
                    "'");
}

TORCH_LIBRARY_IMPL(vae_fast, CompositeExplicitAutograd, m) {
  m.impl("bf16_loops", [] {
    std::vector<std::string> names;
    for (const Bf16Loop& loop : bf16_loops()) names.emplace_back(loop.name);
    return names;
  });
}

}  // namespace vae_fast
