// What every operator shares: the arguments as MindSpore passes them, and the threads.
//
// An operator cuts its work into pieces that depend on the shapes alone and sums across pieces in a fixed order: its
// result is the same bits whatever the number of threads, and whichever threads they are (see FlushSubnormals).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>

namespace petrun {

// While it lives, this thread takes subnormal numbers (below 1.2e-38) as zero, in inputs and results. MindSpore's
// threads do so and Python's do not: without it, which thread takes a piece would decide the last bits.
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(read()) { write(before_ | kFlush); }
  ~FlushSubnormals() { write(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__x86_64__)
  using Word = unsigned;
  static constexpr Word kFlush = 0x8040;  // MXCSR: flush to zero, denormals are zeros
  static Word read() { return __builtin_ia32_stmxcsr(); }
  static void write(Word word) { __builtin_ia32_ldmxcsr(word); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kFlush = 1u << 24;  // FPCR: FZ
  static Word read() {
    Word word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(Word word) { __asm__ volatile("msr fpcr, %0" : : "r"(word)); }
#else
  using Word = int;
  static constexpr Word kFlush = 0;
  static Word read() { return 0; }
  static void write(Word) {}
#endif
  Word before_;
};

// Runs work(piece, context) for piece = 0 .. pieces-1, on this thread and idle ones; returns when all are done. What a piece throws, on
// whichever thread, is thrown when no other is at work any more.
void run_pieces(long pieces, void (*work)(long, void*), void* context);

template <class Work>
void parallel(long pieces, const Work& work) {
  run_pieces(
      pieces, [](long piece, void* context) { (*static_cast<const Work*>(context))(piece); },
      const_cast<Work*>(&work));
}

// Cuts 0 .. total-1 into ranges of `grain` and calls work(first, end) on each.
template <class Work>
void parallel_ranges(long total, long grain, const Work& work) {
  parallel((total + grain - 1) / grain, [&](long piece) {
    const long first = piece * grain;
    work(first, first + grain < total ? first + grain : total);
  });
}

// Products below which waking another thread costs more than it gains.
constexpr long kSerial = 1 << 18;

// This thread's scratch memory, 64-byte aligned, at least `count` floats; slots do not overlap.
float* scratch(int slot, size_t count);

// Inputs first, then outputs. MindSpore hands over contiguous buffers and their shapes.
class Arguments {
 public:
  Arguments(int count, void** params, int* ranks, int64_t** shapes, const char** dtypes)
      : count_(count), params_(params), ranks_(ranks), shapes_(shapes), dtypes_(dtypes) {}

  int count() const { return count_; }
  bool is(int i, const char* dtype) const { return std::strcmp(dtypes_[i], dtype) == 0; }
  float* floats(int i) const { return static_cast<float*>(params_[i]); }
  const int32_t* ints(int i) const { return static_cast<const int32_t*>(params_[i]); }
  const uint8_t* bytes(int i) const { return static_cast<const uint8_t*>(params_[i]); }
  long dim(int i, int axis) const { return shapes_[i][axis < 0 ? ranks_[i] + axis : axis]; }
  long size(int i) const {
    long total = 1;
    for (int axis = 0; axis < ranks_[i]; ++axis) total *= shapes_[i][axis];
    return total;
  }

 private:
  int count_;
  void** params_;
  int* ranks_;
  int64_t** shapes_;
  const char** dtypes_;
};

// Thrown by `expect`: the shapes or dtypes do not belong together. Better an error than memory beyond a buffer's end.
struct Mismatch {};
inline void expect(bool holds) {
  if (!holds) throw Mismatch{};
}

constexpr int kWrongArguments = 2;
constexpr int kOutOfMemory = 3;

}  // namespace petrun

// Defines the C entry `name` that MindSpore calls; the body sees `args` and returns nothing. `arity` counts inputs and
// outputs together. Every operator's first input is float32. MindSpore turns a result other than 0 into an exception.
#define PETRUN_OPERATOR(name, arity)                                                                        \
  static void name##_body(const petrun::Arguments& args);                                                   \
  extern "C" int petrun_##name(int count, void** params, int* ranks, int64_t** shapes, const char** dtypes, \
                               void*, void*) {                                                              \
    const petrun::Arguments args(count, params, ranks, shapes, dtypes);                                     \
    if (count != (arity) || !args.is(0, "float32")) return petrun::kWrongArguments;                         \
    const petrun::FlushSubnormals flush;                                                                    \
    try {                                                                                                   \
      name##_body(args);                                                                                    \
    } catch (const petrun::Mismatch&) {                                                                     \
      return petrun::kWrongArguments;                                                                       \
    } catch (const std::bad_alloc&) {                                                                       \
      return petrun::kOutOfMemory;                                                                          \
    }                                                                                                       \
    return 0;                                                                                               \
  }                                                                                                         \
  static void name##_body(const petrun::Arguments& args)
