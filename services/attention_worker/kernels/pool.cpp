#include "pool.h"

#include <pthread.h>
#include <sched.h>

namespace glinthawk {

namespace {

void pin(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

}  // namespace

Pool::Pool(int num_threads, const std::vector<int>& cpus) {
  pin(cpus);
  for (int worker = 1; worker < num_threads; ++worker) {
    threads_.emplace_back([this, worker, cpus] {
      pin(cpus);
      serve(worker);
    });
  }
}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  begin_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::run(int64_t count, const Work& work) {
  Pieces pieces(count);
  if (count > 1 && !threads_.empty()) {
    std::lock_guard lock(mutex_);
    work_ = &work;
    pieces_ = &pieces;
    ++generation_;
    begin_.notify_all();
  }
  work(0, pieces);
  // A thread that has not woken up yet is not waited for: there is nothing left to do.
  std::unique_lock lock(mutex_);
  work_ = nullptr;
  end_.wait(lock, [this] { return busy_ == 0; });
}

void Pool::serve(int worker) {
  int64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    begin_.wait(lock, [&] { return closing_ || (work_ && generation_ != seen); });
    if (closing_) return;
    seen = generation_;
    ++busy_;
    const Work& work = *work_;
    Pieces& pieces = *pieces_;
    lock.unlock();
    work(worker, pieces);
    lock.lock();
    if (--busy_ == 0) end_.notify_one();
  }
}

}  // namespace glinthawk
