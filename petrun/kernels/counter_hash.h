// The dropout mask: petrun/kernels/dropout.py states the hash; these are the same bits, a vector at a time.
#pragma once

#include "vector.h"

namespace petrun {

constexpr uint32_t kMultiplier1 = 0x21F0AAADu;
constexpr uint32_t kMultiplier2 = 0x735A2D97u;

// key holds {k0, k1, threshold} of (seed, site, p); step is the run's step; place holds {first, rows}: the tensor of `size`
// elements has `rows` equal rows, which are rows first, first + 1, ... of the whole batch.
class KeepMask {
 public:
  KeepMask(const int32_t* key, int32_t step, const int32_t* place, long size) : threshold_(key[2]) {
    first_ = mix(static_cast<uint32_t>(key[0]) + static_cast<uint32_t>(step) * 0x9E3779B9u);
    second_ = mix(first_ ^ static_cast<uint32_t>(key[1]));
    const auto before = static_cast<uint32_t>(size / place[1] * place[0]);
    for (int i = 0; i < kLanes; ++i) lanes_[i] = before + i;
  }

  // All bits set for the flat positions i, i+1, ... that are kept.
  IntVec operator()(uint32_t i) const {
    WordVec h = (lanes_ + i) ^ first_;
    h = (h ^ (h >> 16)) * kMultiplier1 + second_;
    h = (h ^ (h >> 15)) * kMultiplier2;
    h ^= h >> 15;
    IntVec number;
    std::memcpy(&number, &h, sizeof(number));
    return number >= threshold_;
  }

 private:
  static uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * kMultiplier1;
    x = (x ^ (x >> 15)) * kMultiplier2;
    return x ^ (x >> 15);
  }

  WordVec lanes_;
  uint32_t first_, second_;
  int32_t threshold_;
};

}  // namespace petrun
