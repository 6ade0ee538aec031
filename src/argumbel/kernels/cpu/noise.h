// From keys to noise, a tile at a time. A tile is kTile words: a stretch of one row, or several short rows side by side.
#pragma once
#include <algorithm>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>
#endif

#include "arithmetic.h"
#include "kernels.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

constexpr int kTile = 1024;         // words in a tile; its buffers stay in the first-level cache
constexpr int kBlocks = kTile / 4;  // Philox blocks in a tile

// Words of Philox4x32, one or a vector of them. On x86 they are kept in 64-bit lanes: a product is then one instruction, its
// upper half one shift, and what the lower half leaves in the upper is never looked at. (Left to itself the compiler
// multiplies 64 by 64 bits, at thrice the price.) On ARM the words lie side by side, and the halves of two products are
// gathered by one instruction each. A seed is shared by the counters, as numbers, or each counter has its own, as words.
// A round waits for the one before it, so kTogether vectors are made together: as many as registers hold (measured).
struct SingleWords {
    using Word = uint64_t;
    static constexpr int kCount = 1, kTogether = 1;
    static Word load(const uint32_t* c) { return *c; }
    static void store(uint32_t* c, Word x) { *c = static_cast<uint32_t>(x); }
    static Word multiply(Word a, uint32_t b) { return Word{b} * static_cast<uint32_t>(a); }
    static Word high(Word p) { return p >> 32; }
    static Word low(Word p) { return p; }
    static Word mix(Word a, Word b, Word k) { return a ^ b ^ k; }
    static Word next(Word k, uint32_t step) { return k + step; }
    static uint32_t next(uint32_t k, uint32_t step) { return k + step; }
};
#if defined(__AVX512F__)
struct Words {
    using Word = __m512i;
    static constexpr int kCount = 8, kTogether = 4;
    static Word load(const uint32_t* c) {
        return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(c)));
    }
    static void store(uint32_t* c, Word x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(c), _mm512_cvtepi64_epi32(x));
    }
    static Word multiply(Word a, uint32_t b) { return _mm512_mul_epu32(a, _mm512_set1_epi64(b)); }
    static Word high(Word p) { return _mm512_srli_epi64(p, 32); }
    static Word low(Word p) { return p; }
    static Word mix(Word a, Word b, Word k) { return _mm512_ternarylogic_epi64(a, b, k, 0x96); }
    static Word mix(Word a, Word b, uint32_t k) { return mix(a, b, _mm512_set1_epi64(k)); }
    static Word next(Word k, uint32_t step) { return _mm512_add_epi64(k, _mm512_set1_epi64(step)); }
    static uint32_t next(uint32_t k, uint32_t step) { return k + step; }
};
#elif defined(__AVX2__)
struct Words {
    using Word = __m256i;
    static constexpr int kCount = 4, kTogether = 2;
    static Word load(const uint32_t* c) {
        return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(c)));
    }
    static void store(uint32_t* c, Word x) {
        const __m256i even = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(c), _mm256_castsi256_si128(even));
    }
    static Word multiply(Word a, uint32_t b) { return _mm256_mul_epu32(a, _mm256_set1_epi64x(b)); }
    static Word high(Word p) { return _mm256_srli_epi64(p, 32); }
    static Word low(Word p) { return p; }
    static Word mix(Word a, Word b, Word k) { return _mm256_xor_si256(_mm256_xor_si256(a, b), k); }
    static Word mix(Word a, Word b, uint32_t k) { return mix(a, b, _mm256_set1_epi64x(k)); }
    static Word next(Word k, uint32_t step) { return _mm256_add_epi64(k, _mm256_set1_epi64x(step)); }
    static uint32_t next(uint32_t k, uint32_t step) { return k + step; }
};
#elif defined(__aarch64__) || defined(_M_ARM64)
struct Words {
    using Word = uint32x4_t;
    struct Product {
        uint32x4_t first, second;  // two products each, the lower half first
    };
    static constexpr int kCount = 4, kTogether = 1;
    static Word load(const uint32_t* c) { return vld1q_u32(c); }
    static void store(uint32_t* c, Word x) { vst1q_u32(c, x); }
    static Product multiply(Word a, uint32_t b) {
        return {vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(a), b)), vreinterpretq_u32_u64(vmull_high_n_u32(a, b))};
    }
    static Word high(Product p) { return vuzp2q_u32(p.first, p.second); }
    static Word low(Product p) { return vuzp1q_u32(p.first, p.second); }
    static Word mix(Word a, Word b, Word k) { return veorq_u32(veorq_u32(a, b), k); }
    static Word mix(Word a, Word b, uint32_t k) { return mix(a, b, vdupq_n_u32(k)); }
    static Word next(Word k, uint32_t step) { return vaddq_u32(k, vdupq_n_u32(step)); }
    static uint32_t next(uint32_t k, uint32_t step) { return k + step; }
};
#else
using Words = SingleWords;
#endif

// The halves of the seed: one for all counters, or one for each.
struct SharedSeed {
    uint64_t seed;
    template <class Ops>
    uint32_t half(int upper, int) const {
        return static_cast<uint32_t>(upper ? seed >> 32 : seed);
    }
};
struct OwnSeeds {
    const uint32_t* halves[2];
    template <class Ops>
    typename Ops::Word half(int upper, int i) const {
        return Ops::load(halves[upper] + i);
    }
};

// Ten rounds on as many counters from i on as are whole groups of vectors; returns where it stopped.
template <class Ops, int kTogether, class Seed>
ARGUMBEL_INLINE int philox_vectors(Seed seed, int i, int count, uint32_t* __restrict c0, uint32_t* __restrict c1,
                                   uint32_t* __restrict c2, uint32_t* __restrict c3) {
    using Word = typename Ops::Word;
    constexpr int kStep = kTogether * Ops::kCount;
    for (; i + kStep <= count; i += kStep) {
        Word x0[kTogether], x1[kTogether], x2[kTogether], x3[kTogether];
        decltype(seed.template half<Ops>(0, i)) k0[kTogether], k1[kTogether];
        for (int v = 0; v < kTogether; ++v) {
            const int at = i + v * Ops::kCount;
            x0[v] = Ops::load(c0 + at), x1[v] = Ops::load(c1 + at);
            x2[v] = Ops::load(c2 + at), x3[v] = Ops::load(c3 + at);
            k0[v] = seed.template half<Ops>(0, at), k1[v] = seed.template half<Ops>(1, at);
        }
        for (int r = 0; r < 10; ++r) {
            for (int v = 0; v < kTogether; ++v) {
                const auto p0 = Ops::multiply(x0[v], 0xD2511F53u), p1 = Ops::multiply(x2[v], 0xCD9E8D57u);
                x0[v] = Ops::mix(Ops::high(p1), x1[v], k0[v]);
                x2[v] = Ops::mix(Ops::high(p0), x3[v], k1[v]);
                x1[v] = Ops::low(p1);
                x3[v] = Ops::low(p0);
                k0[v] = Ops::next(k0[v], 0x9E3779B9u);
                k1[v] = Ops::next(k1[v], 0xBB67AE85u);
            }
        }
        for (int v = 0; v < kTogether; ++v) {
            const int at = i + v * Ops::kCount;
            Ops::store(c0 + at, x0[v]), Ops::store(c1 + at, x1[v]);
            Ops::store(c2 + at, x2[v]), Ops::store(c3 + at, x3[v]);
        }
    }
    return i;
}

// Philox4x32-10 of `count` counters (count <= kBlocks), in place.
template <class Seed>
[[gnu::noinline]] static void philox_of(Seed seed, int count, uint32_t* __restrict c0, uint32_t* __restrict c1,
                                        uint32_t* __restrict c2, uint32_t* __restrict c3) {
    int done = philox_vectors<Words, Words::kTogether>(seed, 0, count, c0, c1, c2, c3);
    done = philox_vectors<Words, 1>(seed, done, count, c0, c1, c2, c3);
    philox_vectors<SingleWords, 1>(seed, done, count, c0, c1, c2, c3);
}
inline void philox(uint64_t seed, int count, uint32_t* c0, uint32_t* c1, uint32_t* c2, uint32_t* c3) {
    philox_of(SharedSeed{seed}, count, c0, c1, c2, c3);
}

// So many counters rounded up to whole vectors (a few numbers made in vain cost less than a few made one by one).
inline int whole_vectors(int count) { return (count + 7) / 8 * 8; }

inline uint64_t seed_of(const Key& key, int64_t row) {
    return key.seeds ? static_cast<uint64_t>(key.seeds[row]) : key.seed;
}
inline int64_t row_id(const Key& key, int64_t row) { return key.rows ? key.rows[row] : row; }
inline int64_t item_id(const Key& key, int64_t row, int64_t item) {
    return key.items ? key.items[row * key.items_row_stride + item] : item;
}

// Philox of counters that belong to row(i) of a matrix.
template <class RowOf>
inline void philox_rows(const Key& key, int count, RowOf row, uint32_t* c0, uint32_t* c1, uint32_t* c2, uint32_t* c3) {
    if (!key.seeds) return philox(key.seed, count, c0, c1, c2, c3);
    alignas(64) uint32_t lower[kBlocks], upper[kBlocks];
    for (int i = 0; i < count; ++i) {
        const uint64_t seed = seed_of(key, row(i));
        lower[i] = static_cast<uint32_t>(seed);
        upper[i] = static_cast<uint32_t>(seed >> 32);
    }
    philox_of(OwnSeeds{{lower, upper}}, count, c0, c1, c2, c3);
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
    const uint64_t seed = seed_of(key, row), id = static_cast<uint64_t>(row_id(key, row));
    if (!key.items) {
        const int blocks = (count + 3) / 4, whole = whole_vectors(blocks);
        const uint64_t first = static_cast<uint64_t>(begin) >> 2;
        for (int i = 0; i < whole; ++i) {
            c[0][i] = static_cast<uint32_t>(first + i);
            c[1][i] = (static_cast<uint32_t>((first + i) >> 32) & 0x3FFFFFFFu) | stream << 30;  // ids may pass 0
            c[2][i] = static_cast<uint32_t>(id);
            c[3][i] = static_cast<uint32_t>(id >> 32);
        }
        philox(seed, whole, c[0], c[1], c[2], c[3]);
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
        philox(seed, part, c[0], c[1], c[2], c[3]);
        for (int i = 0; i < part; ++i) out[done + i] = c[items[done + i] & 3][i];
    }
}

// Words to float32 noise of one law.
template <Law law>
ARGUMBEL_INLINE float transform(uint32_t side, float h) {
    if constexpr (law == Law::uniform) return uniform(side, h);
    if constexpr (law == Law::exponential) return exponential(side, h);
    if constexpr (law == Law::logistic) return logistic(side, h);
    if constexpr (law == Law::odds) return odds(side, h);
    return gumbel(side, h);
}
template <Law law>
ARGUMBEL_INLINE double transform64(uint32_t side, double h) {
    if constexpr (law == Law::uniform) return uniform64(side, h);
    if constexpr (law == Law::exponential) return exponential64(side, h);
    if constexpr (law == Law::logistic) return logistic64(side, h);
    if constexpr (law == Law::odds) return odds64(side, h);
    return gumbel64(side, h);
}

// The common case of `count` words, whether or not they want refining; says whether any does.
template <Law law>
[[gnu::noinline]] static bool transform_words(const uint32_t* __restrict words, int count, float* __restrict out) {
    // Of a Gumbel number's two logarithms the second waits for the first: in a loop of its own it waits for none.
    constexpr Law first = law == Law::gumbel ? Law::exponential : law;
    uint32_t any = 0;
    for (int i = 0; i < count; ++i) {
        any |= static_cast<uint32_t>(near_end(words[i]) < kRefineBelow);
        out[i] = transform<first>(side_mask(words[i]), half_distance(words[i]));
    }
    if constexpr (law == Law::gumbel)
        for (int i = 0; i < count; ++i) out[i] = gumbel_of_exponential(out[i]);
    return any != 0;
}

template <Law law>
inline float refined(const Key& key, int64_t row, int64_t item, uint32_t first) {
    const uint32_t second = word_at(seed_of(key, row), row_id(key, row), item, 1);
    return transform<law>(side_mask(first), half_distance_refined(first, second));
}

// float64 noise of one item, given its first word.
template <Law law>
inline double noise64_of(const Key& key, int64_t row, int64_t item, uint32_t first) {
    const uint32_t second = word_at(seed_of(key, row), row_id(key, row), item, 1);
    return transform64<law>(side_mask(first), half_distance64(first, second));
}

// The noise of one item of a row.
template <Law law, class Real = float>
inline Real noise_at(const Key& key, int64_t row, int64_t place) {
    const int64_t item = item_id(key, row, place);
    const uint32_t first = word_at(seed_of(key, row), row_id(key, row), item, 0);
    if constexpr (std::is_same_v<Real, double>) {
        return noise64_of<law>(key, row, item, first);
    } else {
        if (near_end(first) < kRefineBelow) return refined<law>(key, row, item, first);
        return transform<law>(side_mask(first), half_distance(first));
    }
}

// float32 noise of `count` (<= kTile) items of one row from `begin`, a multiple of 4; and the words it was made of.
template <Law law>
inline void row_noise(const Key& key, int64_t row, int64_t begin, int count, float* __restrict out,
                      uint32_t* __restrict words) {
    row_words(key, row, begin, count, 0, words);
    if (transform_words<law>(words, count, out)) {
        for (int i = 0; i < count; ++i)
            if (near_end(words[i]) < kRefineBelow)
                out[i] = refined<law>(key, row, item_id(key, row, begin + i), words[i]);
    }
}

template <Law law>
inline void row_noise(const Key& key, int64_t row, int64_t begin, int count, float* __restrict out) {
    alignas(64) uint32_t words[kTile];
    row_noise<law>(key, row, begin, count, out, words);
}

// The same of `rows` whole rows, row r from out + r * stride, for stride = items rounded up to a multiple of 4, and
// rows * stride <= kTile: what is fixed in the cost of a tile is then shared by several rows. For keys without item ids.
inline int stride_of(int64_t items) { return static_cast<int>((items + 3) / 4 * 4); }

[[gnu::noinline]] static void rows_words(const Key& key, int64_t row, int rows, int items, uint32_t stream,
                                         uint32_t* __restrict words) {
    alignas(64) uint32_t c[4][kBlocks];
    const int blocks = stride_of(items) / 4, count = rows * blocks;
    for (int r = 0; r < rows; ++r) {
        const uint64_t id = static_cast<uint64_t>(row_id(key, row + r));
        for (int i = 0; i < blocks; ++i) {
            c[0][r * blocks + i] = static_cast<uint32_t>(i);
            c[2][r * blocks + i] = static_cast<uint32_t>(id);
            c[3][r * blocks + i] = static_cast<uint32_t>(id >> 32);
        }
    }
    const int whole = whole_vectors(count);
    std::fill_n(c[1], whole, stream << 30);
    for (int k : {0, 2, 3}) std::fill(c[k] + count, c[k] + whole, 0u);
    philox_rows(key, whole, [&](int i) { return row + std::min(i / blocks, rows - 1); }, c[0], c[1], c[2], c[3]);
    for (int i = 0; i < count; ++i)
        for (int lane = 0; lane < 4; ++lane) words[4 * i + lane] = c[lane][i];
}

template <Law law>
inline void rows_noise(const Key& key, int64_t row, int rows, int items, float* __restrict out) {
    alignas(64) uint32_t words[kTile];
    const int stride = stride_of(items), count = rows * stride;
    rows_words(key, row, rows, items, 0, words);
    if (transform_words<law>(words, count, out)) {
        for (int j = 0; j < count; ++j)
            if (near_end(words[j]) < kRefineBelow) out[j] = refined<law>(key, row + j / stride, j % stride, words[j]);
    }
}

// Both words to float64 noise.
template <Law law>
[[gnu::noinline]] static void transform_words64(const uint32_t* __restrict first, const uint32_t* __restrict second,
                                                int count, double* __restrict out) {
    constexpr Law inner = law == Law::gumbel ? Law::exponential : law;  // two loops, as in transform_words
    for (int i = 0; i < count; ++i)
        out[i] = transform64<inner>(side_mask(first[i]), half_distance64(first[i], second[i]));
    if constexpr (law == Law::gumbel)
        for (int i = 0; i < count; ++i) out[i] = gumbel_of_exponential(out[i]);
}

template <Law law>
inline void rows_noise(const Key& key, int64_t row, int rows, int items, double* __restrict out) {
    alignas(64) uint32_t first[kTile], second[kTile];
    rows_words(key, row, rows, items, 0, first);
    rows_words(key, row, rows, items, 1, second);
    transform_words64<law>(first, second, rows * stride_of(items), out);
}

template <Law law>
inline void row_noise(const Key& key, int64_t row, int64_t begin, int count, double* __restrict out) {
    alignas(64) uint32_t first[kTile], second[kTile];
    row_words(key, row, begin, count, 0, first);
    row_words(key, row, begin, count, 1, second);
    transform_words64<law>(first, second, count, out);
}

// Short rows side by side: kLanes rows, out[item][lane]. A vector then holds one item of many rows, so that nothing is
// wasted on the ends of rows, and sums and maxima over items need no shuffles.
constexpr int kLanes = 64;
constexpr int kShort = 64;  // rows up to this long may be treated so

// The words of four items from `begin` on of every lane, c[item][lane].
inline void lanes_words(const Key& key, int64_t row, int lanes, int begin, uint32_t stream, uint32_t (*c)[kLanes]) {
    const auto row_at = [&](int i) { return row + (i < lanes ? i : 0); };
    for (int i = 0; i < kLanes; ++i) {
        const uint64_t id = static_cast<uint64_t>(row_id(key, row_at(i)));
        c[0][i] = static_cast<uint32_t>(begin >> 2);
        c[1][i] = stream << 30;
        c[2][i] = static_cast<uint32_t>(id);
        c[3][i] = static_cast<uint32_t>(id >> 32);
    }
    philox_rows(key, kLanes, row_at, c[0], c[1], c[2], c[3]);
}

template <Law law>
inline void lanes_noise(const Key& key, int64_t row, int lanes, int items, float* __restrict out) {
    alignas(64) uint32_t c[4][kLanes];
    for (int begin = 0; begin < items; begin += 4) {
        lanes_words(key, row, lanes, begin, 0, c);
        for (int lane = 0; lane < 4 && begin + lane < items; ++lane) {
            float* to = out + (begin + lane) * kLanes;
            if (transform_words<law>(c[lane], kLanes, to)) {
                for (int i = 0; i < lanes; ++i)
                    if (near_end(c[lane][i]) < kRefineBelow)
                        to[i] = refined<law>(key, row + i, begin + lane, c[lane][i]);
            }
        }
    }
}

template <Law law>
inline void lanes_noise(const Key& key, int64_t row, int lanes, int items, double* __restrict out) {
    alignas(64) uint32_t first[4][kLanes], second[4][kLanes];
    for (int begin = 0; begin < items; begin += 4) {
        lanes_words(key, row, lanes, begin, 0, first);
        lanes_words(key, row, lanes, begin, 1, second);
        const int count = std::min(4, items - begin) * kLanes;
        transform_words64<law>(first[0], second[0], count, out + begin * kLanes);
    }
}

// float64 noise of `count` single items: out[i] is that of item place_of(i) in row row_of(i).
template <Law law, class RowOf, class PlaceOf>
inline void scattered_noise(const Key& key, int count, RowOf row_of, PlaceOf place_of, double* __restrict out) {
    for (int begin = 0; begin < count; begin += kBlocks) {
        alignas(64) uint32_t words[2][kBlocks], c[4][kBlocks];
        alignas(64) uint64_t item[kBlocks];
        const int part = std::min(kBlocks, count - begin), whole = whole_vectors(part);
        const auto row_at = [&](int i) { return row_of(begin + std::min(i, part - 1)); };
        for (int i = 0; i < whole; ++i)
            item[i] = static_cast<uint64_t>(item_id(key, row_at(i), place_of(begin + std::min(i, part - 1))));
        for (uint32_t stream = 0; stream < 2; ++stream) {
            for (int i = 0; i < whole; ++i) {
                const uint64_t id = static_cast<uint64_t>(row_id(key, row_at(i)));
                c[0][i] = static_cast<uint32_t>(item[i] >> 2);
                c[1][i] = static_cast<uint32_t>(item[i] >> 34) | stream << 30;
                c[2][i] = static_cast<uint32_t>(id);
                c[3][i] = static_cast<uint32_t>(id >> 32);
            }
            philox_rows(key, whole, row_at, c[0], c[1], c[2], c[3]);
            for (int i = 0; i < part; ++i) words[stream][i] = c[item[i] & 3][i];
        }
        transform_words64<law>(words[0], words[1], part, out + begin);
    }
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
