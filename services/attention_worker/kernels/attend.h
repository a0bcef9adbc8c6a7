// Attention of some query rows to some keys, block by block of keys, for one KV head or several.
//
// All heads meet a block before any meets the next, since they lie next to each other in a page:
// stretches of 256 KB are read a fifth faster than stretches of 32 KB.
//
// Every row goes through the same operations in the same order whatever rows are computed beside
// it, so its bits do not depend on them; a block that it does not see adds zeros to its sums.
// The running softmax is FlashAttention-2's (Dao 2023, section 3.1, arXiv:2307.08691).
#pragma once

#include "multiply.h"

namespace {

using glinthawk::AttendJob;

constexpr float kNothingSeen = -1e30f;  // finite, so that what came before decays to zero, not NaN
constexpr float kLeastScale = 1e-30f;  // values with less count as zero: their inverse overflows

template <class Store>
class Attention {
 public:
  Attention(const AttendJob& job, float* partial, uint8_t* scratch)
      : job_(job),
        layout_(*job.keys.layout),
        rows_(job.num_positions * job.group),
        head_bytes_(layout_.head_size * (job.dtype == glinthawk::kFp32 ? 4 : 2)),
        partial_(partial) {
    const auto take = [&](int64_t bytes) {
      uint8_t* taken = scratch;
      scratch += (bytes + 63) / 64 * 64;
      return taken;
    };
    wide_ = (float*)take(3 * layout_.padded * 4);
    gathered_ = take(layout_.tiled ? 0 : layout_.tile_bytes);
    scores_ = (float*)take(rows_ * kBlock * 4);
    weights_ = (Operand*)take(rows_ * kBlock * 4);
    decays_ = (float*)take(rows_ * 4);
    factors_ = (float*)take(rows_ * 4);
    const int64_t all_rows = (int64_t)job.num_heads * rows_;
    all_queries_ = (Operand*)take(all_rows * layout_.padded * 4);
    all_scales_ = (float*)take(all_rows * 4);
    all_totals_ = (float*)take(all_rows * kLanes * 4);
  }

  void run() {
    for (int head = 0; head < job_.num_heads; ++head) begin(head);
    Block block = find(job_, job_.first);
    for (int start = job_.first; start <= job_.last; start += kBlock) {
      const Block after = start + kBlock <= job_.last ? find(job_, start + kBlock)
                          : job_.next                 ? find(*job_.next, job_.next->first)
                                                      : block;
      for (int head = 0; head < job_.num_heads; ++head) {
        const Block next = head + 1 < job_.num_heads ? moved(block) : after;
        turn_to(head);
        if (job_.write && start + kBlock > job_.last) write(head);
        if (!layout_.tiled) gather_tile<Store>(keys_of(head), start, job_.last, gathered_);
        meet(start, block, next);
        block = next;
      }
    }
    for (int head = 0; head < job_.num_heads; ++head) end(head);
  }

 private:
  using Element = typename Store::Element;
  using Operand = typename Store::Operand;
  static constexpr int kDepth = Store::kDepth;
  // Asked for while a row is weighed: measured.
  static constexpr int kStepsPerRow = sizeof(Element) == 1 ? 2 : 1;

  // Where the queries of a KV head are, and what came of them so far.
  void turn_to(int head) {
    queries_ = all_queries_ + (int64_t)head * rows_ * (layout_.padded / kDepth);
    scales_ = all_scales_ + head * rows_;
    totals_ = all_totals_ + head * rows_ * kLanes;
    sums_ = partial_ + head * job_.partial_stride;
    peaks_ = sums_ + rows_ * layout_.padded;
  }

  Keys keys_of(int head) const {
    Keys keys = job_.keys;
    keys.head += head;
    return keys;
  }

  // Writes a new token just before its block is met, and asks for where the next head's one goes.
  void write(int head) {
    WriteJob job = *job_.write;
    job.keys = keys_of(head);
    job.key += head * head_bytes_;
    job.value += head * head_bytes_;
    write_rows<Store>(job, (uint8_t*)wide_);
    if (!layout_.tiled || head + 1 == job_.num_heads) return;
    fetch_slot<Store>(keys_of(head + 1), job_.position);
  }

  void begin(int head) {
    turn_to(head);
    memset(wide_, 0, layout_.padded * 4);
    for (int row = 0; row < rows_; ++row) {
      const uint8_t* position = job_.query + row / job_.group * job_.stride;
      const uint8_t* query = position + (head * job_.group + row % job_.group) * head_bytes_;
      widen_row(query, job_.dtype, layout_.head_size, wide_);
      Operand* to = queries_ + row * (layout_.padded / kDepth);
      scales_[row] = job_.scale * Store::narrow((const Vec*)wide_, layout_.padded / kLanes, to);
      peaks_[row] = kNothingSeen;
    }
    memset(totals_, 0, rows_ * kLanes * 4);
    memset(sums_, 0, (int64_t)rows_ * layout_.padded * 4);
  }

  void end(int head) {
    turn_to(head);
    for (int row = 0; row < rows_; ++row) {
      peaks_[rows_ + row] = sum_of(load(totals_ + row * kLanes));
    }
  }

  // Gives where a block of the first head lies; one of tokens in small pages is yet to be gathered.
  Block find(const AttendJob& job, int start) const {
    Block block;
    block.count = 0;
    const uint8_t* tile = gathered_;
    for (int group = 0; group < kGroups; ++group) {
      const int position = start + group * kGroup;
      const int token = position & (layout_.tile - 1);
      const bool present = position <= job.last;
      block.count += present;
      if (layout_.tiled && token == 0 && present) tile = tile_of(job.keys, position);
      block.tiles[group] = tile;
      block.tokens[group] = token;
    }
    return block;
  }

  // Gives where the same tokens of the next head lie.
  Block moved(Block block) const {
    for (const uint8_t*& tile : block.tiles) tile += layout_.tiled ? layout_.head_bytes : 0;
    return block;
  }

  // What a row sees of a block: tokens `[low, high]`, if there are any.
  struct Seen {
    int low, high;

    bool operator==(const Seen& other) const { return low == other.low && high == other.high; }
    bool covers(int first) const { return low <= first && high >= first + kLanes - 1; }
  };

  Seen seen_by(int row, int start) const {
    const int high = job_.position + row / job_.group - start;
    const int low = job_.window ? high - job_.window + 1 : 0;
    return {low > 0 ? low : 0, high < kBlock - 1 ? high : kBlock - 1};
  }

  // Of the tokens that a row sees of a block, where keys and values have scales: with those of more
  // tokens, its bits would depend on what is written after it.
  struct Scales {
    Vec keys[kVectorsPerBlock];
    Vec values[kVectorsPerBlock];  // by what makes the largest of them `Store::kLargest`
    float unit = 1;                // what takes them back
  };

  const float* key_scales(const Block& block, int group) const {
    return (const float*)(block.tiles[group] + 2 * layout_.half_bytes) + block.tokens[group];
  }

  const float* value_scales(const Block& block, int group) const {
    return key_scales(block, group) + layout_.tile;
  }

  void read_scales(const Block& block, Seen seen, Scales& scales) const {
    IntVec peaks = {};
#pragma GCC unroll 16
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      const int group = v / kVectorsPerGroup, offset = v % kVectorsPerGroup * kLanes;
      scales.keys[v] = load(key_scales(block, group) + offset);
      scales.values[v] = load(value_scales(block, group) + offset);
      if (!seen.covers(v * kLanes)) {
        const IntVec tokens = lane_numbers() + v * kLanes;
        const IntVec is_seen = (tokens >= seen.low) & (tokens <= seen.high);
        scales.values[v] = is_seen ? scales.values[v] : Vec{};
      }
      // No scale is negative: the bits of such numbers are in their order, and NaN is the largest.
      const IntVec bits = (IntVec)scales.values[v];
      peaks = bits > peaks ? bits : peaks;
    }
    const int32_t bits = largest(peaks);
    const float peak = load_as<float>(&bits);
    const Vec inverse = broadcast(peak > kLeastScale ? Store::kLargest / peak : 0);
    for (Vec& values : scales.values) values *= inverse;
    scales.unit = peak / Store::kLargest;
  }

  void fetch_scales(const Block& block) const {
    for (int group = 0; group < kGroups; ++group) {
      __builtin_prefetch(key_scales(block, group));
      __builtin_prefetch(value_scales(block, group));
    }
  }

  void meet(int start, const Block& block, const Block& next) {
    Ahead<Element> ahead(layout_, block, next);
    in_parts<kRowsAtOnce>(rows_, [&](int row, auto num_rows) {
      const Operand* queries = queries_ + row * (layout_.padded / kDepth);
      multiply_keys<Store, num_rows.value>(layout_, block, queries, row ? nullptr : &ahead,
                                           scores_ + row * kBlock);
    });
    if (layout_.scaled) fetch_scales(next);
    Scales scales;
    Seen read{-1, -1};  // whose scales they are
    for (int row = 0; row < rows_; ++row) {
      const Seen seen = seen_by(row, start);
      if (layout_.scaled && !(seen == read)) read_scales(block, read = seen, scales);
      weigh(row, seen, scales);
      ahead.fetch(kStepsPerRow);  // memory must not rest meanwhile
    }
    for (int chunk = 0; chunk < layout_.padded; chunk += kChunk) {
      const int vectors = chunk_width(layout_, chunk) / kLanes;
      in_parts<kRowsAtOnce>(rows_, [&](int row, auto num_rows) {
        const Operand* weights = weights_ + row * (kBlock / kDepth);
        in_parts<kVectorsAtOnce>(vectors, [&](int vector, auto num_vectors) {
          const Sums sums{sums_ + row * layout_.padded, decays_ + row, factors_ + row,
                          chunk + vector * kLanes};
          multiply_values<Store, num_rows.value, num_vectors.value>(
              layout_, block, weights, row || vector ? nullptr : &ahead, sums);
        });
      });
    }
  }

  // Turns a row's scores of a block into weights, relative to the largest of them.
  void weigh(int row, Seen seen, const Scales& scales) {
    Vec numbers[kVectorsPerBlock];
    Vec peaks = broadcast(kNothingSeen);
#pragma GCC unroll 16
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      const int first = v * kLanes;
      numbers[v] = load(scores_ + row * kBlock + first) * broadcast(scales_[row]);
      if (layout_.scaled) numbers[v] *= scales.keys[v];
      if (!seen.covers(first)) {
        numbers[v] = keep_between(numbers[v], seen.low - first, seen.high - first);
      }
      peaks = larger(numbers[v], peaks);
    }
    const float peak = largest(peaks);
    Vec total = {};
#pragma GCC unroll 16
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      numbers[v] = exp2(numbers[v] - peak);
      total += numbers[v];
      if (layout_.scaled) numbers[v] *= scales.values[v];
    }
    Store::round(numbers, kVectorsPerBlock, weights_ + row * (kBlock / kDepth));
    join(row, peak, total, scales.unit);
  }

  // Makes what a row met so far and its weights of a block relative to the larger of their peaks.
  void join(int row, float peak, Vec total, float unit) {
    const bool higher = peak > peaks_[row];
    const float change = higher ? peaks_[row] - peak : peak - peaks_[row];
    const float smaller = exp2(broadcast(change))[0];
    const float decay = higher ? smaller : 1, factor = higher ? 1 : smaller;
    if (higher) peaks_[row] = peak;
    decays_[row] = decay;
    factors_[row] = factor * unit;
    float* totals = totals_ + row * kLanes;
    store(totals, multiply_add(total, broadcast(factor), load(totals) * broadcast(decay)));
  }

  const AttendJob& job_;
  const Layout& layout_;
  const int rows_;  // of one KV head
  const int64_t head_bytes_;
  float* const partial_;
  uint8_t* gathered_;
  float *wide_, *scores_;
  Operand* weights_;
  float *decays_, *factors_;  // of each row: of its sums and its weights
  Operand* all_queries_;
  float *all_scales_, *all_totals_;

  // Of the KV head at hand.
  Operand* queries_;
  float* scales_;  // of each row: of its queries
  float* totals_;  // of each row and lane
  float *sums_, *peaks_;
};

}  // namespace
