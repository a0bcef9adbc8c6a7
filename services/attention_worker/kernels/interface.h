// What the dispatcher and the instruction sets say to each other.
//
// Every instruction set is one translation unit with flags of its own. Nothing here may become
// code, and those units share no inline function: the linker keeps one copy of such a function,
// and that copy may hold instructions that this processor lacks.
#pragma once

#include <cstdint>

namespace glinthawk {

// The running softmax moves on by blocks of this many keys, aligned to absolute positions.
constexpr int kBlock = 64;
// A block is met in groups, and those after the last key are left out.
constexpr int kGroup = 16;
constexpr int kGroups = kBlock / kGroup;
// Numbers of a value that are met together.
constexpr int kChunk = 64;

enum Dtype : int32_t { kBf16, kFp16, kFp32, kInt8 };

// The page pool, as the C interface takes it.
struct Cache {
  uint8_t* memory;
  int64_t num_pages;
  int32_t num_layers, page_size, num_heads, num_kv_heads, head_size;
  int32_t dtype;
};

// Where things lie in the pool: [layer][page][KV head] is `head_bytes`.
//
// If pages hold whole groups, that is a sequence of tiles, as long as pages and blocks allow, each
// with its keys, its values and, for int8, the scales of both: long stretches are read at twice
// the speed of short ones. Other pages hold rows: of each token its key, its value, its scales.
struct Layout {
  int32_t page_size, num_kv_heads, head_size;
  int32_t padded;  // head size, rounded up to a multiple of kGroup
  int32_t tile;    // tokens
  bool tiled, scaled;
  int64_t half_bytes;  // keys (or values) of a tile
  int64_t tile_bytes;
  int64_t row_bytes;
  int64_t head_bytes;
};

// One KV head of one entry in one layer: enough to find any of its tokens. The next head of a page
// is `layout->head_bytes` on.
struct Keys {
  const Layout* layout;
  uint8_t* layer;  // of the pool
  const int32_t* table;
  int32_t head;
};

// Tokens `[position, position + num_rows)`, all in one block, to be written.
struct WriteJob {
  Keys keys;
  int32_t position, num_rows;
  int32_t dtype;  // of what is written
  const uint8_t* key;  // of the first token; the next one is `stride` bytes on
  const uint8_t* value;
  int64_t stride;
};

// Query rows `[position, position + num_positions)` times `group` heads that meet keys
// `[first, last]`, clipped to what each may see: for one KV head, or for several whose pages are
// then read from end to end.
struct AttendJob {
  Keys keys;  // of the first KV head
  int32_t num_heads;
  int64_t partial_stride;  // from the partial of a KV head to that of the next, in floats
  int32_t position, num_positions, group;
  int32_t window;  // 0: sees everything
  int32_t first, last;  // `first` is a multiple of kBlock
  int32_t dtype;  // of the queries
  const uint8_t* query;  // of the first position and head; heads lie next to each other
  int64_t stride;  // to the next position, in bytes
  float scale;  // log2(e) / sqrt(head size)
  const WriteJob* write;  // of the only row there is and the first KV head; or null
  const AttendJob* next;  // what this thread will read after this job, or null
};

// Brings together what rows met in several jobs. A partial is `sums [rows, padded]`, then
// `peaks [rows]`, then `totals [rows]`.
struct FinishJob {
  const float* partials;  // `num_partials` of them, one after the other
  int32_t num_partials;
  int32_t num_positions, group, head_size, padded;
  int32_t dtype;
  uint8_t* output;  // of the first position and head
  int64_t stride;
  float* log_sums;  // of the first position and head, or null
  int64_t log_sum_stride;  // in floats
};

class Engine;

struct Kernel {
  void (*write)(const WriteJob&, uint8_t* scratch);
  void (*attend)(const AttendJob&, float* partial, uint8_t* scratch);
  void (*finish)(const FinishJob&, uint8_t* scratch);
};

// Each dtype has a kernel of its own: tiles are laid out for the instructions that read them.
struct KernelTable {
  Kernel of_dtype[4];
  uint64_t (*read)(const uint8_t* memory, int64_t bytes);  // gives the sum
};

extern const KernelTable portable_kernels;
extern const KernelTable avx2_kernels;
extern const KernelTable avx512_kernels;
extern const KernelTable avx512_bf16_kernels;

// Bytes that a kernel needs for so many query rows.
constexpr int64_t scratch_bytes(int64_t rows, int64_t padded) {
  const int64_t gathered = kBlock * (2 * padded * 4 + 8);
  return rows * (padded + 2 * kBlock + kGroup + 3) * 4 + 3 * padded * 4 + gathered + 9 * 64;
}

}  // namespace glinthawk
