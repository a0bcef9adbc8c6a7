// Threads that share out numbered pieces of work, and sleep in between.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace glinthawk {

// Numbers `[0, count)`, each for the first who asks.
class Pieces {
 public:
  explicit Pieces(int64_t count) : count_(count) {}

  // Gives the next one; `count` or more if there is none left.
  int64_t claim() { return next_.fetch_add(1, std::memory_order_relaxed); }
  int64_t count() const { return count_; }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
};

class Pool {
 public:
  using Work = std::function<void(int worker, Pieces& pieces)>;

  // Whoever calls `run` is one of the threads. They run on `cpus`, or anywhere if that is empty.
  Pool(int num_threads, const std::vector<int>& cpus);
  ~Pool();
  Pool(const Pool&) = delete;

  int size() const { return (int)threads_.size() + 1; }

  // Lets threads claim pieces, and returns when all of them are done.
  void run(int64_t count, const Work& work);

 private:
  void serve(int worker);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable begin_, end_;
  const Work* work_ = nullptr;
  Pieces* pieces_ = nullptr;
  int64_t generation_ = 0;
  int busy_ = 0;
  bool closing_ = false;
};

}  // namespace glinthawk
