// Makes the kernels of the instruction set that a translation unit is compiled for.
#pragma once

#include "attend.h"
#include "finish.h"

namespace {

inline uint64_t read_all(const uint8_t* memory, int64_t bytes) {
  typedef uint64_t Words __attribute__((vector_size(kLanes * 4)));
  constexpr int kUnroll = 8;
  Words sums[kUnroll] = {};
  for (int64_t at = 0; at + (int64_t)sizeof sums <= bytes; at += sizeof sums) {
    for (int i = 0; i < kUnroll; ++i) sums[i] += load_as<Words>(memory + at + i * sizeof(Words));
  }
  uint64_t sum = 0;
  for (int i = 0; i < kUnroll; ++i) {
    for (int lane = 0; lane < kLanes / 2; ++lane) sum += sums[i][lane];
  }
  return sum;
}

template <class Store>
void attend(const AttendJob& job, float* partial, uint8_t* scratch) {
  Attention<Store>(job, partial, scratch).run();
}

template <class Store>
constexpr glinthawk::Kernel make_kernel() {
  return {write_rows<Store>, attend<Store>, finish_rows};
}

template <class Bf16Store, class Int8Store>
constexpr glinthawk::KernelTable make_kernels() {
  return {{make_kernel<Bf16Store>(), make_kernel<FloatStore<Fp16>>(),
           make_kernel<FloatStore<float>>(), make_kernel<Int8Store>()},
          read_all};
}

}  // namespace
