// The optimizer's update, in place.

#include <cmath>

#include "runtime.h"
#include "vector.h"

using namespace petrun;

namespace {

constexpr long kGrain = 1 << 14;

inline Vec root(Vec x) {
  for (int i = 0; i < kLanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

}  // namespace

// (weight, m, v, gradient: one shape; numbers (9,): 1 if the step is taken, what the gradient is multiplied by, rate, b1, b2, b1^t,
// b2^t, eps, decay; own (2,): the parameter's factors on the rate and on the decay) -> 0 (1,). Writes into weight, m and v themselves.
PETRUN_OPERATOR(adamw, 7) {
  const long total = args.size(0);
  for (int i = 1; i < 6; ++i) expect(args.is(i, "float32"));
  expect(args.size(1) == total && args.size(2) == total && args.size(3) == total);
  expect(args.size(4) == 9 && args.size(5) == 2);
  args.floats(6)[0] = 0.0f;
  const float *numbers = args.floats(4), *own = args.floats(5);
  if (numbers[0] == 0.0f) return;
  const float scale = numbers[1], rate = numbers[2] * own[0], beta1 = numbers[3], beta2 = numbers[4];
  const float first = 1.0f - numbers[5], second = std::sqrt(1.0f - numbers[6]), eps = numbers[7];
  const float kept = 1.0f - rate * (numbers[8] * own[1]), step = rate / first;
  float *weight = args.floats(0), *m = args.floats(1), *v = args.floats(2);
  const float* gradient = args.floats(3);
  parallel_ranges(total, kGrain, [&](long i, long end) {
    const auto move = [&](Vec& w, Vec& mean, Vec& square, Vec g) {
      g *= scale;
      mean += (g - mean) * (1.0f - beta1);
      square += (g * g - square) * (1.0f - beta2);
      w = w * kept - step * mean / (root(square) / second + eps);
    };
    for (; i + kLanes <= end; i += kLanes) {
      Vec w = load(weight + i), mean = load(m + i), square = load(v + i);
      move(w, mean, square, load(gradient + i));
      store(weight + i, w);
      store(m + i, mean);
      store(v + i, square);
    }
    if (i == end) return;
    const long rest = end - i;
    Vec w = load_part(weight + i, rest), mean = load_part(m + i, rest), square = load_part(v + i, rest);
    move(w, mean, square, load_part(gradient + i, rest));
    store_part(weight + i, w, rest);
    store_part(m + i, mean, rest);
    store_part(v + i, square, rest);
  });
}
