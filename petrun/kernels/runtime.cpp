// The threads behind run_pieces, and scratch memory.

#include "runtime.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>
#include <thread>

namespace petrun {
namespace {

class Pool {
 public:
  explicit Pool(int workers) : workers_(workers) {
    for (int i = 0; i < workers; ++i) std::thread([this] { serve(); }).detach();
  }

  int workers() const { return workers_; }

  // False when another thread holds the pool: the caller then does its pieces alone.
  bool run(long pieces, void (*work)(long, void*), void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> guard(state_);
      work_ = work;
      context_ = context;
      pieces_ = pieces;
      failure_ = nullptr;
      next_.store(0);
      open_ = true;
      ++job_;
    }
    wake_.notify_all();
    take();
    // A worker that never woke up is not waited for: its pieces were taken by the others.
    std::unique_lock<std::mutex> guard(state_);
    open_ = false;
    idle_.wait(guard, [this] { return busy_ == 0; });
    if (failure_) std::rethrow_exception(failure_);
    return true;
  }

 private:
  // A piece may find no memory. On a worker nothing would catch it, and a caller that left early would take `context` from the others.
  void take() {
    try {
      for (long piece = next_++; piece < pieces_; piece = next_++) work_(piece, context_);
    } catch (...) {
      std::lock_guard<std::mutex> guard(state_);
      failure_ = std::current_exception();
    }
  }

  void serve() {
    const FlushSubnormals flush;
    long seen = 0;
    std::unique_lock<std::mutex> guard(state_);
    while (true) {
      wake_.wait(guard, [&] { return job_ != seen && open_; });
      seen = job_;
      ++busy_;
      guard.unlock();
      take();
      guard.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  const int workers_;
  std::mutex owner_, state_;
  std::condition_variable wake_, idle_;
  void (*work_)(long, void*) = nullptr;
  void* context_ = nullptr;
  long pieces_ = 0;
  std::atomic<long> next_{0};
  std::exception_ptr failure_;  // of a piece
  bool open_ = false;           // workers may still join the job
  long job_ = 0;
  int busy_ = 0;
};

// Pools are never destroyed: a thread blocked in one at exit, or after a change of size, stays valid.
std::atomic<Pool*> current{nullptr};
std::mutex* creation = new std::mutex;
std::atomic<int> wanted{0};

int default_threads() {
  cpu_set_t set;
  // Not OMP_NUM_THREADS: MindSpore sets it to 1 in every process that imports it.
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, std::min(cores, 64));
}

// A forked child inherits no threads, and maybe a locked mutex: it starts over.
void after_fork() {
  current.store(nullptr);
  creation = new std::mutex;
}

Pool* pool() {
  Pool* found = current.load();
  if (found != nullptr) return found;
  std::lock_guard<std::mutex> guard(*creation);
  found = current.load();
  if (found == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, after_fork);
    (void)registered;
    const int threads = wanted.load() > 0 ? wanted.load() : default_threads();
    found = new Pool(threads - 1);
    current.store(found);
  }
  return found;
}

struct Buffer {
  float* data = nullptr;
  size_t count = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void run_pieces(long pieces, void (*work)(long, void*), void* context) {
  if (pieces > 1) {
    Pool* threads = pool();
    if (threads->workers() > 0 && threads->run(pieces, work, context)) return;
  }
  for (long piece = 0; piece < pieces; ++piece) work(piece, context);
}

float* scratch(int slot, size_t count) {
  static thread_local Buffer buffers[16];
  Buffer& buffer = buffers[slot];
  if (buffer.count < count) {
    std::free(buffer.data);
    buffer.data = nullptr;
    buffer.count = 0;
    const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
    buffer.data = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (buffer.data == nullptr) throw std::bad_alloc();
    buffer.count = count;
  }
  return buffer.data;
}

}  // namespace petrun

// How many threads an operator may use; 0 restores the default, the process's cores.
extern "C" void petrun_set_threads(int threads) {
  petrun::wanted.store(threads);
  petrun::current.store(nullptr);
}

extern "C" int petrun_threads() { return petrun::pool()->workers() + 1; }
