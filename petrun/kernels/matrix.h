// Products of small matrices that lie in the cache, blocked for registers.
#pragma once

#include <algorithm>

#include "vector.h"

namespace petrun {

// Register blocks of kRows x (kWide vectors): accumulators plus operands fill the machine's vector registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 6, kWide = 4;
#else
constexpr int kRows = 6, kWide = 2;
#endif

// c[rows x wide*kLanes] (+)= a * b over `depth`; a(r, k) = a[r * a_row + k * a_step].
template <int rows, int wide>
inline void product_block(long depth, const float* a, long a_row, long a_step, const float* b, long b_row, float* c,
                          long c_row, bool add) {
  Vec total[rows][wide];
  for (int r = 0; r < rows; ++r)
    for (int w = 0; w < wide; ++w) total[r][w] = add ? load(c + r * c_row + w * kLanes) : Vec{};
  for (long k = 0; k < depth; ++k) {
    Vec right[wide];
    for (int w = 0; w < wide; ++w) right[w] = load(b + k * b_row + w * kLanes);
    for (int r = 0; r < rows; ++r) {
      const Vec left = splat(a[r * a_row + k * a_step]);
      for (int w = 0; w < wide; ++w) total[r][w] += left * right[w];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int w = 0; w < wide; ++w) store(c + r * c_row + w * kLanes, total[r][w]);
}

template <int rows, int wide>
void product_rows(int count, long depth, const float* a, long a_row, long a_step, const float* b, long b_row, float* c,
                  long c_row, bool add) {
  if constexpr (rows > 0) {
    if (count == rows) {
      product_block<rows, wide>(depth, a, a_row, a_step, b, b_row, c, c_row, add);
    } else {
      product_rows<rows - 1, wide>(count, depth, a, a_row, a_step, b, b_row, c, c_row, add);
    }
  }
}

template <int wide>
void product_columns(long rows, long depth, const float* a, long a_row, long a_step, const float* b, long b_row,
                     float* c, long c_row, bool add) {
  for (long r = 0; r < rows; r += kRows) {
    product_rows<kRows, wide>(static_cast<int>(std::min<long>(kRows, rows - r)), depth, a + r * a_row, a_row, a_step, b,
                              b_row, c + r * c_row, c_row, add);
  }
}

// c (+)= a * b. a is rows x depth with free strides (swap them for a transpose); b is depth x columns and c rows x
// columns, both row by row; columns is a multiple of kLanes.
inline void product(long rows, long columns, long depth, const float* a, long a_row, long a_step, const float* b,
                    long b_row, float* c, long c_row, bool add) {
  for (long j = 0; j < columns;) {
    const long left = (columns - j) / kLanes;
    if (left >= kWide) {
      product_columns<kWide>(rows, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add);
      j += kWide * kLanes;
    } else if (left >= 2) {
      product_columns<2>(rows, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add);
      j += 2 * kLanes;
    } else {
      product_columns<1>(rows, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add);
      j += kLanes;
    }
  }
}

}  // namespace petrun
