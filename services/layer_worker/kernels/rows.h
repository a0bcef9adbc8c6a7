// What tier 1 computes between its matrix products, each in one pass over memory.
//
// A value has the same bits whatever rows stand beside it, however many threads share the rows and
// whatever the processor is: sums have a fixed order, and no multiply-add is fused.
#pragma once

#include <cstdint>

extern "C" {

enum GlinthawkDtype : int32_t { kGlinthawkBf16, kGlinthawkFp32 };

enum GlinthawkKind : int32_t {
  // Divides every head by the root of its mean square, times `weight [width]`, into `output`, which
  // lies like the rows and may be them.
  kGlinthawkNorm,
  // Adds `other`, which lies like the rows, to them in place; then as above.
  kGlinthawkAddNorm,
  // Rotates every head in place by its row's position; `table [positions, width]` holds cosines,
  // then sines.
  kGlinthawkRotate,
  // Of rows of two heads, gate and up, writes silu(gate) * up into `output [num_rows, width]`.
  kGlinthawkGate,
  // Writes every row of one head into `output` as bytes 128 + value / scale, and its scale.
  kGlinthawkQuantize,
  // Multiplies every row of one head by its scale, in place.
  kGlinthawkScale,
  // Of rows of one head in int8, writes every row times its scale into `output`, in the dtype.
  kGlinthawkRestore,
};

// One pass over rows of `num_heads` heads of `width` values; the next row is `stride` values on.
struct GlinthawkPass {
  int32_t kind, dtype, num_threads;
  float epsilon;
  int64_t num_rows, num_heads, width, stride;
  void* rows;
  const void* other;
  const void* weight;
  void* output;
  float* scales;  // [num_rows]
  const int32_t* positions;  // [num_rows]
  const float* table;
};

__attribute__((visibility("default"))) void glinthawk_pass(const GlinthawkPass* pass);
}
