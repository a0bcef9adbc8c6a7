// The two products of attention, in registers: queries by keys, and weights by values.
#pragma once

#include "pages.h"

namespace {

using glinthawk::kBlock;
using glinthawk::kTilesPerBlock;

// As many sums as there are registers for, beside what is multiplied.
#if defined(__AVX512F__)
constexpr int kMaxRows = 6, kMaxVectors = 4;
#else
constexpr int kMaxRows = 2, kMaxVectors = 4;
#endif
constexpr int kVectorsPerTile = kTile / kLanes;

// Tiles that are met together.
struct Block {
  const uint8_t* tiles[kTilesPerBlock];  // absent ones repeat the first
  const float* scales[kTilesPerBlock];   // of the keys, then of the values
  int count;
  int64_t half_bytes;
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

// Cuts `[0, total)` into parts of nearly the same size.
template <int Max, class Use>
inline void in_parts(int total, Use use) {
  for (int parts = (total + Max - 1) / Max, start = 0; parts > 0; --parts) {
    const int size = (total - start + parts - 1) / parts;
    with_count<Max>(size, [&](auto count) { use(start, count); });
    start += size;
  }
}

// Scores of a block. While its keys are read, its values are fetched.
//
// Shapes: queries [kRows, padded] by keys -> scores [kRows, kBlock]
template <class Store, int kRows>
inline void multiply_keys(const Block& block, const typename Store::Operand* queries, int padded,
                          bool fetch, float* scores) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  const int steps = padded / kDepth;
  for (int first = 0; first < block.count * kVectorsPerTile; first += kMaxVectors) {
    const Element* keys[kMaxVectors];
    Vec sums[kRows][kMaxVectors] = {};
#pragma GCC unroll 8
    for (int v = 0; v < kMaxVectors; ++v) {
      const int vector = first + v;
      keys[v] = (const Element*)block.tiles[vector / kVectorsPerTile];
      keys[v] += vector % kVectorsPerTile * kLanes * kDepth;
    }
    for (int step = 0; step < steps; ++step) {
      typename Store::Lanes lanes[kMaxVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kMaxVectors; ++v) {
        lanes[v] = Store::read(keys[v]);
        if (fetch) PF((const uint8_t*)keys[v] + block.half_bytes);
        keys[v] += kTile * kDepth;
      }
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
        for (int v = 0; v < kMaxVectors; ++v) {
          sums[row][v] = Store::multiply_add(queries[row * steps + step], lanes[v], sums[row][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int v = 0; v < kMaxVectors; ++v) {
        store(scores + row * kBlock + (first + v) * kLanes, sums[row][v]);
      }
    }
  }
}

// Some lanes of the sums of some rows.
struct Sums {
  float* numbers;
  const float* decays;  // of each row, before anything is added
  int padded;
  int first;  // vector of lanes
};

// Adds a block's weighted values to sums. While they are read, the next block's keys are fetched.
//
// Shapes: weights [kRows, kBlock] by values -> sums [kRows, kVectors lanes of padded]
template <class Store, int kRows, int kVectors>
inline void multiply_values(const Block& block, const typename Store::Operand* weights,
                            const Block* next, const Sums& out) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  Vec sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[row][v] = load(out.numbers + row * out.padded + (out.first + v) * kLanes);
      sums[row][v] *= broadcast(out.decays[row]);
    }
  }
  for (int tile = 0; tile < block.count; ++tile) {
    const int64_t first_byte = out.first * kLanes * kDepth * sizeof(Element);
    const Element* values = (const Element*)(block.tiles[tile] + block.half_bytes + first_byte);
    const uint8_t* ahead = next ? next->tiles[tile] + first_byte : nullptr;
    for (int step = 0; step < kTile / kDepth; ++step) {
      typename Store::Lanes lanes[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        lanes[v] = Store::read(values + v * kLanes * kDepth);
        if (next) PF(ahead + v * kLanes * kDepth * sizeof(Element));
      }
      values += out.padded * kDepth;
      if (next) ahead += out.padded * kDepth * sizeof(Element);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const auto weight = weights[row * (kBlock / kDepth) + step];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          sums[row][v] = Store::multiply_add(weight, lanes[v], sums[row][v]);
        }
      }
    }
    weights += kTile / kDepth;
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      store(out.numbers + row * out.padded + (out.first + v) * kLanes, sums[row][v]);
    }
  }
}

}  // namespace
