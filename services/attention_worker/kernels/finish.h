// Brings partial results together, in their order, and rounds them to what was asked for.
#pragma once

#include "pages.h"

namespace {

using glinthawk::FinishJob;

// The output of one row.
inline void finish_row(const FinishJob& job, int row, float* wide, float* log_sum) {
  const int rows = job.num_positions * job.group;
  const int64_t partial_size = (int64_t)rows * (job.padded + 2);
  const float* peaks = job.partials + rows * job.padded + row;
  const float* totals = peaks + rows;
  float peak = peaks[0];
  for (int i = 1; i < job.num_partials; ++i) {
    peak = peaks[i * partial_size] > peak ? peaks[i * partial_size] : peak;
  }
  memset(wide, 0, job.padded * 4);
  float total = 0;
  for (int i = 0; i < job.num_partials; ++i) {
    const Vec weight = exp2(broadcast(peaks[i * partial_size] - peak));
    total += totals[i * partial_size] * weight[0];
    const float* sums = job.partials + i * partial_size + row * job.padded;
    for (int n = 0; n < job.padded; n += kLanes) {
      store(wide + n, multiply_add(load(sums + n), weight, load(wide + n)));
    }
  }
  const Vec inverse = broadcast(total == 0 ? 0 : 1 / total);  // a row may have seen nothing
  for (int n = 0; n < job.padded; n += kLanes) store(wide + n, load(wide + n) * inverse);
  if (log_sum) *log_sum = (peak + __builtin_log2f(total)) * 0.69314718f;
}

inline void finish_rows(const FinishJob& job, uint8_t* scratch) {
  const int64_t head_bytes = job.head_size * (job.dtype == glinthawk::kFp32 ? 4 : 2);
  float* wide = (float*)scratch;
  for (int row = 0; row < job.num_positions * job.group; ++row) {
    const int position = row / job.group, head = row % job.group;
    float* log_sum = job.log_sums ? job.log_sums + position * job.log_sum_stride + head : nullptr;
    finish_row(job, row, wide, log_sum);
    uint8_t* to = job.output + position * job.stride + head * head_bytes;
    narrow_row(wide, job.dtype, job.head_size, to);
  }
}

}  // namespace
