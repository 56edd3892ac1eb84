// LayerNorm, of x or of x + residual, RmsNorm, and a scale of the columns alone: forward, gradient of the input, gradients of the
// weights.
//
// Nothing but the inputs is kept for the backward pass: a row's statistics are cheaper to take again than to store.

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime.h"
#include "vector.h"

using namespace petrun;

namespace {

// A row padded with zeros to whole vectors.
inline void read_row(const float* x, long hidden, float* row) {
  std::memcpy(row, x, hidden * sizeof(float));
  std::fill(row + hidden, row + (hidden + kLanes - 1) / kLanes * kLanes, 0.0f);
}

// Puts (row - mean) / sqrt(var + eps) in place of row, without the mean when `centred` is false, and returns the factor.
template <bool centred>
inline float normalise(float* row, long hidden, float eps) {
  const long padded = (hidden + kLanes - 1) / kLanes * kLanes;
  if (centred) {
    Vec total{};
    for (long i = 0; i < padded; i += kLanes) total += load(row + i);
    const float mean = sum(total) / hidden;
    for (long i = 0; i < hidden; ++i) row[i] -= mean;
  }
  Vec squares{};
  for (long i = 0; i < padded; i += kLanes) squares += load(row + i) * load(row + i);
  const float factor = 1.0f / std::sqrt(sum(squares) / hidden + eps);
  for (long i = 0; i < padded; i += kLanes) store(row + i, load(row + i) * factor);
  return factor;
}

long grain(long hidden) { return std::max(1L, (1L << 14) / hidden); }
long padded(long hidden) { return (hidden + kLanes - 1) / kLanes * kLanes; }

// With a residual, the norm of x + residual, which is also written to `total`.
template <bool centred>
void forward(const float* x, const float* residual, const float* weight, const float* bias, float eps, long rows,
             long hidden, float* y, float* total) {
  parallel_ranges(rows, grain(hidden), [&](long first, long end) {
    float* row = scratch(0, padded(hidden));
    for (long r = first; r < end; ++r) {
      const float* in = x + r * hidden;
      if (residual) {
        const float* other = residual + r * hidden;
        float* both = total + r * hidden;
#pragma omp simd
        for (long i = 0; i < hidden; ++i) both[i] = in[i] + other[i];
        in = both;
      }
      read_row(in, hidden, row);
      normalise<centred>(row, hidden, eps);
      float* out = y + r * hidden;
#pragma omp simd
      for (long i = 0; i < hidden; ++i) out[i] = bias ? row[i] * weight[i] + bias[i] : row[i] * weight[i];
    }
  });
}

// g = dy * weight, n = the normalised row: dx = factor * (g - mean(g) - n * mean(g n)); RmsNorm has no mean(g).
template <bool centred>
void input_gradient(const float* x, const float* weight, const float* dy, float eps, long rows, long hidden,
                    float* dx) {
  parallel_ranges(rows, grain(hidden), [&](long first, long end) {
    const long width = padded(hidden);
    float* row = scratch(0, width);
    float* g = scratch(1, width);
    std::fill(g, g + width, 0.0f);
    for (long r = first; r < end; ++r) {
      read_row(x + r * hidden, hidden, row);
      const float factor = normalise<centred>(row, hidden, eps);
      const float* d = dy + r * hidden;
#pragma omp simd
      for (long i = 0; i < hidden; ++i) g[i] = d[i] * weight[i];
      Vec along{}, total{};
      for (long i = 0; i < width; i += kLanes) {
        along += load(g + i) * load(row + i);
        total += load(g + i);
      }
      const float slope = sum(along) / hidden;
      const float mean = centred ? sum(total) / hidden : 0.0f;
      for (long i = 0; i < width; i += kLanes) {
        store(row + i, factor * (load(g + i) - mean - load(row + i) * slope));
      }
      std::memcpy(dx + r * hidden, row, hidden * sizeof(float));
    }
  });
}

// Sums add(row, total) over the rows: blocks of a fixed number of rows first, then the blocks in order.
template <class Add>
void sum_rows(long rows, long hidden, float* out, const Add& add) {
  constexpr long kBlock = 128;
  const long blocks = (rows + kBlock - 1) / kBlock;
  std::vector<float> partial(blocks * hidden, 0.0f);
  parallel(blocks, [&](long block) {
    const long end = std::min(rows, (block + 1) * kBlock);
    for (long r = block * kBlock; r < end; ++r) add(r, partial.data() + block * hidden);
  });
  std::fill(out, out + hidden, 0.0f);
  for (long block = 0; block < blocks; ++block) {
    const float* p = partial.data() + block * hidden;
    for (long i = 0; i < hidden; ++i) out[i] += p[i];
  }
}

template <bool centred>
void weight_gradient(const float* x, const float* dy, float eps, long rows, long hidden, float* out) {
  sum_rows(rows, hidden, out, [&](long r, float* total) {
    float* row = scratch(0, padded(hidden));
    read_row(x + r * hidden, hidden, row);
    normalise<centred>(row, hidden, eps);
    const float* d = dy + r * hidden;
#pragma omp simd
    for (long i = 0; i < hidden; ++i) total[i] += d[i] * row[i];
  });
}

}  // namespace

// (x, weight, bias, eps) -> y
PETRUN_OPERATOR(layer_norm, 5) {
  const long hidden = args.dim(0, -1);
  expect(args.size(1) == hidden && args.size(2) == hidden);
  forward<true>(args.floats(0), nullptr, args.floats(1), args.floats(2), args.floats(3)[0], args.size(0) / hidden,
                hidden, args.floats(4), nullptr);
}

// (x, residual, weight, bias, eps) -> y, x + residual
PETRUN_OPERATOR(add_layer_norm, 7) {
  const long hidden = args.dim(0, -1);
  expect(args.size(1) == args.size(0) && args.size(2) == hidden && args.size(3) == hidden);
  forward<true>(args.floats(0), args.floats(1), args.floats(2), args.floats(3), args.floats(4)[0],
                args.size(0) / hidden, hidden, args.floats(5), args.floats(6));
}

// (x, weight, dy, eps) -> dx
PETRUN_OPERATOR(layer_norm_grad, 5) {
  const long hidden = args.dim(0, -1);
  input_gradient<true>(args.floats(0), args.floats(1), args.floats(2), args.floats(3)[0], args.size(0) / hidden, hidden,
                       args.floats(4));
}

// (x, dy, eps) -> dweight
PETRUN_OPERATOR(layer_norm_weight_grad, 4) {
  const long hidden = args.dim(0, -1);
  weight_gradient<true>(args.floats(0), args.floats(1), args.floats(2)[0], args.size(0) / hidden, hidden,
                        args.floats(3));
}

// dy -> its sum over all axes but the last
PETRUN_OPERATOR(row_sum, 2) {
  const long hidden = args.dim(0, -1);
  const float* dy = args.floats(0);
  sum_rows(args.size(0) / hidden, hidden, args.floats(1), [&](long r, float* total) {
    const float* d = dy + r * hidden;
#pragma omp simd
    for (long i = 0; i < hidden; ++i) total[i] += d[i];
  });
}

// (x, weight, eps) -> y
PETRUN_OPERATOR(rms_norm, 4) {
  const long hidden = args.dim(0, -1);
  expect(args.size(1) == hidden);
  forward<false>(args.floats(0), nullptr, args.floats(1), nullptr, args.floats(2)[0], args.size(0) / hidden, hidden,
                 args.floats(3), nullptr);
}

// (x, weight, dy, eps) -> dx
PETRUN_OPERATOR(rms_norm_grad, 5) {
  const long hidden = args.dim(0, -1);
  input_gradient<false>(args.floats(0), args.floats(1), args.floats(2), args.floats(3)[0], args.size(0) / hidden,
                        hidden, args.floats(4));
}

// (x, dy, eps) -> dweight
PETRUN_OPERATOR(rms_norm_weight_grad, 4) {
  const long hidden = args.dim(0, -1);
  weight_gradient<false>(args.floats(0), args.floats(1), args.floats(2)[0], args.size(0) / hidden, hidden,
                         args.floats(3));
}

// (x, scale (H,)) -> x * scale
PETRUN_OPERATOR(scale_columns, 3) {
  const long hidden = args.dim(0, -1);
  expect(args.is(1, "float32") && args.size(1) == hidden);
  const float *x = args.floats(0), *scale = args.floats(1);
  float* y = args.floats(2);
  parallel_ranges(args.size(0) / hidden, grain(hidden), [&](long first, long end) {
    for (long r = first; r < end; ++r) {
      const float* row = x + r * hidden;
      float* out = y + r * hidden;
#pragma omp simd
      for (long i = 0; i < hidden; ++i) out[i] = row[i] * scale[i];
    }
  });
}

// (x, scale, dy) -> dx, dscale. Both at once: x and dy are not kept for a second operator.
PETRUN_OPERATOR(scale_columns_grad, 5) {
  const long hidden = args.dim(0, -1);
  expect(args.size(1) == hidden && args.size(2) == args.size(0));
  const float *x = args.floats(0), *scale = args.floats(1), *dy = args.floats(2);
  float* dx = args.floats(3);
  sum_rows(args.size(0) / hidden, hidden, args.floats(4), [&](long r, float* total) {
    const float *row = x + r * hidden, *d = dy + r * hidden;
    float* out = dx + r * hidden;
#pragma omp simd
    for (long i = 0; i < hidden; ++i) {
      out[i] = d[i] * scale[i];
      total[i] += d[i] * row[i];
    }
  });
}
