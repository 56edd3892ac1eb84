// Vectors of floats as wide as the machine's registers, and the elementary functions the kernels need.
//
// GCC's and Clang's vector extensions: the same source becomes AVX-512, AVX2, SSE or NEON. NaN passes through
// every function, so a diverging run shows in its loss.
#pragma once

#include <cstdint>
#include <cstring>

namespace petrun {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float Vec __attribute__((vector_size(kBytes)));
typedef int32_t IntVec __attribute__((vector_size(kBytes)));
typedef uint32_t WordVec __attribute__((vector_size(kBytes)));
typedef int8_t ByteVec __attribute__((vector_size(kLanes)));
typedef float LooseVec __attribute__((vector_size(kBytes), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
// Minus zero: adding it would cost an instruction, since -0 + 0 is not -0.
inline Vec splat(float x) { return x - Vec{}; }

// The first `count` lanes, zeros behind them.
inline Vec load_part(const float* p, long count) {
  Vec v{};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}
inline void store_part(float* p, Vec v, long count) { std::memcpy(p, &v, count * sizeof(float)); }

// All bits set where the byte at p is not zero.
inline IntVec load_mask(const uint8_t* p) {
  ByteVec bytes;
  std::memcpy(&bytes, p, sizeof(bytes));
  return __builtin_convertvector(bytes, IntVec) != 0;
}

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// Folds a vector's upper half onto its lower one until one lane is left.
template <int bytes, class Fold>
inline float fold(const void* vector, const Fold& pair) {
  if constexpr (bytes == 4) {
    float x;
    std::memcpy(&x, vector, sizeof(x));
    return x;
  } else {
    typedef float Half __attribute__((vector_size(bytes / 2)));
    Half low, high;
    std::memcpy(&low, vector, sizeof(low));
    std::memcpy(&high, static_cast<const char*>(vector) + sizeof(low), sizeof(high));
    const Half both = pair(low, high);
    return fold<bytes / 2>(&both, pair);
  }
}

inline float sum(Vec v) {
  return fold<kBytes>(&v, [](auto a, auto b) { return a + b; });
}
inline float largest(Vec v) {
  return fold<kBytes>(&v, [](auto a, auto b) { return a > b ? a : b; });
}

// e^x: x = n ln 2 + r, a polynomial of degree 6 for e^r (relative error 2e-9 before rounding), 2^n through the
// exponent bits. 0 below -87.3, infinity above 88.3.
inline Vec exp(Vec x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  Vec bounded = x > 88.3f ? splat(88.3f) : x;
  bounded = bounded < -87.3f ? splat(-87.3f) : bounded;
  Vec shifted = bounded * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = splat(0.0013835785211995244f);
  p = p * r + 0.00837564468383789f;
  p = p * r + 0.04166828840970993f;
  p = p * r + 0.16666410863399506f;
  p = p * r + 0.49999991059303284f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  IntVec scaled;
  std::memcpy(&scaled, &p, sizeof(scaled));
  scaled += bits << 23;
  Vec y;
  std::memcpy(&y, &scaled, sizeof(y));
  y = x < -87.3f ? Vec{} : y;
  y = x > 88.3f ? splat(__builtin_inff()) : y;
  return x == x ? y : x;
}

// 1 - 2 / (e^2x + 1), and x - x^3/3 + 2x^5/15 - 17x^7/315 near 0, where the first form cancels.
inline Vec tanh(Vec x) {
  const Vec s = x * x;
  const Vec near = x + x * s * (-0.333333333f + s * (0.133333333f + s * -0.0539682540f));
  const Vec far = 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
  return s < 0.01f ? near : far;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// The normal distribution at x: density exp(-x^2/2) / sqrt(2 pi), and the distribution function through
// Phi(-z) = exp(-z^2/2) * t * P(t), t = 1 / (1 + 0.2316419 z), for z >= 0. The form is that of Abramowitz and Stegun,
// 26.2.17; P has degree 7, fitted for the least relative error over 0 <= z <= 13 (1e-7).
struct Normal {
  Vec density;
  Vec below;
};
inline Normal normal(Vec x) {
  const Vec z = x < 0.0f ? -x : x;
  const Vec bell = exp(-0.5f * z * z);
  const Vec t = 1.0f / (1.0f + 0.2316418882663604f * z);
  Vec p = splat(-0.07103928923606873f);
  p = p * t + 0.25033703446388245f;
  p = p * t - 0.20641376078128815f;
  p = p * t + 0.2298436015844345f;
  p = p * t + 0.01097957231104374f;
  p = p * t + 0.10348524898290634f;
  p = p * t + 0.09027499705553055f;
  p = p * t + 0.09253264963626862f;
  const Vec tail = bell * t * p;
  return {bell * 0.3989422804f, x < 0.0f ? tail : 1.0f - tail};
}

}  // namespace petrun
