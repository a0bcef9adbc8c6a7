// Attention of one engine against double precision: what a processor without Python can check.
// Usage: check_attention INSTRUCTION_SET
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "attention.h"

namespace {

constexpr int kHeads = 4, kKvHeads = 2, kGroup = kHeads / kKvHeads, kLength = 150, kPrompt = 90;

struct Case {
  int32_t head_size, page_size, dtype;
};

std::vector<double> dense_attention(const std::vector<float>& qkv, int size) {
  const int width = (kHeads + 2 * kKvHeads) * size;
  std::vector<double> output(kLength * kHeads * size);
  for (int row = 0; row < kLength; ++row) {
    for (int head = 0; head < kHeads; ++head) {
      const float* query = &qkv[row * width + head * size];
      double* to = &output[(row * kHeads + head) * size];
      double total = 0;
      for (int token = 0; token <= row; ++token) {
        const float* key = &qkv[token * width + (kHeads + head / kGroup) * size];
        double score = 0;
        for (int i = 0; i < size; ++i) score += (double)query[i] * key[i];
        const double weight = std::exp(score / std::sqrt(size));
        total += weight;
        for (int i = 0; i < size; ++i) to[i] += weight * key[kKvHeads * size + i];
      }
      for (int i = 0; i < size; ++i) to[i] /= total;
    }
  }
  return output;
}

double error(const Case& what, const char* instruction_set) {
  const int size = what.head_size, width = (kHeads + 2 * kKvHeads) * size;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(kLength * width), output(kLength * kHeads * size);
  for (float& number : qkv) number = normal(random);
  std::vector<int32_t> table((kLength + what.page_size - 1) / what.page_size);
  const int32_t num_pages = table.size();
  for (int32_t i = 0; i < num_pages; ++i) table[i] = num_pages - 1 - i;
  glinthawk::Cache cache{nullptr, num_pages, 1, what.page_size, kHeads, kKvHeads, size, what.dtype};
  const int64_t bytes = glinthawk_page_bytes(&cache) * num_pages;
  cache.memory = (uint8_t*)std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  std::fill_n(cache.memory, bytes, 0);
  glinthawk::Engine* engine = glinthawk_open(&cache, instruction_set, 2, nullptr, 0);
  if (!engine) return INFINITY;
  // A prompt in two chunks, and then one generated token after the other.
  for (int start = 0, rows = 50; start < kLength; start += rows) {
    rows = start == 0 ? 50 : start < kPrompt ? kPrompt - start : 1;
    const int32_t entry[] = {0, start, rows, num_pages, kPrompt, 0};
    const GlinthawkMicrobatch microbatch{
        entry, 1, table.data(), num_pages, (const uint8_t*)&qkv[start * width], rows,
        (uint8_t*)&output[start * kHeads * size], nullptr, glinthawk::kFp32, 0, 0};
    if (glinthawk_attend(engine, &microbatch) != kDone) return INFINITY;
  }
  glinthawk_close(engine);
  std::free(cache.memory);
  const std::vector<double> expected = dense_attention(qkv, size);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (output[i] - expected[i]) * (output[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace

int main(int, char** arguments) {
  // Rounding keys and values costs bf16 more than the engine's own arithmetic does.
  const double max_errors[] = {5e-3, 1e-3, 1e-6, 1.5e-2};
  int failures = 0;
  for (int32_t dtype = glinthawk::kBf16; dtype <= glinthawk::kInt8; ++dtype) {
    for (int32_t size : {16, 64, 80}) {
      for (int32_t page_size : {16, 24, 64}) {
        const double found = error({size, page_size, dtype}, arguments[1]);
        const bool good = found <= max_errors[dtype];
        failures += !good;
        if (!good) std::printf("dtype %d, head %d, page %d: %g\n", dtype, size, page_size, found);
      }
    }
  }
  std::printf("%d of 36 shapes are wrong\n", failures);
  return failures != 0;
}
