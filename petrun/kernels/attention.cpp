// The attention core, forward and backward, a block of queries at a time: of the T x S probabilities only one block
// exists, and the backward pass computes it again from the row's largest score and sum.

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>

#include "counter_hash.h"
#include "matrix.h"
#include "runtime.h"

using namespace petrun;

namespace {

constexpr long kQueries = 64;  // rows of one block: its scores stay in the second-level cache

long padded(long n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Slots of scratch memory.
enum Slot { kKeys, kKeysT, kValues, kValuesT, kQuery, kProbs, kOut, kDout, kDprobs, kDquery, kDkeys, kDvalues, kMask };

struct Shape {
  long batch, heads, kv_heads, queries, keys, width;
  long wide, span;  // width and keys, padded to whole vectors

  explicit Shape(const Arguments& args)
      : batch(args.dim(0, 0)), heads(args.dim(0, 1)), kv_heads(args.dim(1, 1)), queries(args.dim(0, 2)),
        keys(args.dim(1, 2)), width(args.dim(0, 3)), wide(padded(width)), span(padded(keys)) {
    expect(kv_heads > 0 && heads % kv_heads == 0 && args.dim(1, 0) == batch && args.dim(1, 3) == width);
    expect(args.is(1, "float32") && args.is(2, "float32") && args.size(2) == args.size(1));
    expect(args.is(3, "bool") && args.size(3) == batch * queries * keys);
  }
};

// rows x width -> rows x wide, zeros behind.
const float* widen(const float* from, long rows, long width, long wide, float* to) {
  if (width == wide) return from;
  for (long r = 0; r < rows; ++r) {
    std::memcpy(to + r * wide, from + r * width, width * sizeof(float));
    std::fill(to + r * wide + width, to + (r + 1) * wide, 0.0f);
  }
  return to;
}

void narrow(const float* from, long rows, long width, long wide, float* to) {
  for (long r = 0; r < rows; ++r) std::memcpy(to + r * width, from + r * wide, width * sizeof(float));
}

// rows x width -> width x span, zeros behind.
const float* transpose(const float* from, long rows, long width, long span, float* to) {
  for (long i = 0; i < width; ++i) {
    float* line = to + i * span;
    for (long r = 0; r < rows; ++r) line[r] = from[r * width + i];
    std::fill(line + rows, line + span, 0.0f);
  }
  return to;
}

// One block of rows: its mask with zeros behind every row, and the columns that any of them sees, in whole vectors.
struct Block {
  const uint8_t* mask;
  long first, end;

  Block(const uint8_t* from, long rows, const Shape& s) : mask(from) {
    if (s.keys != s.span) {
      auto* copy = reinterpret_cast<uint8_t*>(scratch(kMask, (kQueries * s.span + 3) / 4));
      for (long r = 0; r < rows; ++r) {
        std::memcpy(copy + r * s.span, from + r * s.keys, s.keys);
        std::memset(copy + r * s.span + s.keys, 0, s.span - s.keys);
      }
      mask = copy;
    }
    long low = s.span, high = 0;
    for (long r = 0; r < rows; ++r) {
      const uint8_t* row = mask + r * s.span;
      long i = 0;
      while (i < low && row[i] == 0) ++i;
      low = std::min(low, i);
      long j = s.keys;
      while (j > high && row[j - 1] == 0) --j;
      high = std::max(high, j);
    }
    first = low / kLanes * kLanes;
    end = std::max(first, padded(high));
  }
};

// What the product of queries and keys is added to: 0, or with ALiBi (input 4 holds the scale, then a slope for each head) slope / scale
// times the number of a key among those that its query sees.
bool start_scores(const Arguments& args, const Shape& s, const Block& block, long head, long rows, float* scores) {
  if (args.size(4) == 1) return false;
  const float slope = args.floats(4)[1 + head % s.heads] / args.floats(4)[0];
  for (long r = 0; r < rows; ++r) {
    long seen = 0;
    for (long j = block.first; j < block.end; ++j) {
      seen += block.mask[r * s.span + j] != 0;
      scores[r * s.span + j] = slope * static_cast<float>(seen);
    }
  }
  return true;
}

// A row's softmax is exp(score - most) * factor.
struct RowScale {
  float most, factor;
};

// Scores -> probabilities in place, over the visible positions.
RowScale softmax_row(float* row, const uint8_t* mask, const Block& block, float scale) {
  const Vec hidden = splat(-std::numeric_limits<float>::infinity());
  Vec best = hidden;
  for (long j = block.first; j < block.end; j += kLanes) {
    const Vec x = load_mask(mask + j) ? load(row + j) * scale : hidden;
    store(row + j, x);
    best = larger(x, best);
  }
  const float most = largest(best);
  if (most == -std::numeric_limits<float>::infinity()) {
    // Nothing visible, or all visible scores are NaN or -inf: exp(x - 0) gives 0, or NaN to be seen.
    for (long j = block.first; j < block.end; j += kLanes) store(row + j, exp(load(row + j)));
    return {0.0f, 1.0f};
  }
  Vec total{};
  for (long j = block.first; j < block.end; j += kLanes) {
    const Vec e = exp(load(row + j) - most);
    store(row + j, e);
    total += e;
  }
  const float factor = 1.0f / sum(total);
  for (long j = block.first; j < block.end; j += kLanes) store(row + j, load(row + j) * factor);
  return {most, factor};
}

struct Dropout {
  KeepMask keep;
  float factor;
};

// One block of queries of one head: out = dropout(softmax(q k^T)) v.
void forward_block(const Shape& s, const Arguments& args, float scale, const std::optional<Dropout>& dropout, long head,
                   long first, float* out, RowScale* row_scales) {
  const long b = head / s.heads, kv = b * s.kv_heads + head % s.heads / (s.heads / s.kv_heads);
  const long rows = std::min(kQueries, s.queries - first);
  const float* q = args.floats(0) + (head * s.queries + first) * s.width;
  const Block block(args.bytes(3) + (b * s.queries + first) * s.keys, rows, s);
  const float* keys =
      transpose(args.floats(1) + kv * s.keys * s.width, s.keys, s.width, s.span, scratch(kKeysT, s.width * s.span));
  const float* values =
      widen(args.floats(2) + kv * s.keys * s.width, s.keys, s.width, s.wide, scratch(kValues, s.keys * s.wide));
  float* probs = scratch(kProbs, kQueries * s.span);
  const bool started = start_scores(args, s, block, head, rows, probs);
  product(rows, block.end - block.first, s.width, q, s.width, 1, keys + block.first, s.span, probs + block.first,
          s.span, started);
  for (long r = 0; r < rows; ++r) {
    float* row = probs + r * s.span;
    row_scales[head * s.queries + first + r] = softmax_row(row, block.mask + r * s.span, block, scale);
    if (!dropout) continue;
    const uint32_t flat = static_cast<uint32_t>((head * s.queries + first + r) * s.keys);
    for (long j = block.first; j < block.end; j += kLanes) {
      store(row + j, dropout->keep(flat + j) ? load(row + j) * dropout->factor : Vec{});
    }
  }
  float* result = scratch(kOut, kQueries * s.wide);
  const long depth = std::min(block.end, s.keys) - block.first;
  product(rows, s.wide, std::max(0L, depth), probs + block.first, s.span, 1, values + block.first * s.wide, s.wide,
          result, s.wide, false);
  narrow(result, rows, s.width, s.wide, out + (head * s.queries + first) * s.width);
}

// One query of one head, as in generation: keys and values are read where they lie, from the first to the last that is visible.
void forward_one(const Shape& s, const Arguments& args, float scale, long head, float* out, RowScale* row_scales) {
  const long b = head / s.heads, kv = b * s.kv_heads + head % s.heads / (s.heads / s.kv_heads);
  const uint8_t* mask = args.bytes(3) + b * s.keys;
  const float *q = args.floats(0) + head * s.width, *keys = args.floats(1) + kv * s.keys * s.width;
  const float *values = args.floats(2) + kv * s.keys * s.width, hidden = -std::numeric_limits<float>::infinity();
  long first = 0, end = s.keys;
  while (first < end && mask[first] == 0) ++first;
  while (end > first && mask[end - 1] == 0) --end;
  float* probs = scratch(kProbs, s.span + kLanes);
  float most = hidden, number = 0.0f;
  const float slope = args.size(4) == 1 ? 0.0f : args.floats(4)[1 + head % s.heads];  // ALiBi, as in start_scores
  for (long j = first; j < end; ++j) {
    Vec total{};
    long i = 0;
    for (; i + kLanes <= s.width; i += kLanes) total += load(q + i) * load(keys + j * s.width + i);
    if (i < s.width) total += load_part(q + i, s.width - i) * load_part(keys + j * s.width + i, s.width - i);
    number += mask[j] != 0 ? 1.0f : 0.0f;
    probs[j - first] = mask[j] ? sum(total) * scale + slope * number : hidden;
    most = probs[j - first] > most ? probs[j - first] : most;
  }
  std::fill(probs + (end - first), probs + padded(end - first), hidden);
  const bool seen = most != hidden;
  // Nothing visible, or all visible scores are NaN or -inf: exp(x - 0) gives 0, or NaN to be seen.
  Vec total{};
  for (long j = 0; j < end - first; j += kLanes) {
    const Vec e = exp(load(probs + j) - (seen ? most : 0.0f));
    store(probs + j, e);
    total += e;
  }
  const float factor = seen ? 1.0f / sum(total) : 1.0f;
  row_scales[head] = {seen ? most : 0.0f, factor};
  for (long i = 0; i < s.width; i += kLanes) {
    const long lanes = std::min<long>(kLanes, s.width - i);
    Vec sum_of_values{};
    for (long j = first; j < end; ++j) {
      // A hidden value may be anything, NaN too.
      if (mask[j] == 0) continue;
      const float* value = values + j * s.width + i;
      sum_of_values += probs[j - first] * (lanes == kLanes ? load(value) : load_part(value, lanes));
    }
    store_part(out + head * s.width + i, sum_of_values * factor, lanes);
  }
}

void forward(const Arguments& args, float scale, const std::optional<Dropout>& dropout, float* out, float* scales) {
  auto* row_scales = reinterpret_cast<RowScale*>(scales);
  const Shape s(args);
  if (s.queries == 1 && !dropout) {
    // Few keys are not worth another thread.
    const long grain = std::max(1L, kSerial / (2 * s.keys * s.width));
    parallel_ranges(s.batch * s.heads, grain, [&](long begin, long end) {
      for (long head = begin; head < end; ++head) forward_one(s, args, scale, head, out, row_scales);
    });
    return;
  }
  const long blocks = (s.queries + kQueries - 1) / kQueries;
  parallel(s.batch * s.heads * blocks, [&](long piece) {
    forward_block(s, args, scale, dropout, piece / blocks, piece % blocks * kQueries, out, row_scales);
  });
}

// Probabilities and their gradients of one row -> gradients of the scores, in dprobs; probs become what v was weighted
// with. p = softmax, w = p * keep / (1 - rate), dw = dout v^T:
//     ds = scale * p * (dp - sum(p dp)),  dp = dw * keep / (1 - rate).
// The scores are computed anew, and round in another way than those of row.factor did: p is divided by its sum once more, or what all dp of
// a row have in common, often most of them, would not cancel.
void score_gradient(float* probs, float* dprobs, const uint8_t* mask, const Block& block, float scale, RowScale row,
                    const std::optional<Dropout>& dropout, uint32_t flat) {
  Vec total{}, weights{};
  for (long j = block.first; j < block.end; j += kLanes) {
    const Vec p = load_mask(mask + j) ? exp(load(probs + j) * scale - row.most) * row.factor : Vec{};
    Vec dp = load(dprobs + j);
    if (dropout) {
      dp = dropout->keep(flat + j) ? dp * dropout->factor : Vec{};
      store(dprobs + j, dp);
    }
    store(probs + j, p);
    total += p * dp;
    weights += p;
  }
  // A row that sees nothing has no weights.
  const float weight = sum(weights), inverse = weight > 0.0f ? 1.0f / weight : 1.0f, mean = sum(total) * inverse;
  for (long j = block.first; j < block.end; j += kLanes) {
    Vec p = load(probs + j) * inverse;
    store(dprobs + j, p * (load(dprobs + j) - mean) * scale);
    if (dropout) p = dropout->keep(flat + j) ? p * dropout->factor : Vec{};
    store(probs + j, p);
  }
}

// All queries that read one key/value head, in order: dk and dv sum over them.
class Backward {
 public:
  Backward(const Shape& s, const Arguments& args, float scale, const std::optional<Dropout>& dropout, long kv)
      : s_(s), args_(args), scale_(scale), dropout_(dropout), kv_(kv) {
    const float* k = args.floats(1) + kv * s.keys * s.width;
    const float* v = args.floats(2) + kv * s.keys * s.width;
    keys_ = widen(k, s.keys, s.width, s.wide, scratch(kKeys, s.keys * s.wide));
    keys_t_ = transpose(k, s.keys, s.width, s.span, scratch(kKeysT, s.width * s.span));
    values_t_ = transpose(v, s.keys, s.width, s.span, scratch(kValuesT, s.width * s.span));
    dkeys_ = scratch(kDkeys, s.keys * s.wide);
    dvalues_ = scratch(kDvalues, s.keys * s.wide);
    std::fill(dkeys_, dkeys_ + s.keys * s.wide, 0.0f);
    std::fill(dvalues_, dvalues_ + s.keys * s.wide, 0.0f);
  }

  void block(long head, long first, const RowScale* row_scales, const float* dout, float* dq) {
    const Shape& s = s_;
    const long rows = std::min(kQueries, s.queries - first), at = head * s.queries + first;
    const Block block(args_.bytes(3) + (head / s.heads * s.queries + first) * s.keys, rows, s);
    const long columns = block.end - block.first;
    const long seen = std::max(0L, std::min(block.end, s.keys) - block.first);
    const float* query =
        widen(args_.floats(0) + at * s.width, rows, s.width, s.wide, scratch(kQuery, kQueries * s.wide));
    const float* d = widen(dout + at * s.width, rows, s.width, s.wide, scratch(kDout, kQueries * s.wide));
    float* probs = scratch(kProbs, kQueries * s.span);
    float* dprobs = scratch(kDprobs, kQueries * s.span);
    const bool started = start_scores(args_, s, block, head, rows, probs);
    product(rows, columns, s.width, query, s.wide, 1, keys_t_ + block.first, s.span, probs + block.first, s.span,
            started);
    product(rows, columns, s.width, d, s.wide, 1, values_t_ + block.first, s.span, dprobs + block.first, s.span, false);
    for (long r = 0; r < rows; ++r) {
      score_gradient(probs + r * s.span, dprobs + r * s.span, block.mask + r * s.span, block, scale_,
                     row_scales[at + r], dropout_, static_cast<uint32_t>((at + r) * s.keys));
    }
    float* dquery = scratch(kDquery, kQueries * s.wide);
    product(rows, s.wide, seen, dprobs + block.first, s.span, 1, keys_ + block.first * s.wide, s.wide, dquery, s.wide,
            false);
    narrow(dquery, rows, s.width, s.wide, dq + at * s.width);
    product(seen, s.wide, rows, dprobs + block.first, 1, s.span, query, s.wide, dkeys_ + block.first * s.wide, s.wide,
            true);
    product(seen, s.wide, rows, probs + block.first, 1, s.span, d, s.wide, dvalues_ + block.first * s.wide, s.wide,
            true);
  }

  void finish(float* dk, float* dv) const {
    narrow(dkeys_, s_.keys, s_.width, s_.wide, dk + kv_ * s_.keys * s_.width);
    narrow(dvalues_, s_.keys, s_.width, s_.wide, dv + kv_ * s_.keys * s_.width);
  }

 private:
  const Shape& s_;
  const Arguments& args_;
  float scale_;
  const std::optional<Dropout>& dropout_;
  long kv_;
  const float *keys_, *keys_t_, *values_t_;
  float *dkeys_, *dvalues_;
};

void backward(const Arguments& args, float scale, const std::optional<Dropout>& dropout, const float* scales,
              const float* dout, float* dq, float* dk, float* dv) {
  const auto* row_scales = reinterpret_cast<const RowScale*>(scales);
  const Shape s(args);
  const long groups = s.heads / s.kv_heads;
  parallel(s.batch * s.kv_heads, [&](long kv) {
    Backward pass(s, args, scale, dropout, kv);
    for (long g = 0; g < groups; ++g) {
      const long head = kv / s.kv_heads * s.heads + kv % s.kv_heads * groups + g;
      for (long first = 0; first < s.queries; first += kQueries) pass.block(head, first, row_scales, dout, dq);
    }
    pass.finish(dk, dv);
  });
}

}  // namespace

// (q (B,N,T,D), k (B,Nkv,S,D), v, mask (B,1,T,S) bool, scale) -> out (B,N,T,D), row scales (B,N,T,2)
PETRUN_OPERATOR(attention, 7) { forward(args, args.floats(4)[0], std::nullopt, args.floats(5), args.floats(6)); }

// (q, k, v, mask, scale, row scales, dout) -> dq, dk, dv
PETRUN_OPERATOR(attention_grad, 10) {
  backward(args, args.floats(4)[0], std::nullopt, args.floats(5), args.floats(6), args.floats(7), args.floats(8),
           args.floats(9));
}

// Inputs 5 to 8: step, place (2,), key (3,), 1 / (1 - p). Masks are those of the probabilities, (B, N, T, S).
static Dropout dropout_of(const Arguments& args) {
  const Shape s(args);
  const long size = s.batch * s.heads * s.queries * s.keys;
  return {KeepMask(args.ints(7), args.ints(5)[0], args.ints(6), size), args.floats(8)[0]};
}

// (q, k, v, mask, scale, step, place, key, 1 / (1 - p)) -> out, row scales
PETRUN_OPERATOR(attention_dropout, 11) {
  forward(args, args.floats(4)[0], dropout_of(args), args.floats(9), args.floats(10));
}

// (q, k, v, mask, scale, step, place, key, 1 / (1 - p), row scales, dout) -> dq, dk, dv
PETRUN_OPERATOR(attention_dropout_grad, 14) {
  backward(args, args.floats(4)[0], dropout_of(args), args.floats(9), args.floats(10), args.floats(11), args.floats(12),
           args.floats(13));
}
