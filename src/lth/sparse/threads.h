// Threads that wait for work between calls. The work of each thread depends only on the numbers of threads and tasks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lth {

class Pool {
 public:
  ~Pool() { resize(1); }

  int threads() const { return (int)workers_.size() + 1; }

  // Sets the number of threads, including the calling thread.
  void resize(int threads) {
    std::lock_guard<std::mutex> lock(busy_);
    {
      std::lock_guard<std::mutex> wait(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stop_ = false;
    for (int t = 1; t < threads; t++)
      workers_.emplace_back([this, t, seen = round_.load()]() mutable { serve(t, seen); });
  }

  // Calls f(t) for t from 0 to count - 1, at the same time; f(0) in the calling thread. A concurrent second
  // caller does all its work in its thread.
  template <typename F>
  void run(int count, const F& f) {
    std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
    if (count <= 1 || !lock.owns_lock() || count > threads()) {
      for (int t = 0; t < count; t++) f(t);
      return;
    }
    task_ = [&f, count](int t) {
      if (t < count) f(t);
    };
    left_.store((int)workers_.size(), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> wait(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    f(0);
    while (left_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

 private:
  static constexpr int SPINS = 20000;  // some hundred microseconds, longer than the pauses within and between updates

  void serve(int t, unsigned seen) {
    for (;;) {
      for (int i = 0; i < SPINS && round_.load(std::memory_order_acquire) == seen; i++) pause();
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> wait(mutex_);
        wake_.wait(wait, [&] { return stop_ || round_.load(std::memory_order_relaxed) != seen; });
        if (stop_ && round_.load(std::memory_order_relaxed) == seen) return;
      }
      seen = round_.load(std::memory_order_acquire);
      task_(t);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::function<void(int)> task_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> left_{0};
  bool stop_ = false;
};

// Never destroyed; its threads end with the process.
inline Pool& pool() {
  static Pool* const the = new Pool;
  return *the;
}

}  // namespace lth
