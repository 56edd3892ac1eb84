// Products of few rows, whose numbers do not depend on how many there are.
#pragma once

#include "vector.h"

namespace petrun {

// Sum of lane-wise products over `depth`, for rows x columns pairs: c[r][n] = a[r] . b[n].
template <int rows, int columns>
inline void dot_block(long depth, const float* a, long a_row, const float* b, long b_row, float* c, long c_row,
                      const float* bias) {
  Vec total[rows][columns] = {};
  long k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    Vec right[columns];
    for (int n = 0; n < columns; ++n) right[n] = load(b + n * b_row + k);
    for (int r = 0; r < rows; ++r) {
      const Vec left = load(a + r * a_row + k);
      for (int n = 0; n < columns; ++n) total[r][n] += left * right[n];
    }
  }
  if (k < depth) {
    for (int n = 0; n < columns; ++n) {
      const Vec right = load_part(b + n * b_row + k, depth - k);
      for (int r = 0; r < rows; ++r) total[r][n] += load_part(a + r * a_row + k, depth - k) * right;
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < columns; ++n) c[r * c_row + n] = sum(total[r][n]) + (bias ? bias[n] : 0.0f);
}

template <int columns>
void dot_rows(long rows, long depth, const float* a, const float* b, float* c, long c_row, const float* bias) {
  long r = 0;
  for (; r + 4 <= rows; r += 4) {
    dot_block<4, columns>(depth, a + r * depth, depth, b, depth, c + r * c_row, c_row, bias);
  }
  for (; r < rows; ++r) dot_block<1, columns>(depth, a + r * depth, depth, b, depth, c + r * c_row, c_row, bias);
}

}  // namespace petrun
