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
        partial_totals_(peaks_ + rows_) {
    const auto take = [&](int64_t bytes) {
      uint8_t* taken = scratch;
      scratch += (bytes + 63) / 64 * 64;
      return taken;
    };
    wide_ = (float*)take(3 * layout_.padded * 4);
    gathered_ = take(layout_.tiled ? 0 : layout_.tile_bytes);
    queries_ = (Operand*)take((int64_t)rows_ * layout_.padded * 4);
    scores_ = (float*)take(rows_ * kBlock * 4);
    weights_ = (Operand*)take(rows_ * kBlock * 4);
    scales_ = (float*)take(rows_ * 4);
    decays_ = (float*)take(rows_ * 4);
    factors_ = (float*)take(rows_ * 4);
    totals_ = (float*)take(rows_ * kLanes * 4);
  }

  void run() {
    begin();
    Block block = find(job_, job_.first);
    for (int start = job_.first; start <= job_.last; start += kBlock) {
      const Block next = start + kBlock <= job_.last ? find(job_, start + kBlock)
                         : job_.next                 ? find(*job_.next, job_.next->first)
                                                     : block;
      // Just before its block is met, the memory of a new token is at hand.
      if (job_.write && start + kBlock > job_.last) write_rows<Store>(*job_.write, (uint8_t*)wide_);
      if (!layout_.tiled) gather_tile<Store>(job_.keys, start, job_.last, gathered_);
      meet(start, block, next);
      block = next;
    }
    for (int row = 0; row < rows_; ++row) {
      partial_totals_[row] = sum_of(load(totals_ + row * kLanes));
    }
  }

 private:
  using Element = typename Store::Element;
  using Operand = typename Store::Operand;
  static constexpr int kDepth = Store::kDepth;

  void begin() {
    const int64_t head_bytes = layout_.head_size * (job_.dtype == glinthawk::kFp32 ? 4 : 2);
    memset(wide_, 0, layout_.padded * 4);
    for (int row = 0; row < rows_; ++row) {
      const uint8_t* position = job_.query + row / job_.group * job_.stride;
      widen_row(position + row % job_.group * head_bytes, job_.dtype, layout_.head_size, wide_);
      Operand* query = queries_ + row * (layout_.padded / kDepth);
      scales_[row] = job_.scale * Store::narrow((const Vec*)wide_, layout_.padded / kLanes, query);
      peaks_[row] = kNothingSeen;
    }
    memset(totals_, 0, rows_ * kLanes * 4);
    memset(sums_, 0, (int64_t)rows_ * layout_.padded * 4);
  }

  // Gives where a block lies; one of tokens in small pages is yet to be gathered.
  Block find(const AttendJob& job, int start) const {
    Block block;
    block.count = 0;
    block.key_step = layout_.tile;
    block.stretch_bytes = layout_.half_bytes / layout_.tile * kGroup;
    const uint8_t* tile = gathered_;
    for (int group = 0; group < kGroups; ++group) {
      const int position = start + group * kGroup;
      const int token = position & (layout_.tile - 1);
      const bool present = position <= job.last;
      block.count += present;
      if (layout_.tiled && token == 0 && present) tile = tile_of(job.keys, position);
      block.keys[group] = tile + token * kDepth * sizeof(Element);
      block.key_stretches[group] = tile + token * layout_.padded * sizeof(Element);
      block.values[group] = block.key_stretches[group] + layout_.half_bytes;
      block.key_scales[group] = (const float*)(tile + 2 * layout_.half_bytes) + token;
      block.value_scales[group] = block.key_scales[group] + layout_.tile;
    }
    return block;
  }

  void meet(int start, const Block& block, const Block& next) {
    const int padded = layout_.padded;
    Ahead ahead(block, next);
    in_parts<kKeyRows>(rows_, [&](int row, auto num_rows) {
      const Operand* queries = queries_ + row * (padded / kDepth);
      float* scores = scores_ + row * kBlock;
      multiply_keys<Store, num_rows.value>(block, queries, padded, row ? nullptr : &ahead, scores);
    });
    // Memory must not rest while scores become weights; the rest is for the values.
    const int64_t row_bytes = ahead.total_bytes() / (rows_ < 2 ? 4 : 2 * rows_);
    for (int row = 0; row < rows_; ++row) {
      ahead.fetch(row_bytes);
      weigh(row, start, block);
    }
    const int vectors = padded / kLanes;
    const int parts = num_parts<kValueRows>(rows_) * num_parts<kValueVectors>(vectors);
    const int64_t step_bytes = (ahead.total_bytes() - rows_ * row_bytes) * kDepth / kBlock / parts;
    in_parts<kValueRows>(rows_, [&](int row, auto num_rows) {
      const Operand* weights = weights_ + row * (kBlock / kDepth);
      in_parts<kValueVectors>(vectors, [&](int vector, auto num_vectors) {
        const Sums sums{sums_ + row * padded, decays_ + row, factors_ + row, padded, vector};
        multiply_values<Store, num_rows.value, num_vectors.value>(block, weights, ahead, step_bytes,
                                                                 sums);
      });
    });
  }

  // Turns a row's scores of a block into weights, relative to the largest score so far.
  void weigh(int row, int start, const Block& block) {
    const int position = job_.position + row / job_.group;
    const int high = position - start;
    const int low = job_.window ? high - job_.window + 1 : 0;
    Vec scores[kVectorsPerBlock], weights[kVectorsPerBlock];
    Vec peaks = broadcast(peaks_[row]);
#pragma GCC unroll 16
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      const int first = v * kLanes;
      scores[v] = load(scores_ + row * kBlock + first) * broadcast(scales_[row]);
      if (layout_.scaled) scores[v] *= load(block.key_scales[first / kGroup] + first % kGroup);
      if (low > first || high < first + kLanes - 1) {
        scores[v] = keep_between(scores[v], low - first, high - first);
      }
      peaks = larger(scores[v], peaks);
    }
    const Vec peak = broadcast(largest(peaks));
    const Vec decay = exp2(broadcast(peaks_[row]) - peak);
    Vec total = load(totals_ + row * kLanes) * decay;
#pragma GCC unroll 16
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      const int first = v * kLanes;
      weights[v] = exp2(scores[v] - peak);
      total += weights[v];
      if (layout_.scaled && first < block.count * kGroup) {
        weights[v] *= load(block.value_scales[first / kGroup] + first % kGroup);
      }
    }
    store(totals_ + row * kLanes, total);
    peaks_[row] = peak[0];
    decays_[row] = decay[0];
    factors_[row] = Store::narrow(weights, kVectorsPerBlock, weights_ + row * (kBlock / kDepth));
  }

  const AttendJob& job_;
  const Layout& layout_;
  const int rows_;
  float *sums_, *peaks_, *partial_totals_;
  uint8_t* gathered_;
  Operand *queries_, *weights_;
  float* wide_;
  float* scores_;
  float *scales_, *decays_, *factors_;  // of each row: of its queries, its sums and its weights
  float* totals_;                       // of each row and lane
};

}  // namespace
