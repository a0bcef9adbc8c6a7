// The C interface: checks a microbatch, cuts it into jobs, and lets the threads do them.
#include "attention.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>

#include "pool.h"
#include "spans.h"

namespace glinthawk {
namespace {

constexpr int kRowsPerTile = 64;            // of queries, about
constexpr int64_t kMaxPartials = 16 << 20;  // floats that splits may take before they are finished
constexpr int kPiecesPerThread = 4;  // of generated positions: so that none waits long for the last

struct Free {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

template <class T>
std::unique_ptr<T, Free> allocate(int64_t count) {
  return std::unique_ptr<T, Free>((T*)::operator new(count * sizeof(T), std::align_val_t(64)));
}

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

Layout make_layout(const Cache& cache) {
  Layout layout{};
  layout.page_size = cache.page_size;
  layout.num_kv_heads = cache.num_kv_heads;
  layout.head_size = cache.head_size;
  layout.padded = round_up(cache.head_size, kGroup);
  layout.tiled = cache.page_size % kGroup == 0;
  layout.tile = layout.tiled ? std::gcd(cache.page_size, kBlock) : kBlock;
  layout.scaled = cache.dtype == kInt8;
  const int64_t element_bytes = cache.dtype == kInt8 ? 1 : cache.dtype == kFp32 ? 4 : 2;
  const int64_t scale_bytes = layout.scaled ? 2 * sizeof(float) : 0;
  layout.half_bytes = layout.tile * layout.padded * element_bytes;
  layout.tile_bytes = 2 * layout.half_bytes + layout.tile * scale_bytes;
  layout.row_bytes = 2 * layout.head_size * element_bytes + scale_bytes;
  layout.head_bytes = layout.tiled ? cache.page_size / layout.tile * layout.tile_bytes
                                   : round_up(cache.page_size * layout.row_bytes, 64);
  return layout;
}

const KernelTable* find_kernels(const char* instruction_set) {
  const auto is = [&](const char* name) { return std::strcmp(instruction_set, name) == 0; };
  if (is("portable")) return &portable_kernels;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (is("avx2") && avx2) return &avx2_kernels;
  if (is("avx512") && avx512) return &avx512_kernels;
  const bool dot = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (is("avx512_bf16") && avx512 && dot) return &avx512_bf16_kernels;
#endif
  return nullptr;
}

}  // namespace

// One page pool, and the threads that work on it.
class Engine {
 public:
  Engine(const Cache& cache, const KernelTable& kernels, int num_threads,
         const std::vector<int>& cpus)
      : cache_(cache),
        layout_(make_layout(cache)),
        kernel_(kernels.of_dtype[cache.dtype]),
        read_(kernels.read),
        pool_(num_threads, cpus),
        group_(cache.num_heads / cache.num_kv_heads),
        scale_(1.44269504f / std::sqrt((float)cache.head_size)),
        height_(std::max(kGroup, kRowsPerTile / group_ / kGroup * kGroup)) {
    for (int worker = 0; worker < pool_.size(); ++worker) {
      scratch_.push_back(allocate<uint8_t>(scratch_bytes(height_ * group_, layout_.padded)));
      local_.push_back(allocate<float>(partial_size(height_)));
    }
  }

  bool attend(const GlinthawkMicrobatch& microbatch) {
    if (!begin(microbatch, cache_.num_heads)) return false;
    write([](const Entry& entry) { return !entry.written_in_passing(); });
    meet_prompts();
    meet_generated();
    return true;
  }

  // Takes rows without queries, and has nothing attend.
  bool write_only(const GlinthawkMicrobatch& microbatch) {
    if (!begin(microbatch, 0)) return false;
    write([](const Entry&) { return true; });
    return true;
  }

  uint64_t read() {
    constexpr int64_t kPiece = 1 << 20;
    const int64_t size = cache_.num_layers * cache_.num_pages * page_bytes();
    std::atomic<uint64_t> sum{0};
    pool_.run((size + kPiece - 1) / kPiece, [&](int, Pieces& pieces) {
      for (int64_t piece; (piece = pieces.claim()) < pieces.count();) {
        sum += read_(cache_.memory + piece * kPiece, std::min(kPiece, size - piece * kPiece));
      }
    });
    return sum;
  }

  // Of one layer.
  int64_t page_bytes() const { return cache_.num_kv_heads * layout_.head_bytes; }

 private:
  int64_t partial_size(int num_positions) const {
    return (int64_t)num_positions * group_ * (layout_.padded + 2);
  }

  Keys keys(const Span& span) const { return {&layout_, layer_, span.entry->table, span.head}; }

  bool begin(const GlinthawkMicrobatch& microbatch, int num_heads) {
    if (!read_entries(microbatch, cache_, entries_)) return false;
    microbatch_ = &microbatch;
    head_bytes_ = cache_.head_size * (microbatch.dtype == kFp32 ? 4 : 2);
    keys_at_ = num_heads * head_bytes_;
    row_bytes_ = keys_at_ + 2 * cache_.num_kv_heads * head_bytes_;
    layer_ = cache_.memory + microbatch.layer * cache_.num_pages * page_bytes();
    return true;
  }

  // A block is one piece, so that only one thread clears and fills a group.
  template <class Wanted>
  void write(Wanted wanted) {
    spans_.clear();
    for (const Entry& entry : entries_) {
      if (!wanted(entry)) continue;
      cut(entry.start, (int64_t)entry.start + entry.num_rows, kBlock, [&](int start, int stop) {
        for (int head = 0; head < cache_.num_kv_heads; ++head) {
          spans_.push_back({&entry, start, stop - start, 0, 0, head, 1, 0, 1, 0, 0});
        }
      });
    }
    pool_.run(spans_.size(), [this](int worker, Pieces& pieces) {
      for (int64_t piece; (piece = pieces.claim()) < pieces.count();) {
        kernel_.write(write_job(spans_[piece]), scratch_[worker].get());
      }
    });
  }

  // Query tiles of prompts, those with most to do first.
  void meet_prompts() {
    spans_.clear();
    for (const Entry& entry : entries_) {
      const int stop = std::min<int64_t>((int64_t)entry.start + entry.num_rows, entry.num_prompt);
      cut(entry.start, stop, height_, [&](int start, int end) {
        const int first = first_key(start), last = entry.local ? entry.start - 1 : end - 1;
        for (int head = 0; head < cache_.num_kv_heads; ++head) {
          spans_.push_back({&entry, start, end - start, first, last, head, 1, 0, 1, 0, 0});
        }
      });
    }
    const auto longer = [](const Span& a, const Span& b) { return a.cost() > b.cost(); };
    std::stable_sort(spans_.begin(), spans_.end(), longer);
    meet_spans(0, 0);
  }

  // Generated positions, split.
  void meet_generated() {
    spans_.clear();
    const int64_t max_keys = generated_keys() / (kPiecesPerThread * pool_.size());
    int64_t partials = 0, counters = 0;
    for (const Entry& entry : entries_) {
      const int64_t stop = (int64_t)entry.start + entry.num_rows;
      cut(std::max(entry.start, entry.num_prompt), stop, height_, [&](int from, int to) {
        const int first = first_key(from), num_positions = to - from;
        const int num_splits = (to - 1) / kSplit - first / kSplit + 1;
        int64_t heads_each = max_keys / std::min(kSplit, to - first);
        heads_each = std::clamp<int64_t>(heads_each, 1, height_ / num_positions);
        cut(0, cache_.num_kv_heads, heads_each, [&](int head, int end) {
          int split = 0;
          cut(first, to, kSplit, [&](int start, int stop) {
            spans_.push_back({&entry, from, num_positions, start, stop - 1, head, end - head,
                              split++, num_splits, partials, counters});
          });
          if (num_splits == 1) return;
          partials += (end - head) * num_splits * partial_size(num_positions);
          ++counters;
        });
        if (partials > kMaxPartials) {
          meet_spans(partials, counters);
          spans_.clear();
          partials = counters = 0;
        }
      });
    }
    meet_spans(partials, counters);
  }

  // How many keys generated positions have before them, about, of all KV heads.
  int64_t generated_keys() const {
    int64_t keys = 0;
    for (const Entry& entry : entries_) {
      const int64_t stop = (int64_t)entry.start + entry.num_rows;
      if (stop > entry.num_prompt) keys += stop - first_key(stop - 1);
    }
    return keys * cache_.num_kv_heads;
  }

  int first_key(int position) const {
    const int window = microbatch_->window;
    return window ? std::max(0, position - window + 1) / kBlock * kBlock : 0;
  }

  void meet_spans(int64_t partials, int64_t counters) {
    if (partials > num_partials_) {
      partials_ = allocate<float>(partials);
      num_partials_ = partials;
    }
    if (counters > (int64_t)counters_.size()) counters_ = std::vector<std::atomic<int>>(counters);
    pool_.run(spans_.size(), [this](int worker, Pieces& pieces) {
      // The piece after the one at hand is claimed already, so that it can be fetched.
      int64_t piece = pieces.claim();
      AttendJob job = attend_job(piece);
      while (piece < pieces.count()) {
        const int64_t following = pieces.claim();
        const AttendJob next = attend_job(following);
        if (following < pieces.count()) job.next = &next;
        const Span& span = spans_[piece];
        const WriteJob write = write_job(span);
        const bool is_last = span.split + 1 == span.num_splits;
        if (span.entry->written_in_passing() && is_last) job.write = &write;
        meet(worker, span, job);
        piece = following;
        job = next;
      }
    });
  }

  void meet(int worker, const Span& span, const AttendJob& job) {
    uint8_t* scratch = scratch_[worker].get();
    float* partials = local_[worker].get();
    if (span.num_splits > 1) {
      partials = partials_.get() + span.partial;
      kernel_.attend(job, partials + span.split * partial_size(span.num_positions), scratch);
      // Whoever is last brings the splits together.
      std::atomic<int>& done = counters_[span.counter];
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < span.num_splits) return;
      done.store(0, std::memory_order_relaxed);
    } else {
      kernel_.attend(job, partials, scratch);
    }
    for (int head = 0; head < span.num_heads; ++head) {
      kernel_.finish(finish_job(span, head, partials + head * job.partial_stride), scratch);
    }
  }

  WriteJob write_job(const Span& span) const {
    WriteJob job{};
    job.keys = keys(span);
    job.position = span.position;
    job.num_rows = span.num_positions;
    job.dtype = microbatch_->dtype;
    job.key = microbatch_->qkv + span.row() * row_bytes_ + keys_at_ + span.head * head_bytes_;
    job.value = job.key + cache_.num_kv_heads * head_bytes_;
    job.stride = row_bytes_;
    return job;
  }

  AttendJob attend_job(int64_t piece) const {
    if (piece >= (int64_t)spans_.size()) return {};
    const Span& span = spans_[piece];
    AttendJob job{};
    job.keys = keys(span);
    job.num_heads = span.num_heads;
    job.partial_stride = span.num_splits * partial_size(span.num_positions);
    job.position = span.position;
    job.num_positions = span.num_positions;
    job.group = group_;
    job.window = microbatch_->window;
    job.first = span.first;
    job.last = span.last;
    job.dtype = microbatch_->dtype;
    job.query = microbatch_->qkv + span.row() * row_bytes_ + span.head * group_ * head_bytes_;
    job.stride = row_bytes_;
    job.scale = scale_;
    return job;
  }

  FinishJob finish_job(const Span& span, int head, const float* partials) const {
    const int64_t first = span.row() * cache_.num_heads + (span.head + head) * group_;
    FinishJob job{};
    job.partials = partials;
    job.num_partials = span.num_splits;
    job.num_positions = span.num_positions;
    job.group = group_;
    job.head_size = cache_.head_size;
    job.padded = layout_.padded;
    job.dtype = microbatch_->dtype;
    job.output = microbatch_->output + first * head_bytes_;
    job.stride = cache_.num_heads * head_bytes_;
    job.log_sums = microbatch_->log_sums ? microbatch_->log_sums + first : nullptr;
    job.log_sum_stride = cache_.num_heads;
    return job;
  }

  const Cache cache_;
  const Layout layout_;
  const Kernel kernel_;
  uint64_t (*const read_)(const uint8_t*, int64_t);
  Pool pool_;
  const int group_;   // query heads per KV head
  const float scale_;  // log2(e) / sqrt(head size)
  const int height_;   // positions of a query tile
  std::vector<std::unique_ptr<uint8_t, Free>> scratch_;  // of each thread
  std::vector<std::unique_ptr<float, Free>> local_;      // of each thread: a partial

  // Of the microbatch at hand.
  const GlinthawkMicrobatch* microbatch_ = nullptr;
  int64_t head_bytes_ = 0, row_bytes_ = 0;
  int64_t keys_at_ = 0;  // in a row: after its queries, if it has any
  uint8_t* layer_ = nullptr;
  std::vector<Entry> entries_;
  std::vector<Span> spans_;
  std::unique_ptr<float, Free> partials_;
  int64_t num_partials_ = 0;
  std::vector<std::atomic<int>> counters_;
};

}  // namespace glinthawk

using glinthawk::Cache;
using glinthawk::Engine;

bool glinthawk_supports(const char* instruction_set) {
  return glinthawk::find_kernels(instruction_set) != nullptr;
}

int64_t glinthawk_page_bytes(const Cache* cache) {
  const glinthawk::Layout layout = glinthawk::make_layout(*cache);
  return cache->num_layers * cache->num_kv_heads * layout.head_bytes;
}

Engine* glinthawk_open(const Cache* cache, const char* instruction_set, int num_threads,
                       const int32_t* cpus, int num_cpus) {
  const glinthawk::KernelTable* kernels = glinthawk::find_kernels(instruction_set);
  if (!kernels) return nullptr;
  try {
    const std::vector<int> on(cpus, cpus + num_cpus);
    return new Engine(*cache, *kernels, num_threads, on);
  } catch (const std::exception&) {
    return nullptr;
  }
}

GlinthawkOutcome glinthawk_write(Engine* engine, const GlinthawkMicrobatch* microbatch) {
  try {
    return engine->write_only(*microbatch) ? kDone : kRefused;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

GlinthawkOutcome glinthawk_attend(Engine* engine, const GlinthawkMicrobatch* microbatch) {
  try {
    return engine->attend(*microbatch) ? kDone : kRefused;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

uint64_t glinthawk_read(Engine* engine) { return engine->read(); }

void glinthawk_close(Engine* engine) { delete engine; }
