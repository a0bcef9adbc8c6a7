// The two products of attention, in registers: queries by keys, and weights by values.
#pragma once

#include "pages.h"

namespace {

using glinthawk::kGroups;

// As many sums as there are registers for, beside what is multiplied. Vectors of keys lie in
// several groups, those of values next to each other: the more at once, the longer the stretch.
#if defined(__AVX512F__)
constexpr int kKeyRows = 6, kKeyVectors = 4;
constexpr int kValueRows = 3, kValueVectors = 8;
#else
constexpr int kKeyRows = 4, kKeyVectors = 2;
constexpr int kValueRows = 4, kValueVectors = 2;
#endif
constexpr int kVectorsPerGroup = kGroup / kLanes;
constexpr int kVectorsPerBlock = kBlock / kLanes;
constexpr int kCacheLine = 64;

// Where the groups of a block lie; absent ones are somewhere in the pool.
struct Block {
  int count;     // of groups that are present
  int key_step;  // from one key number to the next, in numbers
  int64_t stretch_bytes;
  const uint8_t* keys[kGroups];
  const uint8_t* values[kGroups];
  const float* key_scales[kGroups];
  const float* value_scales[kGroups];
  const uint8_t* key_stretches[kGroups];  // of memory, as long as the values of a group
};

template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls `use` with a number in `[1, Max]` as one that the compiler knows.
template <int Max, class Use>
inline void with_count(int number, Use use) {
  if constexpr (Max > 1) {
    if (number < Max) return with_count<Max - 1>(number, use);
  }
  use(Count<Max>{});
}

template <int Max>
constexpr int num_parts(int total) {
  return (total + Max - 1) / Max;
}

// Cuts `[0, total)` into parts of nearly the same size.
template <int Max, class Use>
inline void in_parts(int total, Use use) {
  for (int parts = num_parts<Max>(total), start = 0; parts > 0; --parts) {
    const int size = (total - start + parts - 1) / parts;
    with_count<Max>(size, [&](auto count) { use(start, count); });
    start += size;
  }
}

// Asks for what comes next before it is read, little by little, the next block included: by the
// processor's own guesses alone, memory rests at the end of every stretch and in between.
class Ahead {
 public:
  Ahead(const Block& block, const Block& next) : stretch_bytes_(block.stretch_bytes) {
    for (int group = 0; group < kGroups; ++group) {
      stretches_[group] = block.key_stretches[group];
      stretches_[kGroups + group] = block.values[group];
      stretches_[2 * kGroups + group] = next.key_stretches[group];
      stretches_[3 * kGroups + group] = next.values[group];
    }
    const int64_t distance = kDistance < 2 * total_bytes() ? kDistance : 2 * total_bytes();
    next_ = distance / stretch_bytes_;
    advance();
    at_ += distance % stretch_bytes_;
  }

  // Of a block's keys, or of its values.
  int64_t total_bytes() const { return kGroups * stretch_bytes_; }

  // Asks for about so many more bytes.
  void fetch(int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(at_ + at);
    at_ += bytes;
    if (at_ >= end_) advance();
  }

 private:
  // Bytes between what is asked for and what is read: measured, with 48 KiB of first-level cache.
  static constexpr int64_t kDistance = 16 << 10;

  void advance() {
    at_ = stretches_[next_];
    end_ = at_ + stretch_bytes_;
    if (next_ < 4 * kGroups - 1) ++next_;
  }

  const int64_t stretch_bytes_;
  const uint8_t* stretches_[4 * kGroups];
  int next_;
  const uint8_t *at_, *end_;
};

// Scores of a block.
//
// Shapes: queries [kRows, padded] by keys -> scores [kRows, kBlock]
template <class Store, int kRows>
inline void multiply_keys(const Block& block, const typename Store::Operand* queries, int padded,
                          Ahead* ahead, float* scores) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  constexpr int kBytes = kKeyVectors * kLanes * kDepth * sizeof(Element);
  const int steps = padded / kDepth;
  for (int first = 0; first < block.count * kVectorsPerGroup; first += kKeyVectors) {
    const Element* keys[kKeyVectors];
    typename Store::Sum sums[kRows][kKeyVectors] = {};
#pragma GCC unroll 8
    for (int v = 0; v < kKeyVectors; ++v) {
      keys[v] = (const Element*)block.keys[(first + v) / kVectorsPerGroup];
      keys[v] += (first + v) % kVectorsPerGroup * kLanes * kDepth;
    }
    const typename Store::Operand* query = queries;
    for (int group = 0; group < kGroups; ++group) {
      for (int step = 0; step < steps / kGroups; ++step, ++query) {
        if (ahead) ahead->fetch(kBytes);
        typename Store::Lanes lanes[kKeyVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kKeyVectors; ++v) {
          lanes[v] = Store::read(keys[v]);
          keys[v] += block.key_step * kDepth;
        }
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
          for (int v = 0; v < kKeyVectors; ++v) {
            sums[row][v] = Store::multiply_add(query[row * steps], lanes[v], sums[row][v]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int v = 0; v < kKeyVectors; ++v) {
        store(scores + row * kBlock + (first + v) * kLanes, Store::to_float(sums[row][v]));
      }
    }
  }
}

// Some lanes of the sums of some rows.
struct Sums {
  float* numbers;
  const float* decays;   // of each row: what the sums shrink by
  const float* factors;  // of each row: what is added grows by
  int padded;
  int first;  // vector of lanes
};

// Adds a block's weighted values to sums.
//
// Shapes: weights [kRows, kBlock] by values -> sums [kRows, kVectors lanes of padded]
template <class Store, int kRows, int kVectors>
inline void multiply_values(const Block& block, const typename Store::Operand* weights,
                            Ahead& ahead, int64_t step_bytes, const Sums& out) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  typename Store::Sum sums[kRows][kVectors] = {};
  for (int group = 0; group < block.count; ++group) {
    const Element* values = (const Element*)block.values[group] + out.first * kLanes * kDepth;
    for (int step = 0; step < kGroup / kDepth; ++step) {
      ahead.fetch(step_bytes);
      typename Store::Lanes lanes[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) lanes[v] = Store::read(values + v * kLanes * kDepth);
      values += out.padded * kDepth;
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const auto weight = weights[row * (kBlock / kDepth) + step];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          sums[row][v] = Store::multiply_add(weight, lanes[v], sums[row][v]);
        }
      }
    }
    weights += kGroup / kDepth;
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = out.numbers + row * out.padded + (out.first + v) * kLanes;
      const Vec added = Store::to_float(sums[row][v]) * broadcast(out.factors[row]);
      store(to, multiply_add(load(to), broadcast(out.decays[row]), added));
    }
  }
}

}  // namespace
