// Cross entropy per row of logits, and its gradient from the logits and what the row's softmax is scaled by.

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime.h"
#include "vector.h"

using namespace petrun;

namespace {

constexpr int32_t kIgnored = -100;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

long grain(long vocabulary) { return std::max(1L, (1L << 14) / vocabulary); }

struct Scale {
  float most, total;  // the largest logit, and the sum of exp(logit - most)
};

Scale row_scale(const float* x, long n) {
  Vec best = splat(kNothing);
  long i = 0;
  for (; i + kLanes <= n; i += kLanes) best = larger(load(x + i), best);
  float most = largest(best);
  for (long j = i; j < n; ++j) most = x[j] > most ? x[j] : most;
  Vec total{};
  for (i = 0; i + kLanes <= n; i += kLanes) total += exp(load(x + i) - most);
  if (i < n) {
    Vec tail = splat(kNothing);
    std::memcpy(&tail, x + i, (n - i) * sizeof(float));
    total += exp(tail - most);
  }
  return {most, sum(total)};
}

}  // namespace

// (logits (M, V), targets (M,)) -> loss (M,), scale (M, 2): the row's largest logit and 1 / sum(exp(logit - largest)).
// A target outside 0..V-1 that is not -100 makes NaN.
PETRUN_OPERATOR(cross_entropy, 4) {
  const long vocabulary = args.dim(0, 1);
  const float* logits = args.floats(0);
  const int32_t* targets = args.ints(1);
  float *loss = args.floats(2), *scale = args.floats(3);
  expect(args.is(1, "int32") && args.size(1) == args.dim(0, 0));
  parallel_ranges(args.dim(0, 0), grain(vocabulary), [&](long first, long end) {
    for (long r = first; r < end; ++r) {
      const int32_t target = targets[r];
      loss[r] = scale[2 * r] = scale[2 * r + 1] = 0.0f;
      if (target == kIgnored) continue;
      const float* x = logits + r * vocabulary;
      const Scale row = row_scale(x, vocabulary);
      scale[2 * r] = row.most;
      scale[2 * r + 1] = 1.0f / row.total;
      const bool known = target >= 0 && target < vocabulary;
      loss[r] = known ? std::log(row.total) - (x[target] - row.most) : std::numeric_limits<float>::quiet_NaN();
    }
  });
}

// (logits, targets, scale, dloss) -> dlogits = (softmax - one-hot) * dloss
PETRUN_OPERATOR(cross_entropy_grad, 5) {
  const long vocabulary = args.dim(0, 1);
  const float *logits = args.floats(0), *scale = args.floats(2), *dloss = args.floats(3);
  const int32_t* targets = args.ints(1);
  float* dlogits = args.floats(4);
  parallel_ranges(args.dim(0, 0), grain(vocabulary), [&](long first, long end) {
    for (long r = first; r < end; ++r) {
      const float* x = logits + r * vocabulary;
      float* dx = dlogits + r * vocabulary;
      const int32_t target = targets[r];
      if (target == kIgnored) {
        std::fill(dx, dx + vocabulary, 0.0f);
        continue;
      }
      const float shift = scale[2 * r], d = dloss[r], factor = scale[2 * r + 1] * d;
      long i = 0;
      for (; i + kLanes <= vocabulary; i += kLanes) store(dx + i, exp(load(x + i) - shift) * factor);
      if (i < vocabulary) {
        store_part(dx + i, exp(load_part(x + i, vocabulary - i) - shift) * factor, vocabulary - i);
      }
      if (target >= 0 && target < vocabulary) dx[target] -= d;
    }
  });
}
