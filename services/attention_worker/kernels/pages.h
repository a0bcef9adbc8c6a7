// Where tokens lie in the pages: writes them, finds them, and makes whole tiles of small pages.
#pragma once

#include "interface.h"
#include "stores.h"

namespace {

using glinthawk::Dtype;
using glinthawk::kBlock;
using glinthawk::kChunk;
using glinthawk::kGroup;
using glinthawk::Keys;
using glinthawk::Layout;
using glinthawk::WriteJob;

inline void widen_row(const uint8_t* from, int dtype, int count, float* to) {
  switch (dtype) {
    case glinthawk::kBf16: return widen_all<Bf16>(from, count, to);
    case glinthawk::kFp16: return widen_all<Fp16>(from, count, to);
    default: return widen_all<float>(from, count, to);
  }
}

inline void narrow_row(const float* from, int dtype, int count, uint8_t* to) {
  switch (dtype) {
    case glinthawk::kBf16: return narrow_all<Bf16>(from, count, to);
    case glinthawk::kFp16: return narrow_all<Fp16>(from, count, to);
    default: return narrow_all<float>(from, count, to);
  }
}

// Rounds a row to its stored form, and gives the scale that takes it back. Both rows have room for
// whole vectors.
template <class Element>
inline float quantize(float* from, int count, Element* to) {
  narrow_all<Element>(from, count, (uint8_t*)to);
  return 1.0f;
}

inline float quantize(float* from, int count, int8_t* to) {
  Vec peaks = {}, sums = {};
  for (int i = count; i % kLanes != 0; ++i) from[i] = 0;
  for (int i = 0; i < count; i += kLanes) {
    const Vec sizes = (Vec)((IntVec)load(from + i) & 0x7fffffff);
    peaks = larger(sizes, peaks);
    sums += sizes;
  }
  if (!(sum_of(sums) < __builtin_inff())) {  // what is not finite must show in what comes out
    memset(to, 0, count);
    return __builtin_nanf("");
  }
  const float peak = largest(peaks);
  const Vec inverse = broadcast(peak > 0 ? 127.0f / peak : 0.0f);
  for (int i = 0; i < count; i += kLanes) narrow_lanes(load(from + i) * inverse, to + i);
  return peak / 127.0f;
}

inline uint8_t* page_of(const Keys& keys, int position) {
  const Layout& layout = *keys.layout;
  const int64_t page = keys.table[position / layout.page_size];
  return keys.layer + (page * layout.num_kv_heads + keys.head) * layout.head_bytes;
}

inline uint8_t* tile_of(const Keys& keys, int position) {
  const Layout& layout = *keys.layout;
  // A tile is a power of two, and a division would take longer than all the rest.
  const int tile = position % layout.page_size >> __builtin_ctz(layout.tile);
  return page_of(keys, position) + tile * layout.tile_bytes;
}

inline uint8_t* row_of(const Keys& keys, int position) {
  const Layout& layout = *keys.layout;
  return page_of(keys, position) + position % layout.page_size * layout.row_bytes;
}

// A token's key and value as they lie in a row of a small page.
template <class Element>
struct Row {
  const Element* key;
  const Element* value;
  float key_scale, value_scale;
};

template <class Element>
inline Row<Element> read_row(const Layout& layout, const uint8_t* row) {
  const Element* key = (const Element*)row;
  const uint8_t* scales = row + 2 * layout.head_size * sizeof(Element);
  if (!layout.scaled) return {key, key + layout.head_size, 1, 1};
  return {key, key + layout.head_size, load_as<float>(scales), load_as<float>(scales + 4)};
}

// Puts numbers among others that lie `kDepth` by `kDepth`, as the one at `place`.
template <int kDepth, class Element>
inline void put_values(const Element* from, int count, int place, Element* to) {
  if constexpr (kDepth == 1) {
    memcpy(to, from, count * sizeof(Element));
  } else {
    // All of a pair is written, since that takes a tenth of the stores.
    static_assert(kDepth == 2);
    using Part = std::conditional_t<sizeof(Element) == 1, uint8_t, uint16_t>;
    using Pair = std::conditional_t<sizeof(Element) == 1, uint16_t, uint32_t>;
    constexpr int kBits = 8 * sizeof(Element);
    const int shift = place * kBits;
    const Pair kept = (Pair)((Part)~0 << (kBits - shift));
    for (int i = 0; i < count; ++i) {
      const Pair other = load_as<Pair>(to + i * kDepth) & kept;
      store_as<Pair>(to + i * kDepth, other | (Pair)load_as<Part>(from + i) << shift);
    }
  }
}

// Numbers of each value that lie next to each other, from some number on.
inline int chunk_width(const Layout& layout, int first) {
  return layout.padded - first < kChunk ? layout.padded - first : kChunk;
}

template <class Store>
inline void put(const Layout& layout, uint8_t* tile, int token,
                const Row<typename Store::Element>& row) {
  constexpr int kDepth = Store::kDepth;
  using Element = typename Store::Element;
  Element* keys = (Element*)tile + token * kDepth;
  Element* values = (Element*)(tile + layout.half_bytes);
  for (int i = 0; i < layout.head_size; i += kDepth) {
    memcpy(keys, row.key + i, kDepth * sizeof(Element));
    keys += layout.tile * kDepth;
  }
  for (int first = 0; first < layout.head_size; first += kChunk) {
    const int width = chunk_width(layout, first);
    const int count = layout.head_size - first < width ? layout.head_size - first : width;
    Element* to = values + first * layout.tile + token / kDepth * width * kDepth;
    put_values<kDepth>(row.value + first, count, token % kDepth, to);
  }
  if (layout.scaled) {
    float* scales = (float*)(tile + 2 * layout.half_bytes);
    scales[token] = row.key_scale;
    scales[layout.tile + token] = row.value_scale;
  }
}

// Asks for the memory that a token is about to be put into.
template <class Store>
inline void fetch_slot(const Keys& keys, int position) {
  using Element = typename Store::Element;
  const Layout& layout = *keys.layout;
  const int token = position % layout.tile;
  const uint8_t* tile = tile_of(keys, position);
  const Element* key = (const Element*)tile + token * Store::kDepth;
  for (int i = 0; i < layout.head_size; i += Store::kDepth, key += layout.tile * Store::kDepth) {
    __builtin_prefetch(key, 1);
  }
  for (int first = 0; first < layout.head_size; first += kChunk) {
    const int width = chunk_width(layout, first);
    const Element* values = (const Element*)(tile + layout.half_bytes) + first * layout.tile;
    values += token / Store::kDepth * width * Store::kDepth;
    for (int i = 0; i < width * Store::kDepth; i += 64 / sizeof(Element)) {
      __builtin_prefetch(values + i, 1);
    }
  }
}

// Zeroes the values of a group: leftovers may be NaN, and zero times NaN is NaN.
template <class Element>
inline void clear_values(const Layout& layout, uint8_t* tile, int token) {
  Element* values = (Element*)(tile + layout.half_bytes);
  for (int first = 0; first < layout.padded; first += kChunk) {
    const int width = chunk_width(layout, first);
    memset(values + first * layout.tile + token * width, 0, kGroup * width * sizeof(Element));
  }
  if (layout.scaled) {
    memset(tile + 2 * layout.half_bytes + (layout.tile + token) * 4, 0, kGroup * 4);
  }
}

// Makes a tile of tokens that lie in small pages; those after `last` are zero.
template <class Store>
inline void gather_tile(const Keys& keys, int position, int last, uint8_t* tile) {
  const Layout& layout = *keys.layout;
  memset(tile, 0, layout.tile_bytes);
  for (int token = 0; token < layout.tile && position + token <= last; ++token) {
    const uint8_t* row = row_of(keys, position + token);
    put<Store>(layout, tile, token, read_row<typename Store::Element>(layout, row));
  }
}

template <class Store>
void write_rows(const WriteJob& job, uint8_t* scratch) {
  using Element = typename Store::Element;
  const Layout& layout = *job.keys.layout;
  const int size = layout.head_size;
  float* wide = (float*)scratch;
  Element* key = (Element*)(wide + layout.padded);
  for (int index = 0; index < job.num_rows; ++index) {
    const int position = job.position + index;
    widen_row(job.key + index * job.stride, job.dtype, size, wide);
    const float key_scale = quantize(wide, size, key);
    widen_row(job.value + index * job.stride, job.dtype, size, wide);
    const float value_scale = quantize(wide, size, key + size);
    if (layout.tiled) {
      uint8_t* tile = tile_of(job.keys, position);
      const int token = position % layout.tile;
      if (token % kGroup == 0) clear_values<Element>(layout, tile, token);
      put<Store>(layout, tile, token, {key, key + size, key_scale, value_scale});
    } else {
      uint8_t* row = row_of(job.keys, position);
      const int64_t bytes = 2 * size * sizeof(Element);
      memcpy(row, key, bytes);
      if (layout.scaled) {
        store_as(row + bytes, key_scale);
        store_as(row + bytes + 4, value_scale);
      }
    }
  }
}

}  // namespace
