// The loops for products of packed bfloat16, and the choice of those that this CPU can run.
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
  void (*begin)();  // both may be null: called on every thread before its first and after its last product of a step
  void (*end)();
};

// The fastest first; those that are only specifications of others come last.
const std::vector<Bf16Loop>& bf16_loops();

// Raises ValueError, naming `op`, for a loop that does not exist here.
const Bf16Loop& bf16_loop(const char* op, std::string_view name);

}  // namespace vae_fast
