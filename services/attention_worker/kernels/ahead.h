// Asks for memory a little before it is read.
#pragma once

#include "pages.h"

namespace {

using glinthawk::kGroups;

constexpr int kLineBytes = 64;
constexpr int kStepBytes = kGroups * kLineBytes;

// Where the groups of a block lie; absent ones are somewhere in the pool.
struct Block {
  int count;             // of groups that are present
  int tokens[kGroups];   // the first of each group, in its tile
  const uint8_t* tiles[kGroups];
};

// A group's part of a chunk of values.
template <class Element>
inline const uint8_t* values_of(const Layout& layout, const Block& block, int group, int chunk) {
  const int64_t before = chunk * layout.tile + block.tokens[group] * chunk_width(layout, chunk);
  return block.tiles[group] + layout.half_bytes + before * sizeof(Element);
}

// Some of the next cache lines, four at a time.
struct Lines {
  int count;  // of steps, each of four lines or of none
  int64_t stride;
  const uint8_t* at[kGroups];

  void fetch(int64_t step) const {
    if (!stride) return;
#pragma GCC unroll 4
    for (int i = 0; i < kGroups; ++i) __builtin_prefetch(at[i] + step * stride);
  }
};

// Asks for a block, and then for the next one, in the order in which their lines are read: by the
// processor's own guesses alone, memory rests at the end of every stretch.
template <class Element>
class Ahead {
 public:
  Ahead(const Layout& layout, const Block& block, const Block& next)
      : layout_(layout), block_(&block), next_(&next), budget_(2 * half()) {
    go_to_keys();
    skip(kDistance < budget_ / 2 ? kDistance : budget_ / 2);
  }

  // Steps that it takes to ask for a block's keys, or for its values.
  int half() const { return layout_.padded * kBlock * sizeof(Element) / kStepBytes; }

  // Gives at most so many steps; after all of a block, empty ones.
  Lines take(int count) {
    if (budget_ == 0) return {count, 0, {}};
    Lines taken = lines_;
    if (count < taken.count) taken.count = count;
    if (budget_ < taken.count) taken.count = budget_;
    budget_ -= taken.count;
    skip(taken.count);
    return taken;
  }

  void fetch(int count) {
    while (count > 0) {
      const Lines lines = take(count);
      for (int step = 0; step < lines.count; ++step) lines.fetch(step);
      count -= lines.count;
    }
  }

 private:
  // Between what is asked for and what is read: measured, with 48 KiB of first-level cache.
  static constexpr int kDistance = ((sizeof(Element) == 1 ? 10 : 7) << 10) / kStepBytes;

  void skip(int count) {
    for (; count >= lines_.count; first_ < layout_.padded ? go_to_values() : go_to_next()) {
      count -= lines_.count;
    }
    for (const uint8_t*& at : lines_.at) at += count * lines_.stride;
    lines_.count -= count;
  }

  void go_to_next() {
    block_ = next_;
    go_to_keys();
  }

  // All groups are read side by side.
  void go_to_keys() {
    for (int i = 0; i < kGroups; ++i) {
      lines_.at[i] = block_->tiles[i] + block_->tokens[i] / kGroup * kLineBytes;
    }
    lines_.stride = layout_.tile / kGroup * kLineBytes;
    lines_.count = half();
    first_ = 0;
  }

  // Chunk by chunk. Of small pages, all groups are asked for side by side, too, though one is read
  // after the other: so each page is asked for from end to end.
  void go_to_values() {
    const bool is_whole = layout_.tile == kBlock;
    const int width = is_whole ? layout_.padded : chunk_width(layout_, first_);
    for (int i = 0; i < kGroups; ++i) {
      lines_.at[i] = is_whole ? values_of<Element>(layout_, *block_, 0, 0) + i * kLineBytes
                              : values_of<Element>(layout_, *block_, i, first_);
    }
    lines_.stride = is_whole ? kStepBytes : kLineBytes;
    lines_.count = kBlock * width * sizeof(Element) / kStepBytes;
    first_ += width;
  }

  const Layout& layout_;
  const Block *block_, *next_;
  int budget_;
  Lines lines_;
  int first_;  // number of the values that are next
};

}  // namespace
