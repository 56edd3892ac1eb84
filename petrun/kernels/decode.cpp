// Generation, a token of every row at a time: linear layers of a few rows, the products of each row's own LoRA, the cache
// of keys and values, and the choice of the likeliest token. A row's numbers do not depend on the other rows, nor on their count.

#include <algorithm>
#include <cmath>
#include <limits>

#include "dot.h"
#include "runtime.h"

using namespace petrun;

namespace {

// y (rows, wide) = x (rows, depth) w (wide, depth)^T + bias
void dense(long rows, long wide, long depth, const float* x, const float* w, const float* bias, float* y) {
  const long grain = std::max(4L, kSerial / (depth * std::max(rows, 4L)) / 4 * 4);
  parallel_ranges(wide, grain, [&](long first, long end) {
    long n = first;
    for (; n + 4 <= end; n += 4) dot_rows<4>(rows, depth, x, w + n * depth, y + n, wide, bias ? bias + n : nullptr);
    for (; n < end; ++n) dot_rows<1>(rows, depth, x, w + n * depth, y + n, wide, bias ? bias + n : nullptr);
  });
}

void dense_of(const Arguments& args, const float* bias, float* y) {
  const long depth = args.dim(0, -1), wide = args.dim(1, 0);
  expect(args.is(1, "float32") && args.dim(1, 1) == depth);
  dense(args.size(0) / depth, wide, depth, args.floats(0), args.floats(1), bias, y);
}

}  // namespace

// (x (M,K), w (N,K)) -> (M,N)
PETRUN_OPERATOR(dense_rows, 3) { dense_of(args, nullptr, args.floats(2)); }

// (x (M,K), w (N,K), bias (N,)) -> (M,N)
PETRUN_OPERATOR(dense_rows_bias, 4) {
  expect(args.is(2, "float32") && args.size(2) == args.dim(1, 0));
  dense_of(args, args.floats(2), args.floats(3));
}

// (y (B,T,N), x (B,T,K), a (S,R,K), b (S,N,R), adapter of each row (>= B,) int32) -> y + x a^T b^T; adapter 0 changes nothing.
PETRUN_OPERATOR(row_adapters, 6) {
  const long batch = args.dim(0, 0), tokens = args.dim(0, 1), wide = args.dim(0, 2), depth = args.dim(1, 2);
  const long count = args.dim(2, 0), rank = args.dim(2, 1);
  expect(args.is(1, "float32") && args.is(2, "float32") && args.is(3, "float32") && args.is(4, "int32"));
  expect(args.size(1) == batch * tokens * depth && args.dim(2, 2) == depth && args.dim(3, 0) == count);
  expect(args.dim(3, 1) == wide && args.dim(3, 2) == rank && args.size(4) >= batch);
  for (long b = 0; b < batch; ++b) expect(args.ints(4)[b] >= 0 && args.ints(4)[b] < count);
  const long grain = std::max(1L, kSerial / (rank * (depth + wide)));
  parallel_ranges(batch * tokens, grain, [&](long first, long end) {
    float* inner = scratch(0, rank);
    for (long row = first; row < end; ++row) {
      const long adapter = args.ints(4)[row / tokens];
      const float* y = args.floats(0) + row * wide;
      float* out = args.floats(5) + row * wide;
      if (adapter == 0) {
        std::memcpy(out, y, wide * sizeof(float));
        continue;
      }
      const float* a = args.floats(2) + adapter * rank * depth;
      const float* b = args.floats(3) + adapter * wide * rank;
      for (long r = 0; r < rank; ++r) {
        dot_block<1, 1>(depth, args.floats(1) + row * depth, depth, a + r * depth, depth, inner + r, 1, nullptr);
      }
      for (long n = 0; n < wide; ++n) {
        float total = 0.0f;
        for (long r = 0; r < rank; ++r) total += inner[r] * b[n * rank + r];
        out[n] = y[n] + total;
      }
    }
  });
}

// (k, v (P,N,T,D), the caches of k and v (B,N,S,D), row of each in the caches (P,), its first column (P,)) -> 0 (1,).
// Writes into the caches themselves.
PETRUN_OPERATOR(write_cache, 7) {
  const long prompts = args.dim(0, 0), heads = args.dim(0, 1), tokens = args.dim(0, 2), width = args.dim(0, 3);
  const long rows = args.dim(2, 0), slots = args.dim(2, 2);
  expect(args.is(1, "float32") && args.is(2, "float32") && args.is(3, "float32"));
  expect(args.is(4, "int32") && args.is(5, "int32") && args.size(4) == prompts && args.size(5) == prompts);
  expect(args.size(1) == args.size(0) && args.size(2) == rows * heads * slots * width && args.size(3) == args.size(2));
  for (long p = 0; p < prompts; ++p) {
    const long row = args.ints(4)[p], column = args.ints(5)[p];
    expect(row >= 0 && row < rows && column >= 0 && column + tokens <= slots);
    for (int which = 0; which < 2; ++which) {
      for (long head = 0; head < heads; ++head) {
        std::memcpy(args.floats(2 + which) + ((row * heads + head) * slots + column) * width,
                    args.floats(which) + (p * heads + head) * tokens * width, tokens * width * sizeof(float));
      }
    }
  }
  args.floats(6)[0] = 0.0f;
}

// logits (B,V) -> the likeliest token (B,) int32, the first of equal ones; whether all are finite (B,) bool
PETRUN_OPERATOR(likeliest, 3) {
  const long rows = args.dim(0, 0), wide = args.dim(0, 1);
  auto* best = reinterpret_cast<int32_t*>(args.floats(1));
  auto* finite = reinterpret_cast<bool*>(args.floats(2));
  parallel_ranges(rows, std::max(1L, kSerial / wide), [&](long first, long end) {
    for (long row = first; row < end; ++row) {
      const float* logits = args.floats(0) + row * wide;
      // x - x is 0 for a finite x, else NaN.
      Vec most = splat(-std::numeric_limits<float>::infinity()), broken{};
      long i = 0;
      for (; i + kLanes <= wide; i += kLanes) {
        const Vec x = load(logits + i);
        most = larger(x, most);
        broken += x - x;
      }
      float top = largest(most), rest = sum(broken);
      for (; i < wide; ++i) {
        top = std::max(top, logits[i]);
        rest += logits[i] - logits[i];
      }
      finite[row] = rest == 0.0f;
      long at = 0;
      while (at < wide - 1 && logits[at] != top) ++at;
      best[row] = static_cast<int32_t>(at);
    }
  });
}
