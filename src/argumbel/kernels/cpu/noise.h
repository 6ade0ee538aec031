// From keys to noise, a tile at a time. A tile is kTile words: a stretch of one row, or several short rows side by side.
#pragma once
#include <algorithm>

#include "arithmetic.h"
#include "kernels.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

constexpr int kTile = 1024;          // words in a tile; its buffers stay in the first-level cache
constexpr int kBlocks = kTile / 4;   // Philox blocks in a tile

// Ten rounds of Philox4x32 for `count` counters (count <= kBlocks), in place.
[[gnu::noinline]] static void philox(uint64_t seed, int count, uint32_t* __restrict c0, uint32_t* __restrict c1,
                   uint32_t* __restrict c2, uint32_t* __restrict c3) {
#ifdef __AVX512F__
    using word = uint64_t;  // 32-bit words in 64-bit lanes: a product is then one instruction, its halves one shift
#else
    using word = uint32_t;
#endif
    for (int i = 0; i < count; ++i) {
        word x0 = c0[i], x1 = c1[i], x2 = c2[i], x3 = c3[i];
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int r = 0; r < 10; ++r) {
            const uint64_t p0 = uint64_t{0xD2511F53u} * static_cast<uint32_t>(x0);
            const uint64_t p1 = uint64_t{0xCD9E8D57u} * static_cast<uint32_t>(x2);
            x0 = static_cast<word>(p1 >> 32) ^ x1 ^ k0;
            x2 = static_cast<word>(p0 >> 32) ^ x3 ^ k1;
            x1 = static_cast<word>(p1);
            x3 = static_cast<word>(p0);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        c0[i] = static_cast<uint32_t>(x0);
        c1[i] = static_cast<uint32_t>(x1);
        c2[i] = static_cast<uint32_t>(x2);
        c3[i] = static_cast<uint32_t>(x3);
    }
}

inline int64_t row_id(const Key& key, int64_t row) { return key.rows ? key.rows[row] : row; }
inline int64_t item_id(const Key& key, int64_t row, int64_t item) {
    return key.items ? key.items[row * key.items_row_stride + item] : item;
}

// One word, the slow way: for the few that need refining.
inline uint32_t word_at(uint64_t seed, int64_t row, int64_t item, uint32_t stream) {
    const uint64_t block = static_cast<uint64_t>(item) >> 2;
    uint32_t c[4][1] = {{static_cast<uint32_t>(block)},
                        {static_cast<uint32_t>(block >> 32) | stream << 30},
                        {static_cast<uint32_t>(row)},
                        {static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32)}};
    philox(seed, 1, c[0], c[1], c[2], c[3]);
    return c[item & 3][0];
}

// The words of a stretch of one row: `count` items from `begin`, which is a multiple of 4.
[[gnu::noinline]] static void row_words(const Key& key, int64_t row, int64_t begin, int count, uint32_t stream,
                      uint32_t* __restrict out) {
    alignas(64) uint32_t c[4][kBlocks];
    const uint64_t id = static_cast<uint64_t>(row_id(key, row));
    if (!key.items) {
        const int blocks = (count + 3) / 4;
        const uint64_t first = static_cast<uint64_t>(begin) >> 2;
        for (int i = 0; i < blocks; ++i) {
            c[0][i] = static_cast<uint32_t>(first + i);
            c[1][i] = static_cast<uint32_t>((first + i) >> 32) | stream << 30;
            c[2][i] = static_cast<uint32_t>(id);
            c[3][i] = static_cast<uint32_t>(id >> 32);
        }
        philox(key.seed, blocks, c[0], c[1], c[2], c[3]);
        for (int i = 0; i < blocks; ++i)
            for (int lane = 0; lane < 4; ++lane) out[4 * i + lane] = c[lane][i];
        return;
    }
    const int64_t* items = key.items + row * key.items_row_stride + begin;
    for (int done = 0; done < count; done += kBlocks) {  // any item of any block: one word of four is used
        const int part = std::min(kBlocks, count - done);
        for (int i = 0; i < part; ++i) {
            const uint64_t block = static_cast<uint64_t>(items[done + i]) >> 2;
            c[0][i] = static_cast<uint32_t>(block);
            c[1][i] = static_cast<uint32_t>(block >> 32) | stream << 30;
            c[2][i] = static_cast<uint32_t>(id);
            c[3][i] = static_cast<uint32_t>(id >> 32);
        }
        philox(key.seed, part, c[0], c[1], c[2], c[3]);
        for (int i = 0; i < part; ++i) out[done + i] = c[items[done + i] & 3][i];
    }
}

// Words to float32 noise of one law.
template <Law law>
inline float transform(uint32_t side, float h) {
    if constexpr (law == Law::uniform) return uniform(side, h);
    if constexpr (law == Law::exponential) return exponential(side, h);
    if constexpr (law == Law::logistic) return logistic(side, h);
    return gumbel(side, h);
}
template <Law law>
inline double transform64(uint32_t side, double h) {
    if constexpr (law == Law::uniform) return uniform64(side, h);
    if constexpr (law == Law::exponential) return exponential64(side, h);
    if constexpr (law == Law::logistic) return logistic64(side, h);
    return gumbel64(side, h);
}

// The common case of `count` words, whether or not they want refining; says whether any does.
template <Law law>
[[gnu::noinline]] static bool transform_words(const uint32_t* __restrict words, int count, float* __restrict out) {
    uint32_t any = 0;
    for (int i = 0; i < count; ++i) {
        any |= static_cast<uint32_t>(near_end(words[i]) < kRefineBelow);
        out[i] = transform<law>(side_mask(words[i]), half_distance(words[i]));
    }
    return any != 0;
}

template <Law law>
inline float refined(uint64_t seed, int64_t row, int64_t item, uint32_t first) {
    return transform<law>(side_mask(first), half_distance_refined(first, word_at(seed, row, item, 1)));
}

// float32 noise of `count` (<= kTile) items of one row from `begin`, a multiple of 4.
template <Law law>
inline void row_noise(const Key& key, int64_t row, int64_t begin, int count, float* __restrict out) {
    alignas(64) uint32_t words[kTile];
    row_words(key, row, begin, count, 0, words);
    if (transform_words<law>(words, count, out)) {
        for (int i = 0; i < count; ++i)
            if (near_end(words[i]) < kRefineBelow)
                out[i] = refined<law>(key.seed, row_id(key, row), item_id(key, row, begin + i), words[i]);
    }
}

template <Law law>
inline void row_noise(const Key& key, int64_t row, int64_t begin, int count, double* __restrict out) {
    alignas(64) uint32_t first[kTile], second[kTile];
    row_words(key, row, begin, count, 0, first);
    row_words(key, row, begin, count, 1, second);
    for (int i = 0; i < count; ++i)
        out[i] = transform64<law>(side_mask(first[i]), half_distance64(first[i], second[i]));
}

// Short rows side by side: kLanes rows, out[item][lane]. A vector then holds one item of many rows, so that nothing is
// wasted on the ends of rows, and sums and maxima over items need no shuffles.
constexpr int kLanes = 64;
constexpr int kShort = 64;  // rows up to this long are treated so

template <Law law>
inline void lanes_noise(const Key& key, int64_t row, int lanes, int items, float* __restrict out) {
    alignas(64) uint32_t c[4][kLanes];
    for (int begin = 0; begin < items; begin += 4) {
        for (int i = 0; i < kLanes; ++i) {
            const uint64_t id = static_cast<uint64_t>(row_id(key, row + (i < lanes ? i : 0)));
            c[0][i] = static_cast<uint32_t>(begin >> 2);
            c[1][i] = 0;
            c[2][i] = static_cast<uint32_t>(id);
            c[3][i] = static_cast<uint32_t>(id >> 32);
        }
        philox(key.seed, kLanes, c[0], c[1], c[2], c[3]);
        for (int lane = 0; lane < 4 && begin + lane < items; ++lane) {
            float* to = out + (begin + lane) * kLanes;
            if (transform_words<law>(c[lane], kLanes, to)) {
                for (int i = 0; i < lanes; ++i)
                    if (near_end(c[lane][i]) < kRefineBelow)
                        to[i] = refined<law>(key.seed, row_id(key, row + i), begin + lane, c[lane][i]);
            }
        }
    }
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
