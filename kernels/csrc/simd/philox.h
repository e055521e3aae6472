// Philox4x32-10, a counter-based generator: ten rounds turn a 128-bit counter into four random 32-bit words.
// Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011, section 3.3 and table 2.
#pragma once

#include <cstdint>

// Functions called in a loop have to be inlined: a call could not be vectorised.
#define VAE_FAST_INLINE inline __attribute__((always_inline))

namespace vae_fast {

constexpr int64_t kWords = 4;  // drawn from one counter

struct Words {
  uint32_t word[kWords];
};

struct Key {
  uint32_t low;
  uint32_t high;
};

VAE_FAST_INLINE Words philox4x32(Words counter, Key key) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
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

// What all counters of a call have in common. A row uses `blocks` of them, the last one possibly in part.
struct Draw {
  Key key;
  uint32_t row_offset;
  uint32_t step;
  uint32_t stream;
  int64_t columns;
  int64_t blocks;
};

}  // namespace vae_fast
