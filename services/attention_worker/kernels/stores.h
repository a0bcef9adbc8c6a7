// How keys and values are stored, and how they are multiplied: a `Store` per dtype.
//
// A store multiplies `kDepth` neighbours in one step. So a tile of keys is
// [padded / kDepth][tile][kDepth], and a tile of values, for each kChunk of their numbers,
// [tile / kDepth][kChunk][kDepth]. What is on the left of a product (queries, weights) is
// [rows][numbers / kDepth] of `Operand`: `round` makes it of numbers up to `kLargest`, and `narrow`
// of any, with a factor per row.
#pragma once

#include "simd.h"

namespace {

// Becomes float when it is read; every instruction set can do it.
template <class T>
struct FloatStore {
  using Element = T;
  using Operand = float;
  using Lanes = Vec;
  using Sum = Vec;
  static constexpr int kDepth = 1;
  static constexpr float kLargest = 1;  // any would do

  static Lanes read(const Element* from) { return widen_lanes(from); }
  static Sum multiply_add(Operand left, Lanes right, Sum sum) {
    return ::multiply_add(broadcast(left), right, sum);
  }
  static Vec to_float(Sum sum) { return sum; }
  static void round(const Vec* from, int vectors, Operand* to) {
    for (int v = 0; v < vectors; ++v) store(to + v * kLanes, from[v]);
  }
  static float narrow(const Vec* from, int vectors, Operand* to) {
    round(from, vectors, to);
    return 1;
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)

// Two neighbours per step and lane, by the instruction for dot products of bf16.
struct Bf16DotStore {
  struct Operand {
    Bf16 even, odd;
  };
  using Element = Bf16;
  using Lanes = __m512bh;
  using Sum = Vec;
  static constexpr int kDepth = 2;
  static constexpr float kLargest = 1;  // any would do

  static Lanes read(const Element* from) { return load_as<__m512bh>(from); }
  static Sum multiply_add(Operand left, Lanes right, Sum sum) {
    const __m512i lefts = _mm512_set1_epi32(load_as<int32_t>(&left));
    return _mm512_dpbf16_ps(sum, (__m512bh)lefts, right);
  }
  static Vec to_float(Sum sum) { return sum; }
  static void round(const Vec* from, int vectors, Operand* to) {
    for (int v = 0; v < vectors; ++v) {
      store_as(to + v * kLanes / kDepth, _mm512_cvtneps_pbh(from[v]));
    }
  }
  static float narrow(const Vec* from, int vectors, Operand* to) {
    round(from, vectors, to);
    return 1;
  }
};

// Two neighbours per step and lane, exactly, by the instruction for dot products of int16: an int8
// becomes one for nothing, and 15 bits are more than a bf16 has. With at most 2^8 numbers to a sum
// of products below 2^22, no sum overflows.
struct Int8DotStore {
  struct Operand {
    int16_t even, odd;
  };
  using Element = int8_t;
  using Lanes = __m512i;
  using Sum = IntVec;
  static constexpr int kDepth = 2;
  static constexpr float kLargest = 32767;

  static Lanes read(const Element* from) {
    return _mm512_cvtepi8_epi16(load_as<__m256i>(from));
  }
  static Sum multiply_add(Operand left, Lanes right, Sum sum) {
    const __m512i lefts = _mm512_set1_epi32(load_as<int32_t>(&left));
    // The intrinsic takes another type, and gcc copies every sum back and forth between the two.
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(lefts), "v"(right));
    return sum;
  }
  static Vec to_float(Sum sum) { return __builtin_convertvector(sum, Vec); }
  static void round(const Vec* from, int vectors, Operand* to) {
    for (int v = 0; v < vectors; ++v) {
      const __m512i rounded = _mm512_cvtps_epi32(from[v]);
      store_as(to + v * kLanes / kDepth, _mm512_cvtsepi32_epi16(rounded));
    }
  }
  static float narrow(const Vec* from, int vectors, Operand* to) {
    Vec sizes = {};
    __mmask16 is_nan = 0;
    for (int v = 0; v < vectors; ++v) {
      sizes = larger(_mm512_abs_ps(from[v]), sizes);
      is_nan |= _mm512_cmp_ps_mask(from[v], from[v], _CMP_UNORD_Q);
    }
    const float peak = largest(sizes);
    const Vec inverse = broadcast(peak > 0 ? kLargest / peak : 0);
    for (int v = 0; v < vectors; ++v) {
      const Vec scaled = from[v] * inverse;
      round(&scaled, 1, to + v * kLanes / kDepth);
    }
    return is_nan ? __builtin_nanf("") : peak * (1 / kLargest);  // infinite, if a number is
  }
};

#endif

}  // namespace
