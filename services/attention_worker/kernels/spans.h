// Cuts a microbatch into pieces of work.
#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"

namespace glinthawk {

// Generated positions meet their keys in splits of this many, so that threads can share a long
// context. Splits are aligned to absolute positions and brought together in order: no bit depends
// on who computed them.
constexpr int kSplit = 1024;

struct Entry {
  int32_t start, num_rows, num_prompt;
  bool local;  // its rows meet only what is before `start`
  int64_t first_row;
  const int32_t* table;

  // A lone row is written by the job that meets its keys anyway.
  bool written_in_passing() const { return num_rows == 1 && !local; }
};

// Neighbouring rows of one entry, the keys `[first, last]` that they meet, and for which KV heads.
struct Span {
  const Entry* entry;
  int32_t position, num_positions;
  int32_t first, last;
  int32_t head, num_heads;
  int32_t split, num_splits;
  int64_t partial, counter;  // if there are splits: the first partial of the first head; a counter

  int64_t row() const { return entry->first_row + position - entry->start; }
  int64_t cost() const { return (int64_t)(last - first + 1) * num_positions; }
};

// Cuts positions `[start, stop)` at the multiples of `height`.
template <class Use>
void cut(int64_t start, int64_t stop, int64_t height, Use use) {
  while (start < stop) {
    const int64_t end = std::min(stop, (start / height + 1) * height);
    use((int32_t)start, (int32_t)end);
    start = end;
  }
}

// Reads the entries. Gives false for a microbatch that reaches beyond its tables or the pool.
inline bool read_entries(const GlinthawkMicrobatch& microbatch, const Cache& cache,
                         std::vector<Entry>& entries) {
  enum { kRequest, kStart, kNumRows, kNumPages, kNumPrompt, kFlags, kNumColumns };
  constexpr int32_t kLocal = 2;
  int64_t rows = 0, cells = 0;
  entries.clear();
  for (int64_t i = 0; i < microbatch.num_entries; ++i) {
    const int32_t* entry = microbatch.entries + i * kNumColumns;
    if (entry[kStart] < 0 || entry[kNumRows] < 0 || entry[kNumPages] < 0) return false;
    const int64_t stop = (int64_t)entry[kStart] + entry[kNumRows];
    if (stop > (int64_t)entry[kNumPages] * cache.page_size) return false;
    const bool local = entry[kFlags] & kLocal;
    if (local && (entry[kStart] % kBlock || stop > entry[kNumPrompt])) return false;
    entries.push_back({entry[kStart], entry[kNumRows], entry[kNumPrompt], local, rows,
                       microbatch.page_table + cells});
    rows += entry[kNumRows];
    cells += entry[kNumPages];
    if (rows > microbatch.num_rows || cells > microbatch.num_cells) return false;
  }
  if (rows != microbatch.num_rows || cells != microbatch.num_cells) return false;
  if (microbatch.layer < 0 || microbatch.layer >= cache.num_layers) return false;
  return std::all_of(microbatch.page_table, microbatch.page_table + cells,
                     [&](int32_t page) { return page >= 0 && page < cache.num_pages; });
}

}  // namespace glinthawk
