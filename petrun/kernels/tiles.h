// Products with a matrix of which a tile at a time is laid out in a thread's scratch memory.
#pragma once

#include <algorithm>

#include "matrix.h"
#include "runtime.h"

namespace petrun {

constexpr long kColumns = 64;  // of a tile
constexpr long kDepth = 256;   // of a tile: 64 KiB, half of the smallest second-level caches

// y (m, columns) = a (m, depth) times a matrix (depth, columns), tile by tile: `fill(begin, end, first, last, tile)` writes depth rows
// begin .. end-1 of the columns first .. last-1. a(r, k) = a[r * a_row + k * a_step]. A row's numbers do not depend on how many there are.
template <class Fill>
void by_tiles(long m, long columns, long depth, const float* a, long a_row, long a_step, float* y, const Fill& fill) {
  parallel((columns + kColumns - 1) / kColumns, [&](long piece) {
    const long first = piece * kColumns, many = std::min(kColumns, columns - first);
    float* tile = scratch(0, kDepth * kColumns);
    // Products are of whole vectors: columns that are no multiple go to memory of their own first.
    const long padded = (many + kLanes - 1) / kLanes * kLanes;
    const bool apart = padded != many;
    float* target = apart ? scratch(1, m * padded) : y + first;
    const long row = apart ? padded : columns;
    for (long k = 0; k < depth; k += kDepth) {
      const long end = std::min(depth, k + kDepth);
      if (apart) std::memset(tile, 0, kDepth * kColumns * sizeof(float));
      fill(k, end, first, first + many, tile);
      product(m, padded, end - k, a + k * a_step, a_row, a_step, tile, kColumns, target, row, k > 0);
    }
    if (apart) {
      for (long r = 0; r < m; ++r) std::memcpy(y + r * columns + first, target + r * padded, many * sizeof(float));
    }
  });
}

// The tile of a transpose: `rows(n, begin, count, out)` gives `count` values of row n of the matrix (columns, depth), from `begin` on.
template <class Rows>
void transposed_tile(long begin, long end, long first, long last, float* tile, const Rows& rows) {
  float* strip = scratch(2, 16 * kDepth);
  for (long n = first; n < last; n += 16) {
    const long many = std::min(16L, last - n);
    for (long i = 0; i < many; ++i) rows(n + i, begin, end - begin, strip + i * kDepth);
    for (long k = 0; k < end - begin; ++k) {
      float* out = tile + k * kColumns + n - first;
      for (long i = 0; i < many; ++i) out[i] = strip[i * kDepth + k];
    }
  }
}

}  // namespace petrun
