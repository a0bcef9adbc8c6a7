// The C interface of the attention kernels. No function throws; memory belongs to the caller.
#pragma once

#include <cstdint>

#include "interface.h"

#pragma GCC visibility push(default)
extern "C" {

struct GlinthawkMicrobatch {
  const int32_t* entries;  // [num_entries, 6], as in common/messages/entries.py
  int64_t num_entries;
  const int32_t* page_table;
  int64_t num_cells;
  const uint8_t* qkv;  // [num_rows, (H + 2 G) D], at any address
  int64_t num_rows;
  uint8_t* output;   // [num_rows, H D], of the same dtype
  float* log_sums;   // [num_rows, H]: log of the sum of exp of the scores; or null
  int32_t dtype;     // of qkv and output
  int32_t layer;
  int32_t window;  // a row sees its last so many positions; 0: all
};

// Whether this processor can run an instruction set: portable, avx2, avx512 or avx512_bf16.
bool glinthawk_supports(const char* instruction_set);

// Bytes of one page, all layers.
int64_t glinthawk_page_bytes(const glinthawk::Cache* cache);

// Makes an engine on zeroed memory, aligned to 64 bytes. Its threads run on the given CPUs, or
// anywhere if there are none; whoever calls `attend` is one of them. Null if memory runs out.
glinthawk::Engine* glinthawk_open(const glinthawk::Cache* cache, const char* instruction_set,
                                  int num_threads, const int32_t* cpus, int num_cpus);

enum GlinthawkOutcome : int32_t { kDone, kRefused, kOutOfMemory };

// Writes a microbatch's keys and values of one layer, then lets its rows attend: those of local
// entries only to what is before their entry, which may be nothing. It is refused, and
// nothing is written, if an entry reaches beyond its pages or a page beyond the pool.
GlinthawkOutcome glinthawk_attend(glinthawk::Engine* engine, const GlinthawkMicrobatch* microbatch);

// Writes a microbatch's keys and values of one layer: rows of `qkv` are [2 G D], without queries,
// and there is no output. Refuses what `glinthawk_attend` refuses.
GlinthawkOutcome glinthawk_write(glinthawk::Engine* engine, const GlinthawkMicrobatch* microbatch);

// Has all threads read the whole pool once, and gives its sum: to measure how fast memory is.
uint64_t glinthawk_read(glinthawk::Engine* engine);

void glinthawk_close(glinthawk::Engine* engine);

}  // extern "C"
#pragma GCC visibility pop
