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
void lanes_keys(const Matrix& x, const Key& key, int64_t row, int lanes, WorkOf<T>* __restrict keys,
                int32_t* __restrict bad) {
    alignas(64) WorkOf<T> logits[kShort * kLanes];
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

// The largest key of each lane, and its item; -inf and -1 where there is none. A loop for each: GCC makes branches of both in
// one, on AVX2.
[[gnu::noinline]] void best_of_lanes(const float* __restrict keys, int n, float* __restrict value,
                                     int32_t* __restrict index) {
    for (int l = 0; l < kLanes; ++l) value[l] = -kInf, index[l] = -1;
    for (int i = 0; i < n; ++i) {
        const float* __restrict k = keys + i * kLanes;
        for (int l = 0; l < kLanes; ++l) index[l] = k[l] > value[l] ? i : index[l];
        for (int l = 0; l < kLanes; ++l) value[l] = larger(value[l], k[l]);
    }
}

// Sums of this magnitude or more count as far from 0: here and below, float32 rounds noise by less than 2^-16.
constexpr float kFar = 0x1p8f;
constexpr double kFar64 = 0x1p37;
constexpr float kMostNoise = 64.0f;  // no noise is larger
ARGUMBEL_INLINE bool is_far(float sum) { return std::abs(sum) >= kFar && std::abs(sum) < kInf; }
ARGUMBEL_INLINE bool is_far(double sum) { return std::abs(sum) >= kFar64 && std::abs(sum) < kInf; }

// What rounding took off sum = logit + noise, exactly (Dekker's fast two-sum). Far from 0 the logit is larger than any
// noise; elsewhere nothing is said to be lost.
template <class Real>
ARGUMBEL_INLINE Real rest_of(Real logit, Real noise, Real sum) {
    return is_far(sum) ? noise - (sum - logit) : Real{0};
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

template <class Real>
struct WinnerOf {
    Real value = -kInf;
    int64_t index = -1;
    bool bad = false;
    Real rest = 0;                       // where the value is far from 0: what rounding took off it
    void merge(const WinnerOf& other) {  // `other` comes later in the row: a tie is the earlier one's
        bad |= other.bad;
        if (other.value > value) value = other.value, index = other.index;
    }
};
using Winner = WinnerOf<float>;

// Words from here on cannot give noise above `height`: the inverse of the Gumbel law, with a margin far beyond the error
// of the float32 arithmetic. 2^31 (every word on the upper side) when most could.
uint32_t word_limit(double height) {
    const double u = -std::expm1(-std::exp(-(height - 1e-3)));
    return u < 0.5 ? static_cast<uint32_t>(u * 0x1p32) + 2 : 0x80000000u;
}

// Calls body(j, noise) for those of `count` items from `begin` whose word is below the limit.
template <class Real = float, class F>
void candidates(const Key& key, int64_t row, int64_t begin, int count, uint32_t limit, uint32_t* words, F&& body) {
    row_words(key, row, begin, count, 0, words);
    each_where(
        count, [=](int j) { return words[j] < limit; },
        [&](int j) {
            if constexpr (std::is_same_v<Real, double>) {
                body(j, noise64_of<Law::gumbel>(key, row, item_id(key, row, begin + j), words[j]));
            } else {
                body(j, words[j] < kRefineBelow ? refined<Law::gumbel>(key, row, item_id(key, row, begin + j), words[j])
                                                : gumbel(0, half_distance(words[j])));
            }
        });
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

// float32 noise and float64 noise of one key differ by less, and so do their sums with logits near the top, in float32.
constexpr float kMargin = 0x1p-10f;

// How many of the keys come within the margin of the largest, which is `top`: whether noise in float64 is asked.
[[gnu::noinline]] int rivals_of(const float* __restrict keys, int count, float top) {
    int32_t found = 0;
    for (int i = 0; i < count; ++i) found += static_cast<int32_t>(keys[i] >= top - kMargin);
    return found;
}

// Calls body(i, count, logits, top) for each tile of a stretch of a row of float64 in which an item is allowed; `bad`
// becomes true where there is NaN or +inf.
template <class F>
void each_sound_tile(const Matrix& x, int64_t row, int64_t from, int64_t to, bool& bad, F&& body) {
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        const double* logits = row_of<double>(x, row) + i;
        const double top = top_of(logits, count);
        if (!(top < kInf)) bad = true;
        if (top < kInf && top > -kInf) body(i, count, logits, top);
    }
}

// float32 noise becomes sums with float64 logits, measured from the largest of these.
inline void add_near(float* noise, const double* logits, double top, int count) {
    alignas(64) float near[kTile];
    measure_from(top, logits, count, near);
    for (int j = 0; j < count; ++j) noise[j] += near[j];
}

// The winner of a stretch of a row of float64. Its noise takes twice the words, and long logarithms; so float32 noise of the
// first words finds out who comes near the top, most often the winner alone, and float64 decides among these.
void race64(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, WinnerOf<double>& best) {
    alignas(64) float keys[kTile];
    alignas(64) uint32_t words[kTile];
    each_sound_tile(x, row, from, to, best.bad, [&](int64_t i, int count, const double* logits, double top) {
        const auto enter = [&](int j, double g) {
            const double value = logits[j] + g;
            if (value > best.value) best.value = value, best.index = i + j;
        };
        const double needed = best.value - top;
        if (needed > 1.0) return candidates<double>(key, row, i, count, word_limit(needed), words, enter);
        row_noise<Law::gumbel>(key, row, i, count, keys, words);
        add_near(keys, logits, top, count);
        const float bar = std::max(max_of(keys, count), static_cast<float>(needed)) - kMargin;
        each_where(
            count, [&](int j) { return keys[j] >= bar; },
            [&](int j) { enter(j, noise64_of<Law::gumbel>(key, row, item_id(key, row, i + j), words[j])); });
    });
}

// Rows of float64 from `row` on, each with the one item that can win it: their noise is made together. A row with rivals is
// raced by itself. done(row, winner).
template <class Done>
void decide64(const Matrix& x, const Key& key, int64_t row, int rows, const int32_t* item, const int32_t* rivals,
              const int32_t* bad, Done&& done) {
    alignas(64) double noise[kLanes];
    alignas(64) int32_t place[kLanes];
    for (int r = 0; r < rows; ++r) place[r] = std::max(item[r], 0);
    scattered_noise<Law::gumbel>(key, rows, [&](int r) { return row + r; }, [&](int r) { return place[r]; }, noise);
    for (int r = 0; r < rows; ++r) {
        WinnerOf<double> winner;
        winner.bad = bad[r] != 0;
        if (!winner.bad && item[r] >= 0) {
            if (rivals[r] == 1)
                winner.value = row_of<double>(x, row + r)[item[r]] + noise[r], winner.index = item[r];
            else
                race64(x, key, row + r, 0, x.items, winner);
        }
        done(row + r, winner);
    }
}

// Short rows side by side.
template <class T, class Done>
void race_lanes(const Matrix& x, const Key& key, int64_t row, int lanes, Done&& done) {
    alignas(64) float keys[kShort * kLanes], value[kLanes];
    alignas(64) int32_t index[kLanes], bad[kLanes];
    lanes_keys<T>(x, key, row, lanes, keys, bad);
    best_of_lanes(keys, static_cast<int>(x.items), value, index);
    for (int l = 0; l < lanes; ++l) done(row + l, Winner{value[l], index[l], bad[l] != 0});
}

template <class Done>
void race_lanes64(const Matrix& x, const Key& key, int64_t row, int lanes, Done&& done) {
    alignas(64) float near[kShort * kLanes], keys[kShort * kLanes], value[kLanes];
    alignas(64) double top[kLanes];
    alignas(64) int32_t index[kLanes], rivals[kLanes] = {}, bad[kLanes];
    const int n = static_cast<int>(x.items);
    load_lanes_near(x, row, lanes, near, top, bad);
    lanes_noise<Law::gumbel>(key, row, lanes, n, keys);
    for (int j = 0; j < n * kLanes; ++j) keys[j] += near[j];
    best_of_lanes(keys, n, value, index);
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) rivals[l] += static_cast<int32_t>(keys[i * kLanes + l] >= value[l] - kMargin);
    decide64(x, key, row, lanes, index, rivals, bad, done);
}

// Rows of which several fill a tile.
template <class T, class Done>
void race_tiles(const Matrix& x, const Key& key, int64_t first, int64_t last, Done&& done) {
    const int n = static_cast<int>(x.items);
    each_tile_of_rows<Law::gumbel>(key, first, last, n, [&](int64_t row, int rows, float* keys) {
        alignas(64) float buffer[kTile];
        for (int r = 0; r < rows; ++r, keys += stride_of(n)) {
            const float top = add_and_max(keys, items_of<T>(x, row + r, 0, n, buffer), n);
            done(row + r, Winner{top, top > -kInf ? index_of(keys, n, top) : -1, top == kInf});
        }
    });
}

template <class Done>
void race_tiles64(const Matrix& x, const Key& key, int64_t first, int64_t last, Done&& done) {
    const int n = static_cast<int>(x.items);
    each_tile_of_rows<Law::gumbel>(key, first, last, n, [&](int64_t group, int rows, float* keys) {
        alignas(64) float near[kTile];
        for (int64_t row = group; row < group + rows; row += kLanes) {
            int32_t index[kLanes], rivals[kLanes], bad[kLanes];
            const int together = static_cast<int>(std::min<int64_t>(kLanes, group + rows - row));
            for (int r = 0; r < together; ++r, keys += stride_of(n)) {
                const double* logits = row_of<double>(x, row + r);
                const double top = top_of(logits, n);
                bad[r] = !(top < kInf), index[r] = -1;
                if (bad[r] || top == -kInf) continue;
                measure_from(top, logits, n, near);
                const float most = add_and_max(keys, near, n);
                index[r] = index_of(keys, n, most), rivals[r] = rivals_of(keys, n, most);
            }
            decide64(x, key, row, together, index, rivals, bad, done);
        }
    });
}

// Of the sums that equal the winner's, which is far from 0, the one that is exactly the largest, and the first of those.
template <class T>
void settle(const Matrix& x, const Key& key, int64_t row, int threads, WinnerOf<WorkOf<T>>& winner) {
    using Real = WorkOf<T>;
    if (winner.bad) return;
    const int64_t parts = (x.items + kTask - 1) / kTask;
    std::vector<WinnerOf<Real>> exact(static_cast<size_t>(parts));  // of what rounding took off; the winner lost some
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile];
        alignas(64) Real noise[kTile];
        WinnerOf<Real> best;
        each_tile(x.items, part, [&](int64_t i, int count) {
            const Real* logits = items_of<T>(x, row, i, count, buffer);
            row_noise<Law::gumbel>(key, row, i, count, noise);
            for (int j = 0; j < count; ++j) {
                const Real sum = logits[j] + noise[j];
                if (sum != winner.value) continue;
                const Real rest = rest_of(logits[j], noise[j], sum);
                if (rest > best.value) best.value = rest, best.index = i + j;
            }
        });
        exact[static_cast<size_t>(part)] = best;
    });
    WinnerOf<Real> best;
    for (const WinnerOf<Real>& part : exact) best.merge(part);
    winner.index = best.index, winner.rest = best.value;
}

// A few long rows are cut into stretches, raced apart and merged; else a task is a number of rows.
template <class T, class Done>
void race_rows(const Matrix& x, const Key& key, int threads, Done&& use) {
    using Real = WorkOf<T>;
    const auto stretch = [&](int64_t row, int64_t from, int64_t to, WinnerOf<Real>& best) {
        if constexpr (std::is_same_v<T, double>)
            race64(x, key, row, from, to, best);
        else
            race<T>(x, key, row, from, to, best);
    };
    const auto done = [&](int64_t row, WinnerOf<Real> winner, int inner) {
        if (is_far(winner.value)) settle<T>(x, key, row, inner, winner);
        use(row, winner);
    };
    if (few_and_long(x.rows, x.items, threads)) {
        const int64_t parts = (x.items + kTask - 1) / kTask;
        std::vector<WinnerOf<Real>> winners(static_cast<size_t>(x.rows * parts));
        parallel(x.rows * parts, threads, [&](int64_t task) {
            const int64_t from = task % parts * kTask;
            stretch(task / parts, from, std::min(x.items, from + kTask), winners[static_cast<size_t>(task)]);
        });
        for (int64_t row = 0; row < x.rows; ++row) {
            WinnerOf<Real> best;
            for (int64_t p = 0; p < parts; ++p) best.merge(winners[static_cast<size_t>(row * parts + p)]);
            done(row, best, threads);
        }
        return;
    }
    row_tasks(x.rows, Cut(x.rows, x.items).rows_per_task, threads, [&](int64_t first, int64_t last) {
        const auto one = [&](int64_t row, const WinnerOf<Real>& winner) { done(row, winner, 1); };
        if (in_lanes(key, x.rows, x.items)) {
            for (int64_t row = first; row < last; row += kLanes) {
                const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                if constexpr (std::is_same_v<T, double>)
                    race_lanes64(x, key, row, lanes, one);
                else
                    race_lanes<T>(x, key, row, lanes, one);
            }
            return;
        }
        if (in_tiles(key, x.items)) {
            if constexpr (std::is_same_v<T, double>)
                race_tiles64(x, key, first, last, one);
            else
                race_tiles<T>(x, key, first, last, one);
            return;
        }
        for (int64_t row = first; row < last; ++row) {
            WinnerOf<Real> best;
            stretch(row, 0, x.items, best);
            one(row, best);
        }
    });
}

int64_t gumbel_max(Matrix x, Key key, int threads, void* values, int64_t* indices) {
    BadRow bad;
    by_any_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        race_rows<T>(x, key, threads, [&](int64_t row, const WinnerOf<WorkOf<T>>& winner) {
            const bool is_bad = winner.bad || winner.index < 0;
            if (is_bad) bad.add(row);
            from_float(is_bad ? static_cast<WorkOf<T>>(kNan) : winner.value, static_cast<T*>(values) + row);
            indices[row] = is_bad ? -1 : winner.index;
        });
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
