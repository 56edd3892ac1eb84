// tanh, GELU (erf and tanh forms), SiLU times a gate, rotary embedding, and their gradients; heads in and out.

#include <algorithm>

#include "runtime.h"
#include "vector.h"

using namespace petrun;

namespace {

constexpr long kGrain = 1 << 14;

template <class F>
void map1(long n, const float* a, float* out, const F& f) {
  parallel_ranges(n, kGrain, [&](long i, long end) {
    for (; i + kLanes <= end; i += kLanes) store(out + i, f(load(a + i)));
    if (i < end) store_part(out + i, f(load_part(a + i, end - i)), end - i);
  });
}

template <class F>
void map2(long n, const float* a, const float* b, float* out, const F& f) {
  parallel_ranges(n, kGrain, [&](long i, long end) {
    for (; i + kLanes <= end; i += kLanes) store(out + i, f(load(a + i), load(b + i)));
    if (i < end) store_part(out + i, f(load_part(a + i, end - i), load_part(b + i, end - i)), end - i);
  });
}

// The tanh form is x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
constexpr float kRoot = 0.7978845608f;
constexpr float kCubic = 0.044715f;

}  // namespace

PETRUN_OPERATOR(tanh, 2) {
  map1(args.size(0), args.floats(0), args.floats(1), [](Vec x) { return petrun::tanh(x); });
}

// (y, dy) -> dx
PETRUN_OPERATOR(tanh_grad, 3) {
  map2(args.size(0), args.floats(0), args.floats(1), args.floats(2), [](Vec y, Vec dy) { return dy * (1.0f - y * y); });
}

PETRUN_OPERATOR(gelu, 2) {
  map1(args.size(0), args.floats(0), args.floats(1), [](Vec x) { return x * normal(x).below; });
}

PETRUN_OPERATOR(gelu_grad, 3) {
  map2(args.size(0), args.floats(0), args.floats(1), args.floats(2), [](Vec x, Vec dy) {
    const Normal at = normal(x);
    return dy * (at.below + x * at.density);
  });
}

PETRUN_OPERATOR(gelu_tanh, 2) {
  map1(args.size(0), args.floats(0), args.floats(1),
       [](Vec x) { return x * sigmoid(2.0f * kRoot * (x + kCubic * x * x * x)); });
}

PETRUN_OPERATOR(gelu_tanh_grad, 3) {
  map2(args.size(0), args.floats(0), args.floats(1), args.floats(2), [](Vec x, Vec dy) {
    const Vec s = sigmoid(2.0f * kRoot * (x + kCubic * x * x * x));
    return dy * (s + x * s * (1.0f - s) * (2.0f * kRoot) * (1.0f + 3.0f * kCubic * x * x));
  });
}

// (gate, up) -> silu(gate) * up
PETRUN_OPERATOR(silu_mul, 3) {
  map2(args.size(0), args.floats(0), args.floats(1), args.floats(2),
       [](Vec gate, Vec up) { return gate * sigmoid(gate) * up; });
}

// (gate, up, dy) -> dgate, dup
PETRUN_OPERATOR(silu_mul_grad, 5) {
  const float *gate = args.floats(0), *up = args.floats(1), *dy = args.floats(2);
  float *dgate = args.floats(3), *dup = args.floats(4);
  parallel_ranges(args.size(0), kGrain, [&](long first, long end) {
    for (long i = first; i < end; i += kLanes) {
      const long count = end - i < kLanes ? end - i : kLanes;
      const bool whole = count == kLanes;
      const Vec g = whole ? load(gate + i) : load_part(gate + i, count);
      const Vec u = whole ? load(up + i) : load_part(up + i, count);
      const Vec d = whole ? load(dy + i) : load_part(dy + i, count);
      const Vec s = sigmoid(g);
      const Vec to_gate = d * u * s * (1.0f + g * (1.0f - s));
      const Vec to_up = d * g * s;
      if (whole) {
        store(dgate + i, to_gate);
        store(dup + i, to_up);
      } else {
        store_part(dgate + i, to_gate, count);
        store_part(dup + i, to_up, count);
      }
    }
  });
}

namespace {

// One rotation of every row; `back` applies the transposed matrix, which is the gradient.
template <bool back>
void rotate(const Arguments& args) {
  const long batch = args.dim(0, 0), heads = args.dim(0, 1), tokens = args.dim(0, 2), width = args.dim(0, 3);
  const long half = width / 2, rows = batch * heads * tokens;
  const bool shared = args.dim(1, 0) == 1;  // one table for every row of the batch
  const float *x = args.floats(0), *cosines = args.floats(1), *sines = args.floats(2);
  float* out = args.floats(3);
  expect(width % 2 == 0 && args.size(1) == (shared ? 1 : batch) * tokens * width && args.size(2) == args.size(1));
  parallel_ranges(rows, std::max(1L, kGrain / width), [&](long first, long end) {
    for (long row = first; row < end; ++row) {
      const long at = ((shared ? 0 : row / (heads * tokens)) * tokens + row % tokens) * width;
      const float *a = x + row * width, *b = a + half;
      const float *c = cosines + at, *s = sines + at;
      float *ya = out + row * width, *yb = ya + half;
#pragma omp simd
      for (long i = 0; i < half; ++i) {
        const float left = a[i], right = b[i];
        ya[i] = back ? left * c[i] + right * s[half + i] : left * c[i] - right * s[i];
        yb[i] = back ? right * c[half + i] - left * s[i] : right * c[half + i] + left * s[half + i];
      }
    }
  });
}

}  // namespace

// x (B, N, T, D), cos and sin (B or 1, 1, T, D)
PETRUN_OPERATOR(rope, 4) { rotate<false>(args); }
PETRUN_OPERATOR(rope_grad, 4) { rotate<true>(args); }

namespace {

// Rows of `width` floats between (B, T, parts * N * D) and one (B, N, T, D) for each part.
template <bool apart, int parts>
void move_heads(const Arguments& args, int whole, int first_part) {
  const long batch = args.dim(first_part, 0), heads = args.dim(first_part, 1), tokens = args.dim(first_part, 2);
  const long width = args.dim(first_part, 3), line = heads * width;
  expect(args.size(whole) == parts * batch * tokens * line);
  for (int p = first_part; p < first_part + parts; ++p) {
    expect(args.is(p, "float32") && args.size(p) == batch * tokens * line);
  }
  parallel_ranges(batch * tokens, std::max(1L, kGrain / (parts * line)), [&](long first, long end) {
    for (long row = first; row < end; ++row) {
      const long b = row / tokens, t = row % tokens;
      for (int p = 0; p < parts; ++p) {
        float* side_by_side = args.floats(whole) + (row * parts + p) * line;
        for (long n = 0; n < heads; ++n) {
          float* by_head = args.floats(first_part + p) + ((b * heads + n) * tokens + t) * width;
          std::memcpy(apart ? by_head : side_by_side + n * width, apart ? side_by_side + n * width : by_head,
                      width * sizeof(float));
        }
      }
    }
  });
}

}  // namespace

// (B, T, N * D) -> (B, N, T, D)
PETRUN_OPERATOR(split_heads, 2) { move_heads<true, 1>(args, 0, 1); }

// (B, N, T, D) -> (B, T, N * D)
PETRUN_OPERATOR(merge_heads, 2) { move_heads<false, 1>(args, 1, 0); }

// (B, T, 3 * N * D) -> q, k, v, each (B, N, T, D)
PETRUN_OPERATOR(split_qkv, 4) { move_heads<true, 3>(args, 0, 1); }

// q, k, v -> (B, T, 3 * N * D)
PETRUN_OPERATOR(merge_qkv, 4) { move_heads<false, 3>(args, 3, 0); }
