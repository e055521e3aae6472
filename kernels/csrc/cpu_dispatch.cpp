// The choice of this machine's table among those that simd/loops.cpp was compiled into.
#include "simd/loops.h"

#include <ATen/Version.h>
#include <torch/library.h>

#include <string>

namespace vae_fast {

extern const Loops portable_loops;
#ifdef VAE_FAST_X86
extern const Loops avx2_loops;
extern const Loops avx512_loops;
#endif

namespace {

struct Choice {
  const Loops* table;
  const char* name;
};

Choice choose() {
#ifdef VAE_FAST_X86
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return {&avx512_loops, "AVX-512"};
  if (capability == "AVX2") return {&avx2_loops, "AVX2"};
#endif
  return {&portable_loops, "portable"};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

const Loops& loops() { return *choice().table; }

TORCH_LIBRARY_IMPL(vae_fast, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", [] { return std::string(choice().name); });
}

}  // namespace vae_fast
