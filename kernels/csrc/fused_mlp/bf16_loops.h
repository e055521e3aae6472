// The loops for products of packed bfloat16, and which of them this CPU has.
#pragma once

#include "../simd/mlp_loops.h"

#include <string>
#include <string_view>
#include <vector>

namespace vae_fast {

struct Bf16Loop {
  const char* name;
  Multiply* multiply;
  const Bf16Stages* stages;
  void (*begin)();  // on every thread before its first product of a step, or null; and after its last
  void (*end)();
};

// The fastest first; those that only say what another computes come last.
const std::vector<Bf16Loop>& bf16_loops();

// Raises ValueError, in the name of `op`, for one that is not there.
const Bf16Loop& bf16_loop(const char* op, std::string_view name);

}  // namespace vae_fast
