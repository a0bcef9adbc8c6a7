// Vectors of floats in the instruction set that a translation unit is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));

// Memory that came over the wire may begin at any address.
template <class T>
inline T load_as(const void* from) {
  T value;
  memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
inline void store_as(void* to, T value) {
  memcpy(to, &value, sizeof value);
}

inline Vec load(const float* from) { return load_as<Vec>(from); }
inline void store(float* to, Vec value) { store_as(to, value); }
inline Vec broadcast(float value) { return value - Vec{}; }

// Rounds once where the instruction set can: said aloud, so that no compiler decides it.
inline Vec multiply_add(Vec a, Vec b, Vec sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, sum);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, sum);
#elif defined(__ARM_NEON)
  return vfmaq_f32(sum, a, b);
#else
  return a * b + sum;
#endif
}

// Gives b where either is NaN.
inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);  // gcc makes a comparison and a move of the words below
#else
  return a > b ? a : b;
#endif
}

inline IntVec lane_numbers() {
  IntVec numbers;
  for (int lane = 0; lane < kLanes; ++lane) numbers[lane] = lane;
  return numbers;
}

inline float largest(Vec values) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(values);
#else
  float found = values[0];
  for (int lane = 1; lane < kLanes; ++lane) found = values[lane] > found ? values[lane] : found;
  return found;
#endif
}

inline int32_t largest(IntVec values) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)values);
#else
  int32_t found = values[0];
  for (int lane = 1; lane < kLanes; ++lane) found = values[lane] > found ? values[lane] : found;
  return found;
#endif
}

inline float sum_of(Vec values) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(values);
#else
  float sum = values[0];
  for (int lane = 1; lane < kLanes; ++lane) sum += values[lane];
  return sum;
#endif
}

// 2 to the power of a number in `[-1/2, 1/2]`, to 2 units in the last place.
inline Vec exp2_of_rest(Vec rest) {
  Vec power = broadcast(1.3264720e-3f);
  power = multiply_add(power, rest, broadcast(9.6715130e-3f));
  power = multiply_add(power, rest, broadcast(5.5507336e-2f));
  power = multiply_add(power, rest, broadcast(2.4022242e-1f));
  power = multiply_add(power, rest, broadcast(6.9314700e-1f));
  return multiply_add(power, rest, broadcast(1.0f));
}

// 2 to the power of x; 0 from -127 down or a little lower, NaN for NaN.
inline Vec exp2(Vec x) {
#if defined(__AVX512DQ__)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const Vec power = exp2_of_rest(_mm512_reduce_ps(x, kNearest));
  return _mm512_scalef_ps(power, _mm512_roundscale_ps(x, kNearest));
#else
  constexpr float kRound = 12582912.0f;  // adding it leaves the nearest integer in the low bits
  x = x < -127.0f ? broadcast(-127.0f) : x;
  const Vec shifted = x + kRound;
  const IntVec exponent = ((IntVec)shifted << 23) + (127 << 23);
  return exp2_of_rest(x - (shifted - kRound)) * (Vec)exponent;
#endif
}

// Keeps the lanes whose number is in `[low, high]`, and makes the others minus infinity.
inline Vec keep_between(Vec x, int low, int high) {
  const IntVec lanes = lane_numbers();
  return (lanes >= low) & (lanes <= high) ? x : broadcast(-__builtin_inff());
}

// Numbers as they are stored; each knows how to become float, and float it.
struct Bf16 {
  uint16_t bits;
};
#if defined(__ARM_NEON)
using Fp16 = __fp16;  // gcc knows the other name there from version 13 on
#else
using Fp16 = _Float16;
#endif

inline float widen(float value) { return value; }
inline float widen(Fp16 value) { return (float)value; }
inline float widen(Bf16 value) {
  const uint32_t bits = (uint32_t)value.bits << 16;
  return load_as<float>(&bits);
}

inline void narrow(float value, float* to) { *to = value; }
inline void narrow(float value, Fp16* to) { *to = (Fp16)value; }
inline void narrow(float value, Bf16* to) {
  const uint32_t bits = load_as<uint32_t>(&value);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  to->bits = (uint16_t)(is_nan ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Vec widen_lanes(const float* from) { return load(from); }
inline Vec widen_lanes(const Bf16* from) {
#if defined(__AVX512F__)
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_as<__m256i>(from)), 16);
#elif defined(__AVX2__)
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_as<__m128i>(from)), 16);
#else
  typedef uint16_t Half __attribute__((vector_size(kLanes * 2)));
  return (Vec)(__builtin_convertvector(load_as<Half>(from), IntVec) << 16);
#endif
}
inline Vec widen_lanes(const Fp16* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(load_as<__m256i>(from));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(load_as<__m128i>(from));
#else
  Vec values;
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = (float)load_as<Fp16>(from + lane);
  return values;
#endif
}
inline Vec widen_lanes(const int8_t* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_as<__m128i>(from)));
#else
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
  return __builtin_convertvector(__builtin_convertvector(load_as<Bytes>(from), IntVec), Vec);
#endif
}

inline void narrow_lanes(Vec from, float* to) { store(to, from); }
inline void narrow_lanes(Vec from, Bf16* to) {
  const IntVec bits = (IntVec)from;
  const IntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const IntVec is_nan = (bits & 0x7fffffff) > 0x7f800000;
  typedef uint16_t Half __attribute__((vector_size(kLanes * 2)));
  const IntVec kept = is_nan ? (bits >> 16) | 0x40 : rounded;
  store_as(to, __builtin_convertvector(kept & 0xffff, Half));
}
inline void narrow_lanes(Vec from, Fp16* to) {
#if defined(__AVX512F__)
  store_as(to, _mm512_cvtps_ph(from, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  store_as(to, _mm256_cvtps_ph(from, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int lane = 0; lane < kLanes; ++lane) narrow(from[lane], to + lane);
#endif
}

// To the nearest, ties to even; numbers are at most 127 in size.
inline void narrow_lanes(Vec from, int8_t* to) {
#if defined(__AVX512F__)
  store_as(to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(from)));
#else
  constexpr float kRound = 12582912.0f;  // adding it leaves the nearest integer in the low bits
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
  store_as(to, __builtin_convertvector((IntVec)(from + kRound) << 24 >> 24, Bytes));
#endif
}

// Numbers of any count, at any address.
template <class T>
inline void widen_all(const uint8_t* from, int count, float* to) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(to + i, widen_lanes((const T*)(from + i * sizeof(T))));
  }
  for (; i < count; ++i) to[i] = widen(load_as<T>(from + i * sizeof(T)));
}

template <class T>
inline void narrow_all(const float* from, int count, uint8_t* to) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) narrow_lanes(load(from + i), (T*)(to + i * sizeof(T)));
  for (; i < count; ++i) narrow(from[i], (T*)(to + i * sizeof(T)));
}

}  // namespace
