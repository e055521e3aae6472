// Products on AMX, compiled only for CPUs that have it.
#include "amx_product.h"

namespace vae_fast {
namespace {

// Written in assembly, because GCC's intrinsics take the register's number as a token, which a template cannot provide,
// and do not declare that they read memory.
struct TileRegisters {
  template <int Register>
  VAE_FAST_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(Register));
  }

  template <int Register>
  VAE_FAST_INLINE void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Register), "r"(from), "r"(stride) : "memory");
  }

  template <int Register>
  VAE_FAST_INLINE void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(Register), "r"(to), "r"(stride) : "memory");
  }

  template <int C, int A, int B>
  VAE_FAST_INLINE void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

// Intel SDM, LDTILECFG, palette 1.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace

void multiply_amx(const TileProduct& by) {
  TileRegisters unit;
  multiply_by_tiles(unit, by);
}

void begin_amx() {
  const Configuration configuration;
  asm volatile("ldtilecfg %0" ::"m"(configuration));
}

void end_amx() { asm volatile("tilerelease"); }

}  // namespace vae_fast
