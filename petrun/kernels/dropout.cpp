// x * keep / (1 - p). The gradient is the same operator on dy.


#include "counter_hash.h"
#include "runtime.h"

using namespace petrun;

// (x, step, place (2,) int32, key (3,) int32, 1 / (1 - p)) -> y
PETRUN_OPERATOR(dropout, 6) {
  const float* x = args.floats(0);
  const KeepMask keep(args.ints(3), args.ints(1)[0], args.ints(2), args.size(0));
  const float factor = args.floats(4)[0];
  float* y = args.floats(5);
  parallel_ranges(args.size(0), 1 << 14, [&](long i, long end) {
    for (; i + kLanes <= end; i += kLanes) store(y + i, keep(i) ? load(x + i) * factor : Vec{});
    if (i < end) store_part(y + i, keep(i) ? load_part(x + i, end - i) * factor : Vec{}, end - i);
  });
}
