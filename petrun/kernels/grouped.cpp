// Products with one matrix of a stack for each row: the experts of a mixture, of which a token is computed by those that its router
// chose. Rows are brought together by matrix first, so a matrix is read once, and one that no row chose not at all.

#include <algorithm>

#include "dot.h"
#include "runtime.h"
#include "tiles.h"

using namespace petrun;

namespace {

// Up to so many rows a matrix, on average, its rows are read as they are, without a transposed tile. The choice depends on shapes alone,
// as a row's numbers must not depend on what other rows chose.
constexpr long kFewRows = 8;
constexpr long kFewAtAll = 128;

// Rows by the matrix that each chose, in the order of the rows.
struct Groups {
  long rows, matrices;
  int32_t* order;  // the rows, those of matrix 0 first
  long* first;     // of each matrix, its first place in `order`; one more at the end

  Groups(const Arguments& args, int input, long matrices_) : rows(args.size(input)), matrices(matrices_) {
    expect(args.is(input, "int32"));
    const int32_t* chosen = args.ints(input);
    auto* memory = scratch(3, rows + 2 * (matrices + 1) + 2);
    first = reinterpret_cast<long*>(memory);
    order = reinterpret_cast<int32_t*>(memory + 2 * (matrices + 1));
    std::fill(first, first + matrices + 1, 0L);
    for (long m = 0; m < rows; ++m) {
      expect(chosen[m] >= 0 && chosen[m] < matrices);
      ++first[chosen[m] + 1];
    }
    for (long e = 0; e < matrices; ++e) first[e + 1] += first[e];
    for (long m = 0; m < rows; ++m) order[first[chosen[m]]++] = static_cast<int32_t>(m);
    for (long e = matrices; e > 0; --e) first[e] = first[e - 1];
    first[0] = 0;
  }

  // Rows of x (rows / share, width) in the order of the groups; `share` rows following one another read the same row of x.
  float* gathered(int slot, const float* x, long width, long share) const {
    float* out = scratch(slot, rows * width);
    parallel_ranges(rows, std::max(1L, kSerial / width), [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        std::memcpy(out + i * width, x + order[i] / share * width, width * sizeof(float));
      }
    });
    return out;
  }
};

void few_rows(long m, long wide, long depth, const float* x, const float* w, float* y) {
  const long grain = std::max(4L, kSerial / (depth * std::max(m, 4L)) / 4 * 4);
  parallel_ranges(wide, grain, [&](long first, long end) {
    long n = first;
    for (; n + 4 <= end; n += 4) dot_rows<4>(m, depth, x, w + n * depth, y + n, wide, nullptr);
    for (; n < end; ++n) dot_rows<1>(m, depth, x, w + n * depth, y + n, wide, nullptr);
  });
}

}  // namespace

// (x (R,K), w (E,N,K), the matrix of each row (M,) int32, M a multiple of R) -> (M,N): row m is x[m / (M/R)] w[chosen[m]]^T
PETRUN_OPERATOR(grouped_product, 4) {
  const long depth = args.dim(0, -1), matrices = args.dim(1, 0), wide = args.dim(1, 1);
  const long inner = args.size(0) / depth, outer = args.size(2);
  expect(args.is(1, "float32") && args.dim(1, 2) == depth && inner > 0 && outer % inner == 0);
  expect(args.size(3) == outer * wide);
  const Groups groups(args, 2, matrices);
  const float* x = groups.gathered(4, args.floats(0), depth, outer / inner);
  float* y = scratch(5, outer * wide);
  const bool few = outer <= std::max(kFewAtAll, kFewRows * matrices);
  for (long e = 0; e < matrices; ++e) {
    const long begin = groups.first[e], m = groups.first[e + 1] - begin;
    if (m == 0) continue;
    const float* w = args.floats(1) + e * wide * depth;
    if (few) {
      few_rows(m, wide, depth, x + begin * depth, w, y + begin * wide);
      continue;
    }
    by_tiles(m, wide, depth, x + begin * depth, depth, 1, y + begin * wide,
             [&](long from, long end, long first, long last, float* tile) {
               transposed_tile(from, end, first, last, tile, [&](long n, long k, long many, float* out) {
                 std::memcpy(out, w + n * depth + k, many * sizeof(float));
               });
             });
  }
  for (long i = 0; i < outer; ++i) {
    std::memcpy(args.floats(3) + groups.order[i] * wide, y + i * wide, wide * sizeof(float));
  }
}

// (dy (M,N), w (E,N,K), chosen (M,) int32, x (R,K), of which the shape counts) -> dx (R,K)
PETRUN_OPERATOR(grouped_product_grad, 5) {
  const long wide = args.dim(0, -1), matrices = args.dim(1, 0), depth = args.dim(1, 2);
  const long outer = args.size(2), inner = args.size(3) / depth;
  expect(args.is(1, "float32") && args.dim(1, 1) == wide && args.size(0) == outer * wide);
  expect(args.dim(3, -1) == depth && inner > 0 && outer % inner == 0 && args.size(4) == inner * depth);
  const Groups groups(args, 2, matrices);
  const float* dy = groups.gathered(4, args.floats(0), wide, 1);
  float* each = scratch(5, outer * depth);
  for (long e = 0; e < matrices; ++e) {
    const long begin = groups.first[e], m = groups.first[e + 1] - begin;
    if (m == 0) continue;
    const float* w = args.floats(1) + e * wide * depth;
    by_tiles(m, depth, wide, dy + begin * wide, wide, 1, each + begin * depth,
             [&](long from, long end, long first, long last, float* tile) {
               for (long n = from; n < end; ++n) {
                 std::memcpy(tile + (n - from) * kColumns, w + n * depth + first, (last - first) * sizeof(float));
               }
             });
  }
  // Where each row's result is, then their sums in the order of the rows.
  auto* place = reinterpret_cast<int32_t*>(scratch(6, outer));
  for (long i = 0; i < outer; ++i) place[groups.order[i]] = static_cast<int32_t>(i);
  const long share = outer / inner;
  parallel_ranges(inner, std::max(1L, kSerial / (depth * share)), [&](long first, long end) {
    for (long r = first; r < end; ++r) {
      float* out = args.floats(4) + r * depth;
      std::memcpy(out, each + place[r * share] * depth, depth * sizeof(float));
      for (long s = 1; s < share; ++s) {
        const float* more = each + place[r * share + s] * depth;
        for (long k = 0; k < depth; ++k) out[k] += more[k];
      }
    }
  });
}

// (dy (M,N), x (R,K), chosen (M,) int32, w (E,N,K), of which the shape counts) -> dw (E,N,K)
PETRUN_OPERATOR(grouped_weight_grad, 5) {
  const long wide = args.dim(0, -1), depth = args.dim(1, -1), matrices = args.dim(3, 0);
  const long outer = args.size(2), inner = args.size(1) / depth;
  expect(args.is(1, "float32") && args.dim(3, 1) == wide && args.dim(3, 2) == depth);
  expect(args.size(0) == outer * wide && inner > 0 && outer % inner == 0 && args.size(4) == args.size(3));
  const Groups groups(args, 2, matrices);
  const float* dy = groups.gathered(4, args.floats(0), wide, 1);
  const float* x = groups.gathered(5, args.floats(1), depth, outer / inner);
  for (long e = 0; e < matrices; ++e) {
    const long begin = groups.first[e], m = groups.first[e + 1] - begin;
    float* dw = args.floats(4) + e * wide * depth;
    if (m == 0) {
      std::memset(dw, 0, wide * depth * sizeof(float));
      continue;
    }
    by_tiles(wide, depth, m, dy + begin * wide, 1, wide, dw,
             [&](long from, long end, long first, long last, float* tile) {
               for (long r = from; r < end; ++r) {
                 std::memcpy(tile + (r - from) * kColumns, x + (begin + r) * depth + first, (last - first) * sizeof(float));
               }
             });
  }
}
