// How keys and values are stored, and how they are multiplied: a `Store` per dtype.
//
// A store multiplies `kDepth` neighbours in one step. So a tile of keys is
// [padded / kDepth][kTile][kDepth], a tile of values [kTile / kDepth][padded][kDepth], and what is
// on the left of a product (queries, weights) is [rows][numbers / kDepth] of `Operand`.
#pragma once

#include "simd.h"

namespace {

// Becomes float when it is read; every instruction set can do it.
template <class T>
struct FloatStore {
  using Element = T;
  using Operand = float;
  using Lanes = Vec;
  using Unpacked = FloatStore<float>;
  static constexpr int kDepth = 1;

  static Lanes read(const Element* from) { return widen_lanes(from); }
  static void write(Lanes lanes, float* to) { store(to, lanes); }
  static Vec multiply_add(Operand left, Lanes right, Vec sum) {
    return ::multiply_add(broadcast(left), right, sum);
  }
  static void narrow(Vec from, float* row, int index) { store(row + index, from); }
};

#if defined(__AVX512BF16__)

struct Pair {
  Bf16 even, odd;
};

// Two neighbours per step and lane, by the instruction for dot products of bf16.
struct DotMath {
  using Operand = Pair;
  using Lanes = __m512bh;
  static constexpr int kDepth = 2;

  static Vec multiply_add(Operand left, Lanes right, Vec sum) {
    const __m512i lefts = _mm512_set1_epi32(load_as<int32_t>(&left));
    return _mm512_dpbf16_ps(sum, (__m512bh)lefts, right);
  }
  static void write(Lanes lanes, Bf16* to) { store_as(to, lanes); }
  static void narrow(Vec from, Pair* row, int index) {
    store_as((Bf16*)row + index, _mm512_cvtneps_pbh(from));
  }
};

struct Bf16DotStore : DotMath {
  using Element = Bf16;
  using Unpacked = Bf16DotStore;

  static Lanes read(const Element* from) { return load_as<__m512bh>(from); }
};

// An int8 has few enough digits to be a bf16: nothing is lost.
struct Int8DotStore : DotMath {
  using Element = int8_t;
  using Unpacked = Bf16DotStore;

  static Lanes read(const Element* from) {
    const __m256i bytes = load_as<__m256i>(from);
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
    return _mm512_cvtne2ps_pbh(high, low);
  }
};

#endif

}  // namespace
