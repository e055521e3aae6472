// Philox4x32-10, a counter-based generator: ten rounds turn a 128-bit counter into four random 32-bit words.
// Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011, section 3.3 and table 2.
#pragma once

#include <array>
#include <cstdint>

// Loops that draw are compiled twice, and the loader picks one on the machine it runs on (GNU ifunc): the library needs
// no -march=native. AVX-512 takes 0.6 of the scalar code's time; AVX2 gained nothing (g++ 12, a Zen 5 core).
#if defined(__x86_64__) && defined(__gnu_linux__)
#define VAE_FAST_CLONES __attribute__((target_clones("avx512f", "default")))
#else
#define VAE_FAST_CLONES
#endif

// Code called in such a loop has to become part of it: a call could be neither vectorised nor cloned.
#define VAE_FAST_INLINE inline __attribute__((always_inline))

namespace vae_fast {

constexpr int64_t kWords = 4;  // drawn from one counter
using Words = std::array<uint32_t, kWords>;

struct Key {
  uint32_t low;
  uint32_t high;
};

VAE_FAST_INLINE Words philox4x32(Words counter, Key key) {
  auto [c0, c1, c2, c3] = counter;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key.low;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key.high;
    c3 = static_cast<uint32_t>(product0);
    key.low += 0x9E3779B9;
    key.high += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

}  // namespace vae_fast
