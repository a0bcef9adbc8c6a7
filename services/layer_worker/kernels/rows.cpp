#include "rows.h"

#include <omp.h>

#include <cmath>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

namespace {

typedef GlinthawkPass Pass;
typedef uint16_t Bf16;

constexpr int kLanes = 32;
constexpr int64_t kWorthSharing = 1 << 14;  // values; fewer are done before a thread has woken

template <class To, class From>
INLINE To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "only the type changes");
  To bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

INLINE float get(const Bf16* at) { return bits_of<float>((uint32_t)*at << 16); }
INLINE float get(const float* at) { return *at; }
INLINE void put(float* at, float value) { *at = value; }

INLINE void put(Bf16* at, float value) {
  const uint32_t bits = bits_of<uint32_t>(value);
  const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;  // rounding could make it infinite
  *at = (Bf16)(is_nan ? bits >> 16 | 0x40 : nearest);
}

// Adding this rounds to the nearest whole number, which is then in the last bits of the sum.
constexpr float kShift = 12582912.0f;

// e^x by Taylor's series on [-ln 2 / 2, ln 2 / 2]; beyond 87 either way, e^87 or e^-87.
INLINE float exponential(float x) {
  x = x > 87.0f ? 87.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + kShift;
  const float whole = shifted - kShift;
  // ln 2 in two parts; multiples of the first, which has few bits, are exact.
  const float rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  float sum = 1.0f / 5040;
  sum = sum * rest + 1.0f / 720;
  sum = sum * rest + 1.0f / 120;
  sum = sum * rest + 1.0f / 24;
  sum = sum * rest + 1.0f / 6;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  const uint32_t power = bits_of<uint32_t>(shifted) - bits_of<uint32_t>(kShift) + 127;
  return sum * bits_of<float>(power << 23);
}

template <class T>
INLINE float sum_of_squares(const T* values, int64_t width) {
  float lanes[kLanes] = {};
  const int64_t whole = width - width % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += get(values + i + lane) * get(values + i + lane);
    }
  }
  for (int64_t i = whole; i < width; ++i) lanes[i - whole] += get(values + i) * get(values + i);
  for (int half = kLanes / 2; half; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <class T>
INLINE void norm(const Pass& pass, int64_t at) {
  const T* values = (const T*)pass.rows + at;
  const T* weight = (const T*)pass.weight;
  T* output = (T*)pass.output + at;
  const float mean = sum_of_squares(values, pass.width) / (float)pass.width;
  const float factor = 1.0f / sqrtf(mean + pass.epsilon);
#pragma GCC ivdep
  for (int64_t i = 0; i < pass.width; ++i) {
    put(output + i, get(values + i) * factor * get(weight + i));
  }
}

template <class T>
INLINE void add(const Pass& pass, int64_t at) {
  T* values = (T*)pass.rows + at;
  const T* other = (const T*)pass.other + at;
#pragma GCC ivdep
  for (int64_t i = 0; i < pass.width; ++i) put(values + i, get(values + i) + get(other + i));
}

template <class T>
INLINE void rotate(const Pass& pass, int64_t row, int64_t at) {
  const int64_t half = pass.width / 2;
  const float* cosines = pass.table + pass.positions[row] * pass.width;
  const float* sines = cosines + half;
  T* first = (T*)pass.rows + at;
  T* second = first + half;
#pragma GCC ivdep
  for (int64_t i = 0; i < half; ++i) {
    const float x = get(first + i), y = get(second + i);
    put(first + i, x * cosines[i] - y * sines[i]);
    put(second + i, y * cosines[i] + x * sines[i]);
  }
}

template <class T>
INLINE void gate(const Pass& pass, int64_t row) {
  const T* gates = (const T*)pass.rows + row * pass.stride;
  const T* ups = gates + pass.width;
  T* output = (T*)pass.output + row * pass.width;
#pragma GCC ivdep
  for (int64_t i = 0; i < pass.width; ++i) {
    const float value = get(gates + i);
    put(output + i, value / (1.0f + exponential(-value)) * get(ups + i));
  }
}

template <class T>
INLINE void quantize(const Pass& pass, int64_t row) {
  const T* values = (const T*)pass.rows + row * pass.stride;
  uint8_t* bytes = (uint8_t*)pass.output + row * pass.width;
  uint32_t largest = 0;  // the bits of a size rise with it; those of NaN are the largest
  for (int64_t i = 0; i < pass.width; ++i) {
    const uint32_t size = bits_of<uint32_t>(get(values + i)) & 0x7fffffff;
    largest = size > largest ? size : largest;
  }
  const float peak = bits_of<float>(largest);
  const float factor = peak > 0.0f ? 127.0f / peak : 0.0f;
  pass.scales[row] = peak / 127.0f;
#pragma GCC ivdep
  for (int64_t i = 0; i < pass.width; ++i) {
    bytes[i] = (uint8_t)(128 + bits_of<uint32_t>(get(values + i) * factor + kShift));
  }
}

template <class T>
INLINE void scale(const Pass& pass, int64_t row) {
  T* values = (T*)pass.rows + row * pass.stride;
  const float factor = pass.scales[row];
#pragma GCC ivdep
  for (int64_t i = 0; i < pass.width; ++i) put(values + i, get(values + i) * factor);
}

template <class T>
INLINE void restore(const Pass& pass, int64_t row) {
  const int8_t* values = (const int8_t*)pass.rows + row * pass.stride;
  T* output = (T*)pass.output + row * pass.width;
  const float factor = pass.scales[row];
#pragma GCC ivdep
  for (int64_t i = 0; i < pass.width; ++i) put(output + i, (float)values[i] * factor);
}

template <class T>
INLINE void do_row(const Pass& pass, int64_t row) {
  for (int64_t head = 0; head < pass.num_heads; ++head) {
    const int64_t at = row * pass.stride + head * pass.width;
    switch (pass.kind) {
      case kGlinthawkAddNorm:
        add<T>(pass, at);
        [[fallthrough]];
      case kGlinthawkNorm:
        norm<T>(pass, at);
        break;
      case kGlinthawkRotate:
        rotate<T>(pass, row, at);
        break;
      case kGlinthawkGate:
        return gate<T>(pass, row);
      case kGlinthawkQuantize:
        return quantize<T>(pass, row);
      case kGlinthawkScale:
        return scale<T>(pass, row);
      case kGlinthawkRestore:
        return restore<T>(pass, row);
    }
  }
}

// The loader picks the clone that the processor can run.
#if defined(__x86_64__)
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
void do_rows(const Pass& pass, int64_t start, int64_t stop) {
  for (int64_t row = start; row < stop; ++row) {
    pass.dtype == kGlinthawkBf16 ? do_row<Bf16>(pass, row) : do_row<float>(pass, row);
  }
}

}  // namespace

void glinthawk_pass(const GlinthawkPass* pass) {
  const int64_t rows = pass->num_rows;
  if (pass->num_threads == 1 || rows * pass->num_heads * pass->width < kWorthSharing) {
    return do_rows(*pass, 0, rows);
  }
#pragma omp parallel num_threads(pass->num_threads)
  {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    do_rows(*pass, rows * thread / threads, rows * (thread + 1) / threads);
  }
}
