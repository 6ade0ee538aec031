// gumbel_max: the winner under keyed noise, which is never stored.
//
// Sums of a logit and its noise are compared in float32, while they are small. Far from 0 float32 would round the noise
// away and give ties to the first item, so there equal sums are compared by what rounding took off them (README, section
// 4): the quick race finds the largest sum, and a second look at the row settles which of those equal to it is largest.
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

#include "matrix.h"
#include "reduce.h"
#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// Perturbed logits of short rows side by side, keys[item][lane], and which of the rows hold NaN or +inf.
template <class T>
void lanes_keys(const Matrix& x, const Key& key, int64_t row, int lanes, float* __restrict keys,
                int32_t* __restrict bad) {
    alignas(64) float logits[kShort * kLanes];
    const int n = static_cast<int>(x.items);
    load_lanes<T>(x, row, lanes, logits);
    lanes_noise<Law::gumbel>(key, row, lanes, n, keys);
    for (int l = 0; l < kLanes; ++l) bad[l] = 0;
    for (int i = 0; i < n; ++i) {
        for (int l = 0; l < kLanes; ++l) {
            bad[l] |= static_cast<int32_t>(!(logits[i * kLanes + l] < kInf));
            keys[i * kLanes + l] += logits[i * kLanes + l];
        }
    }
}

// Sums of this magnitude or more count as far from 0: here and below, float32 rounds noise by less than 2^-16.
constexpr float kFar = 0x1p8f;
constexpr float kMostNoise = 64.0f;  // no noise is larger
bool is_far(float sum) { return std::abs(sum) >= kFar && std::abs(sum) < kInf; }

// What rounding took off sum = logit + noise, exactly (Dekker's fast two-sum). Far from 0 the logit is larger than any
// noise; elsewhere nothing is said to be lost.
ARGUMBEL_INLINE float rest_of(float logit, float noise, float sum) {
    return is_far(sum) ? noise - (sum - logit) : 0.0f;
}

// The first row whose softmax plain float32 does not compute: it is bad, its maximum may be far from 0, or a quotient of one
// of its logits and a temperature from 1e-3 on overflows. For few and short rows.
int64_t extreme_row(Matrix x, Key, int) {
    constexpr float kOverflows = 1e30f;
    int64_t found = -1;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        alignas(64) float buffer[kTile];
        for (int64_t row = 0; row < x.rows && found < 0; ++row) {
            float top = -kInf;
            for (int64_t i = 0; i < x.items; i += kTile) {
                const int count = static_cast<int>(std::min<int64_t>(kTile, x.items - i));
                const float* logits = fetch(row_of<T>(x, row) + i, count, buffer);
                if (any_bad(logits, count)) found = row;
                for (int j = 0; j < count; ++j)
                    if (logits[j] < -kOverflows && logits[j] > -kInf) found = row;
                top = std::max(top, max_of(logits, count));
            }
            if (!(std::abs(top) < kFar - kMostNoise)) found = row;
        }
    });
    return found;
}

struct Winner {
    float value = -kInf;
    int64_t index = -1;
    bool bad = false;
    float rest = 0;                    // where the value is far from 0: what rounding took off it
    void merge(const Winner& other) {  // `other` comes later in the row: a tie is the earlier one's
        bad |= other.bad;
        if (other.value > value) value = other.value, index = other.index;
    }
};

// Words from here on cannot give noise above `height`: the inverse of the Gumbel law, with a margin far beyond the error
// of the float32 arithmetic. 2^31 (every word on the upper side) when most could.
uint32_t word_limit(double height) {
    const double u = -std::expm1(-std::exp(-(height - 1e-3)));
    return u < 0.5 ? static_cast<uint32_t>(u * 0x1p32) + 2 : 0x80000000u;
}

// Calls body(j, noise) for those of `count` items from `begin` whose word is below the limit.
template <class F>
void candidates(const Key& key, int64_t row, int64_t begin, int count, uint32_t limit, uint32_t* words, F&& body) {
    row_words(key, row, begin, count, 0, words);
    uint32_t any = 0;
    for (int j = 0; j < count; ++j) any |= static_cast<uint32_t>(words[j] < limit);
    if (!any) return;
    for (int j = 0; j < count; ++j) {
        if (words[j] >= limit) continue;
        body(j, words[j] < kRefineBelow ? refined<Law::gumbel>(key, row, item_id(key, row, begin + j), words[j])
                                        : gumbel(0, half_distance(words[j])));
    }
}

// The winner of a stretch of a row. Once a runner leads by enough, only words that could beat it are made into noise.
template <class T>
void race(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, Winner& best) {
    alignas(64) float buffer[kTile], noise[kTile];
    alignas(64) uint32_t words[kTile];
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        const float* logits = items_of<T>(x, row, i, count, buffer);
        best.bad |= any_bad(logits, count);
        const float top = max_of(logits, count);
        if (top == -kInf) continue;  // nothing is allowed, as in most tiles of a row that is cut
        const double needed = static_cast<double>(best.value) - top;
        if (needed > 1.0) {
            candidates(key, row, i, count, word_limit(needed), words, [&](int j, float g) {
                const float value = logits[j] + g;
                if (value > best.value) best.value = value, best.index = i + j;
            });
            continue;
        }
        row_noise<Law::gumbel>(key, row, i, count, noise);
        for (int j = 0; j < count; ++j) noise[j] += logits[j];
        const float value = max_of(noise, count);
        if (value > best.value) best.value = value, best.index = i + index_of(noise, count, value);
    }
}

// Of the sums that equal the winner's, which is far from 0, the one that is exactly the largest, and the first of those.
template <class T>
void settle(const Matrix& x, const Key& key, int64_t row, int threads, Winner& winner) {
    if (winner.bad) return;
    const int64_t parts = (x.items + kTask - 1) / kTask;
    std::vector<Winner> exact(static_cast<size_t>(parts));  // of what rounding took off; the winner has lost some of it
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile], noise[kTile];
        Winner best;
        each_tile(x.items, part, [&](int64_t i, int count) {
            const float* logits = items_of<T>(x, row, i, count, buffer);
            row_noise<Law::gumbel>(key, row, i, count, noise);
            for (int j = 0; j < count; ++j) {
                const float sum = logits[j] + noise[j];
                if (sum != winner.value) continue;
                const float rest = rest_of(logits[j], noise[j], sum);
                if (rest > best.value) best.value = rest, best.index = i + j;
            }
        });
        exact[static_cast<size_t>(part)] = best;
    });
    Winner best;
    for (const Winner& part : exact) best.merge(part);
    winner.index = best.index, winner.rest = best.value;
}

// A few long rows are cut into stretches, raced apart and merged; else a task is a number of rows.
template <class T, class Done>
void race_rows(const Matrix& x, const Key& key, int threads, Done&& use) {
    const auto done = [&](int64_t row, Winner winner, int inner) {
        if (is_far(winner.value)) settle<T>(x, key, row, inner, winner);
        use(row, winner);
    };
    if (few_and_long(x.rows, x.items, threads)) {
        const int64_t parts = (x.items + kTask - 1) / kTask;
        std::vector<Winner> winners(static_cast<size_t>(x.rows * parts));
        parallel(x.rows * parts, threads, [&](int64_t task) {
            const int64_t from = task % parts * kTask;
            race<T>(x, key, task / parts, from, std::min(x.items, from + kTask), winners[static_cast<size_t>(task)]);
        });
        for (int64_t row = 0; row < x.rows; ++row) {
            Winner best;
            for (int64_t p = 0; p < parts; ++p) best.merge(winners[static_cast<size_t>(row * parts + p)]);
            done(row, best, threads);
        }
        return;
    }
    row_tasks(x.rows, Cut(x.rows, x.items).rows_per_task, threads, [&](int64_t first, int64_t last) {
        if (in_lanes(key, x.rows, x.items)) {
            alignas(64) float keys[kShort * kLanes];
            for (int64_t row = first; row < last; row += kLanes) {
                const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                alignas(64) float value[kLanes];
                alignas(64) int32_t index[kLanes], bad[kLanes];
                lanes_keys<T>(x, key, row, lanes, keys, bad);
                for (int l = 0; l < kLanes; ++l) value[l] = -kInf, index[l] = -1;
                for (int i = 0; i < static_cast<int>(x.items); ++i) {
                    for (int l = 0; l < kLanes; ++l) {
                        const bool wins = keys[i * kLanes + l] > value[l];
                        value[l] = wins ? keys[i * kLanes + l] : value[l];
                        index[l] = wins ? i : index[l];
                    }
                }
                for (int l = 0; l < lanes; ++l) done(row + l, Winner{value[l], index[l], bad[l] != 0}, 1);
            }
            return;
        }
        if (in_tiles(key, x.items)) {
            const int n = static_cast<int>(x.items);
            each_tile_of_rows<Law::gumbel>(key, first, last, n, [&](int64_t row, int rows, float* keys) {
                alignas(64) float buffer[kTile];
                for (int r = 0; r < rows; ++r, keys += stride_of(n)) {
                    const float top = add_and_max(keys, items_of<T>(x, row + r, 0, n, buffer), n);
                    done(row + r, Winner{top, top > -kInf ? index_of(keys, n, top) : -1, top == kInf}, 1);
                }
            });
            return;
        }
        for (int64_t row = first; row < last; ++row) {
            Winner best;
            race<T>(x, key, row, 0, x.items, best);
            done(row, best, 1);
        }
    });
}

int64_t gumbel_max(Matrix x, Key key, int threads, void* values, int64_t* indices) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        race_rows<T>(x, key, threads, [&](int64_t row, const Winner& winner) {
            const bool is_bad = winner.bad || winner.index < 0;
            if (is_bad) bad.add(row);
            from_float(is_bad ? kNan : winner.value, static_cast<T*>(values) + row);
            indices[row] = is_bad ? -1 : winner.index;
        });
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
