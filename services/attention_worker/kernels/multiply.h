// The two products of attention, in registers: queries by keys, and weights by values.
#pragma once

#include "ahead.h"

namespace {

// As many sums as there are registers for, beside what is multiplied.
#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 6, kVectorsAtOnce = 4;
#else
constexpr int kRowsAtOnce = 4, kVectorsAtOnce = 2;
#endif
constexpr int kVectorsPerGroup = kGroup / kLanes;
constexpr int kVectorsPerBlock = kBlock / kLanes;
constexpr int kCacheLine = 64;

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

// Scores of a block.
//
// Shapes: queries [kRows, padded] by keys -> scores [kRows, kBlock]
template <class Store, int kRows>
inline void multiply_keys(const Layout& layout, const Block& block,
                          const typename Store::Operand* queries,
                          Ahead<typename Store::Element>* ahead, float* scores) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  const int steps = layout.padded / kDepth, stride = layout.tile * kDepth;
  for (int first = 0; first < block.count * kVectorsPerGroup; first += kVectorsAtOnce) {
    const Element* keys[kVectorsAtOnce];
    typename Store::Sum sums[kRows][kVectorsAtOnce] = {};
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsAtOnce; ++v) {
      const int group = (first + v) / kVectorsPerGroup;
      keys[v] = (const Element*)block.tiles[group] + block.tokens[group] * kDepth;
      keys[v] += (first + v) % kVectorsPerGroup * kLanes * kDepth;
    }
    const typename Store::Operand* query = queries;
    // Narrow vectors ask for more than they read: steps must come out even.
    constexpr int kBytes = kVectorsAtOnce * kLanes * kDepth * sizeof(Element);
    constexpr int kMost = kGroup / kDepth, kWanted = kStepBytes / kBytes;
    constexpr int kEach = kWanted < kMost ? kWanted : kMost;
    for (int left = steps / kEach; left > 0;) {
      const Lines lines = ahead ? ahead->take(left) : Lines{left, 0, {}};
      left -= lines.count;
      for (int turn = 0; turn < lines.count; ++turn) {
        lines.fetch(turn);
#pragma GCC unroll 16
        for (int i = 0; i < kEach; ++i, ++query) {
          typename Store::Lanes numbers[kVectorsAtOnce];
#pragma GCC unroll 8
          for (int v = 0; v < kVectorsAtOnce; ++v) {
            numbers[v] = Store::read(keys[v]);
            keys[v] += stride;
          }
#pragma GCC unroll 8
          for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
            for (int v = 0; v < kVectorsAtOnce; ++v) {
              sums[row][v] = Store::multiply_add(query[row * steps], numbers[v], sums[row][v]);
            }
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectorsAtOnce; ++v) {
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
  int first;  // lane
};

// Adds a block's weighted values to sums: lanes of one chunk.
//
// Shapes: weights [kRows, kBlock] by values -> sums [kRows, kVectors lanes of padded]
template <class Store, int kRows, int kVectors>
inline void multiply_values(const Layout& layout, const Block& block,
                            const typename Store::Operand* weights,
                            Ahead<typename Store::Element>* ahead, const Sums& out) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  typename Store::Sum sums[kRows][kVectors] = {};
  const int chunk = out.first / kChunk * kChunk, width = chunk_width(layout, chunk);
  const int groups_each = layout.tile / kGroup;  // that lie next to each other
  for (int group = 0; group < block.count; group += groups_each) {
    const Element* values = (const Element*)values_of<Element>(layout, block, group, chunk);
    values += (out.first - chunk) * kDepth;
    constexpr int kEach = kStepBytes / (kChunk * kDepth * sizeof(Element));
    const int num_groups = block.count - group < groups_each ? block.count - group : groups_each;
    for (int left = num_groups * kGroup / kDepth / kEach; left > 0;) {
      const Lines lines = ahead ? ahead->take(left) : Lines{left, 0, {}};
      left -= lines.count;
      for (int turn = 0; turn < lines.count; ++turn) {
        lines.fetch(turn);
#pragma GCC unroll 4
        for (int i = 0; i < kEach; ++i, ++weights) {
          typename Store::Lanes numbers[kVectors];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) numbers[v] = Store::read(values + v * kLanes * kDepth);
          values += width * kDepth;
#pragma GCC unroll 8
          for (int row = 0; row < kRows; ++row) {
            const auto weight = weights[row * (kBlock / kDepth)];
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) {
              sums[row][v] = Store::multiply_add(weight, numbers[v], sums[row][v]);
            }
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = out.numbers + row * layout.padded + out.first + v * kLanes;
      const Vec added = Store::to_float(sums[row][v]) * broadcast(out.factors[row]);
      store(to, multiply_add(load(to), broadcast(out.decays[row]), added));
    }
  }
}

}  // namespace
