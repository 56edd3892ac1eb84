// Products with a frozen matrix in codes of 8 or 4 bits. A tile of it becomes float32 in a thread's scratch memory and
// is multiplied at once: the matrix is nowhere whole.
//
//   w = (v(q) - zero) * scale * unit,  a run of `block` codes of the flattened (N, K) matrix shares a scale and a zero

#include <algorithm>

#include "dot.h"
#include "runtime.h"
#include "tiles.h"

using namespace petrun;

namespace {

// Up to so many rows the product reads unpacked rows of the matrix as they are, without a transposed tile.
constexpr long kFewRows = 32;

struct Packed {
  const uint8_t* codes;
  const float* scales;
  const float* zeros;  // nullptr: none
  float unit;
  long rows, width, block;
  int bits;            // 4: two codes in a byte, the first in the high half; 8: uint8; -8: int8
  float values[256];   // of uint8 codes
  float pairs[512];    // of the two codes in a byte

  // x (.., K or N), codes, table (16,), (256,) or (1,), scales, zeros or (1,), sizes (N, K, block), unit (1,): inputs 1 to 6
  Packed(const Arguments& args) {
    expect(args.is(2, "float32") && args.is(3, "float32") && args.is(4, "float32"));
    expect(args.is(5, "int32") && args.size(5) == 3 && args.is(6, "float32") && args.size(6) == 1);
    rows = args.ints(5)[0], width = args.ints(5)[1], block = args.ints(5)[2];
    const long count = rows * width, blocks = (count + block - 1) / block;
    const long entries = args.size(2);
    codes = args.bytes(1);
    bits = args.is(1, "int8") ? -8 : entries == 16 ? 4 : 8;
    expect(rows > 0 && width > 0 && block > 0 && (bits == -8 || (args.is(1, "uint8") && (entries == 16 || entries == 256))));
    expect(args.size(1) == (bits == 4 ? (count + 1) / 2 : count) && args.size(3) == blocks);
    scales = args.floats(3);
    zeros = args.size(4) == blocks && blocks > 1 ? args.floats(4) : nullptr;
    if (blocks == 1 && args.floats(4)[0] != 0.0f) zeros = args.floats(4);
    unit = args.floats(6)[0];
    if (bits == 8) std::memcpy(values, args.floats(2), sizeof(values));
    if (bits == 4) {
      for (int byte = 0; byte < 256; ++byte) {
        pairs[2 * byte] = args.floats(2)[byte >> 4];
        pairs[2 * byte + 1] = args.floats(2)[byte & 15];
      }
    }
  }

  // Values of codes first .. first+count-1 of the flattened matrix, before scale and zero.
  void look_up(long first, long count, float* out) const {
    if (bits == -8) {
      const auto* q = reinterpret_cast<const int8_t*>(codes) + first;
      for (long i = 0; i < count; ++i) out[i] = static_cast<float>(q[i]);
    } else if (bits == 8) {
      for (long i = 0; i < count; ++i) out[i] = values[codes[first + i]];
    } else {
      if (first % 2 && count > 0) {
        *out++ = pairs[2 * codes[first / 2] + 1];
        ++first, --count;
      }
      const uint8_t* q = codes + first / 2;
      long i = 0;
      for (; i + 2 <= count; i += 2) std::memcpy(out + i, pairs + 2 * q[i / 2], 2 * sizeof(float));
      if (i < count) out[i] = pairs[2 * q[i / 2]];
    }
  }

  // Columns first .. first+count-1 of a row.
  void unpack(long row, long first, long count, float* out) const {
    long at = row * width + first;
    for (const long end = at + count; at < end;) {
      const long b = at / block, many = std::min(end, (b + 1) * block) - at;
      look_up(at, many, out);
      const float scale = scales[b];
      if (zeros) {
        const float zero = zeros[b];
        for (long i = 0; i < many; ++i) out[i] -= zero;
      }
      for (long i = 0; i < many; ++i) out[i] *= scale;
      if (unit != 1.0f) {
        for (long i = 0; i < many; ++i) out[i] *= unit;
      }
      at += many, out += many;
    }
  }
};

// y (M, N) = x (M, K) w^T, for few rows.
void few_rows(const Packed& w, long m, const float* x, float* y) {
  const long grain = std::max(4L, kSerial / (w.width * std::max(m, 4L)) / 4 * 4);
  parallel_ranges(w.rows, grain, [&](long first, long end) {
    float* unpacked = scratch(0, 4 * w.width);
    for (long n = first; n < end;) {
      const long many = end - n >= 4 ? 4 : 1;
      for (long i = 0; i < many; ++i) w.unpack(n + i, 0, w.width, unpacked + i * w.width);
      if (many == 4) {
        dot_rows<4>(m, w.width, x, unpacked, y + n, w.rows, nullptr);
      } else {
        dot_rows<1>(m, w.width, x, unpacked, y + n, w.rows, nullptr);
      }
      n += many;
    }
  });
}

}  // namespace

// (x (M,K), codes, table, scales, zeros, sizes, unit) -> x w^T (M,N)
PETRUN_OPERATOR(packed_product, 8) {
  const Packed w(args);
  expect(args.dim(0, -1) == w.width && args.size(7) == args.size(0) / w.width * w.rows);
  const long m = args.size(0) / w.width;
  if (m <= kFewRows) return few_rows(w, m, args.floats(0), args.floats(7));
  by_tiles(m, w.rows, w.width, args.floats(0), w.width, 1, args.floats(7),
           [&](long begin, long end, long first, long last, float* tile) {
             transposed_tile(begin, end, first, last, tile,
                             [&](long n, long k, long many, float* out) { w.unpack(n, k, many, out); });
           });
}

// (dy (M,N), codes, table, scales, zeros, sizes, unit) -> dy w (M,K)
PETRUN_OPERATOR(packed_product_grad, 8) {
  const Packed w(args);
  expect(args.dim(0, -1) == w.rows && args.size(7) == args.size(0) / w.rows * w.width);
  by_tiles(args.size(0) / w.rows, w.width, w.rows, args.floats(0), w.rows, 1, args.floats(7),
           [&](long begin, long end, long first, long last, float* tile) {
             for (long n = begin; n < end; ++n) w.unpack(n, first, last - first, tile + (n - begin) * kColumns);
           });
}

// (any (1,), codes, table, scales, zeros, sizes, unit) -> w (N,K)
PETRUN_OPERATOR(packed_values, 8) {
  const Packed w(args);
  expect(args.size(7) == w.rows * w.width);
  parallel_ranges(w.rows, std::max(1L, kSerial / w.width), [&](long first, long end) {
    for (long n = first; n < end; ++n) w.unpack(n, 0, w.width, args.floats(7) + n * w.width);
  });
}

// (table (256,), codes (S,) uint8, absmax (ceil(S / block),), offset (1,), block (1,) int32) -> scales (S,)
PETRUN_OPERATOR(nested_scales, 6) {
  expect(args.size(0) == 256 && args.is(1, "uint8") && args.is(2, "float32") && args.is(3, "float32"));
  expect(args.is(4, "int32") && args.size(4) == 1 && args.size(5) == args.size(1));
  const long count = args.size(1), block = args.ints(4)[0];
  expect(block > 0 && args.size(2) == (count + block - 1) / block);
  const float offset = args.floats(3)[0];
  parallel_ranges(count, kSerial, [&](long first, long end) {
    float* out = args.floats(5);
    // Two loops: the product is rounded before the sum, as bitsandbytes does.
    for (long i = first; i < end; ++i) out[i] = args.floats(0)[args.bytes(1)[i]] * args.floats(2)[i / block];
    for (long i = first; i < end; ++i) out[i] += offset;
  });
}
