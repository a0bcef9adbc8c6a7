// Attention of some query rows to some keys of one KV head, block by block of keys.
//
// Every row goes through the same operations in the same order whatever rows are computed beside
// it, so its bits do not depend on them; a block that it does not see adds zeros to its sums.
// The running softmax is FlashAttention-2's (Dao 2023, section 3.1, arXiv:2307.08691).
#pragma once

#include "multiply.h"

namespace {

using glinthawk::AttendJob;

constexpr float kNothingSeen = -1e30f;  // finite, so that what came before decays to zero, not NaN

template <class Store>
class Attention {
 public:
  Attention(const AttendJob& job, float* partial, uint8_t* scratch)
      : job_(job),
        layout_(*job.keys.layout),
        rows_(job.num_positions * job.group),
        sums_(partial),
        peaks_(sums_ + rows_ * layout_.padded),
        totals_(peaks_ + rows_) {
    const auto take = [&](int64_t bytes) {
      uint8_t* taken = scratch;
      scratch += (bytes + 63) / 64 * 64;
      return taken;
    };
    unpacked_ = take(kTilesPerBlock * 2 * kTile * layout_.padded * 4);
    gathered_ = take(kTilesPerBlock * layout_.tile_bytes);
    queries_ = (Operand*)take((int64_t)rows_ * layout_.padded * 4);
    scores_ = (float*)take(rows_ * kBlock * 4);
    weights_ = (Operand*)take(rows_ * kBlock * 4);
    decays_ = (float*)take(rows_ * 4);
  }

  void run() {
    begin();
    Block block = find(job_, job_.first);
    for (int start = job_.first; start <= job_.last; start += kBlock) {
      const Block next = start + kBlock <= job_.last ? find(job_, start + kBlock)
                         : job_.next                 ? find(*job_.next, job_.next->first)
                                                     : block;
      if (!layout_.tiled) gather(start, block);
      if (kReadable || rows_ <= kMaxRows) {
        meet<Store>(start, block, next);
      } else {
        unpack(block);
        meet<Unpacked>(start, block, block);
      }
      block = next;
    }
  }

 private:
  using Element = typename Store::Element;
  using Operand = typename Store::Operand;
  using Unpacked = typename Store::Unpacked;
  static constexpr int kDepth = Store::kDepth;
  // Tiles need no unpacking, however often they are read.
  static constexpr bool kReadable = sizeof(Element) == sizeof(typename Unpacked::Element);

  void begin() {
    const int64_t head_bytes = layout_.head_size * (job_.dtype == glinthawk::kFp32 ? 4 : 2);
    float* wide = (float*)unpacked_;
    memset(wide, 0, layout_.padded * 4);
    for (int row = 0; row < rows_; ++row) {
      const uint8_t* position = job_.query + row / job_.group * job_.stride;
      widen_row(position + row % job_.group * head_bytes, job_.dtype, layout_.head_size, wide);
      Operand* query = queries_ + row * (layout_.padded / kDepth);
      for (int i = 0; i < layout_.padded; i += kLanes) Store::narrow(load(wide + i), query, i);
      peaks_[row] = kNothingSeen;
      totals_[row] = 0;
    }
    memset(sums_, 0, (int64_t)rows_ * layout_.padded * 4);
  }

  // Gives where a block lies; tiles that small pages make up are yet to be gathered.
  Block find(const AttendJob& job, int start) const {
    Block block;
    block.half_bytes = layout_.half_bytes;
    block.count = 0;
    for (int tile = 0; tile < kTilesPerBlock; ++tile) {
      const int position = start + tile * kTile;
      const bool present = position <= job.last;
      block.count += present;
      if (!present) {
        block.tiles[tile] = block.tiles[0];
      } else if (layout_.tiled) {
        block.tiles[tile] = tile_of(job.keys, position);
      } else {
        block.tiles[tile] = gathered_ + tile * layout_.tile_bytes;
      }
      block.scales[tile] = scales_of(layout_, block.tiles[tile]);
    }
    return block;
  }

  void gather(int start, const Block& block) {
    for (int tile = 0; tile < block.count; ++tile) {
      gather_tile<Store>(job_.keys, start + tile * kTile, job_.last, (uint8_t*)block.tiles[tile]);
    }
  }

  void unpack(Block& block) {
    using To = typename Unpacked::Element;
    const int64_t numbers = 2 * kTile * layout_.padded;
    for (int tile = 0; tile < kTilesPerBlock; ++tile) {
      To* to = (To*)unpacked_ + tile * numbers;
      const Element* from = (const Element*)block.tiles[tile];
      for (int64_t i = 0; tile < block.count && i < numbers; i += kLanes * kDepth) {
        Unpacked::write(Store::read(from + i), to + i);
      }
      block.tiles[tile] = (const uint8_t*)(tile < block.count ? to : (To*)unpacked_);
    }
    block.half_bytes = numbers / 2 * sizeof(To);
  }

  template <class Read>
  void meet(int start, const Block& block, const Block& next) {
    const int padded = layout_.padded;
    in_parts<kMaxRows>(rows_, [&](int row, auto num_rows) {
      const Operand* queries = queries_ + row * (padded / kDepth);
      multiply_keys<Read, num_rows.value>(block, queries, padded, row == 0, scores_ + row * kBlock);
    });
    for (int row = 0; row < rows_; ++row) weigh(row, start, block);
    in_parts<kMaxRows>(rows_, [&](int row, auto num_rows) {
      const Operand* weights = weights_ + row * (kBlock / kDepth);
      in_parts<kMaxVectors>(padded / kLanes, [&](int vector, auto num_vectors) {
        const Sums sums{sums_ + row * padded, decays_ + row, padded, vector};
        multiply_values<Read, num_rows.value, num_vectors.value>(
            block, weights, row == 0 ? &next : nullptr, sums);
      });
    });
  }

  // Turns a row's scores of a block into weights.
  void weigh(int row, int start, const Block& block) {
    const int position = job_.position + row / job_.group;
    const int high = position - start;
    const int low = job_.window ? high - job_.window + 1 : 0;
    float* scores = scores_ + row * kBlock;
    Vec peak = broadcast(peaks_[row]);
    for (int i = 0; i < kBlock; i += kLanes) {
      Vec score = load(scores + i) * broadcast(job_.scale);
      if (layout_.scaled) score *= load(block.scales[i / kTile] + i % kTile);
      if (low > i || high < i + kLanes - 1) score = keep_between(score, low - i, high - i);
      store(scores + i, score);
      peak = larger(score, peak);
    }
    const Vec new_peak = broadcast(largest(peak));
    decays_[row] = exp2(broadcast(peaks_[row]) - new_peak)[0];
    peaks_[row] = new_peak[0];
    Vec total = {};
    for (int i = 0; i < kBlock; i += kLanes) {
      Vec weight = exp2(load(scores + i) - new_peak);
      total += weight;
      if (layout_.scaled) weight *= load(block.scales[i / kTile] + kTile + i % kTile);
      Store::narrow(weight, weights_ + row * (kBlock / kDepth), i);
    }
    totals_[row] = totals_[row] * decays_[row] + sum_of(total);
  }

  const AttendJob& job_;
  const Layout& layout_;
  const int rows_;
  float *sums_, *peaks_, *totals_;
  uint8_t *unpacked_, *gathered_;
  Operand *queries_, *weights_;
  float *scores_, *decays_;
};

}  // namespace
