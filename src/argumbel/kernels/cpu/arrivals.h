// arrivals: which items of a long row arrive within a stretch of time, item i at time noise_i / w_i. The noise is E, u or
// u / (1 - u).
//
// It is at least u, and u at least its first 32 bits: an item whose first word is above w times the end of the stretch is
// passed over, by one product and one comparison. The few others take the second word and the logarithm, in float64.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// The ids of the items: item i is (0, first + i), (0, items[i]) or (rows[i], items[i]).
struct Ids {
    uint64_t seed;
    int64_t first;
    const int64_t *rows, *items;

    int64_t row(int64_t i) const { return rows ? rows[i] : 0; }
    int64_t item(int64_t i) const { return items ? items[i] : first + i; }
    bool follow_each_other(int64_t i, int count) const {
        if (!items) return true;
        int64_t other = 0;
        for (int j = 1; j < count; ++j) other |= (items[i + j] - items[i + j - 1]) ^ 1;
        return other == 0;
    }
};

// The first words of `count` items from i on, `count` + 3 at most kTile: a pointer into `buffer`.
inline const uint32_t* first_words(const Ids& ids, int64_t i, int count, uint32_t* buffer) {
    if (ids.rows) {
        alignas(64) uint32_t c[4][kBlocks];
        for (int done = 0; done < count; done += kBlocks) {
            const int part = std::min(kBlocks, count - done);
            const int64_t *rows = ids.rows + i + done, *items = ids.items + i + done;
            for (int j = 0; j < part; ++j) {
                const uint64_t block = static_cast<uint64_t>(items[j]) >> 2, row = static_cast<uint64_t>(rows[j]);
                c[0][j] = static_cast<uint32_t>(block);
                c[1][j] = static_cast<uint32_t>(block >> 32);
                c[2][j] = static_cast<uint32_t>(row);
                c[3][j] = static_cast<uint32_t>(row >> 32);
            }
            philox(ids.seed, part, c[0], c[1], c[2], c[3]);
            for (int j = 0; j < part; ++j) buffer[done + j] = c[items[j] & 3][j];
        }
        return buffer;
    }
    if (ids.follow_each_other(i, count)) {  // four of them share a block
        const int64_t item = ids.item(i), lead = item & 3;
        row_words({ids.seed, nullptr, nullptr, 0}, 0, item - lead, static_cast<int>(lead) + count, 0, buffer);
        return buffer + lead;
    }
    row_words({ids.seed, nullptr, ids.items, 0}, 0, i, count, 0, buffer);
    return buffer;
}

struct Arrival {
    double time;
    int64_t position;
};

// When items of each group stop counting.
struct Bars {
    const double* ends;
    const int32_t* groups;  // null: all items are of group 0
    double of(int64_t i) const { return ends[groups ? groups[i] : 0]; }
};

constexpr int kTogether = 32;                  // items that are looked at one by one when one of them may arrive
constexpr int64_t kScan = 4 * kTask;           // items in a task
constexpr double kSlack = 1e-5;                // far beyond the error of float32 arithmetic
constexpr double kSmall = 1e-30, kBig = 1e30;  // products of weights and times between them do without float64
template <class Weight>
constexpr Weight kLargest = std::numeric_limits<Weight>::max();

// The arrivals of a stretch of items, in the order of their positions; whether a weight was none. Real is what products are
// computed in.
template <Law law, class Real, class Weight>
bool scan(const Weight* weights, const Ids& ids, double lo, const Bars& bars, int64_t from, int64_t to,
          std::vector<Arrival>& found) {
    alignas(64) uint32_t buffer[kTile];
    alignas(64) float noise[kTile];
    alignas(64) Real limits[kTile];
    const auto limit = [&](int64_t i) { return static_cast<Real>(bars.of(i) * (1 + kSlack)); };
    const Real after = static_cast<Real>(lo * (1 - kSlack)), same = bars.groups ? Real{0} : limit(0);
    uint32_t bad = 0;
    for (int64_t i = from; i < to;) {
        // The first tile is cut so that the ids of the next begin a block.
        const int most = kTile - 4 - static_cast<int>(ids.item(i) & 3);
        const int count = static_cast<int>(std::min<int64_t>(most, to - i));
        const uint32_t* words = first_words(ids, i, count, buffer);
        const Weight* w = weights + i;

        // Looks at all items, and closely at those of which may_arrive(item, weight) is true.
        const auto look = [&](auto&& may_arrive) {
            for (int begin = 0; begin < count; begin += kTogether) {
                const int end = std::min(count, begin + kTogether);
                uint32_t any = 0;
                for (int j = begin; j < end; ++j) {
                    bad |= static_cast<uint32_t>(!(w[j] >= 0)) | static_cast<uint32_t>(!(w[j] <= kLargest<Weight>));
                    any |= static_cast<uint32_t>(may_arrive(j, static_cast<Real>(w[j])));
                }
                for (int j = begin; any && j < end; ++j) {
                    if (!may_arrive(j, static_cast<Real>(w[j])) || !(w[j] > 0)) continue;
                    const uint32_t second = word_at(ids.seed, ids.row(i + j), ids.item(i + j), 1);
                    const double e = transform64<law>(side_mask(words[j]), half_distance64(words[j], second));
                    const double time = e / static_cast<double>(w[j]);
                    if (time > lo && time <= bars.of(i + j)) found.push_back({time, i + j});
                }
            }
        };
        const auto in_time = [&](int j, Real weight, Real bar) {
            const Real e = static_cast<Real>(noise[j]);
            const bool is_rough = near_end(words[j]) < kRefineBelow;
            return is_rough | ((e > weight * after) & (e < weight * bar));
        };
        const auto soon = [&](int j, Real weight, Real bar) {
            return static_cast<Real>(static_cast<int32_t>(words[j] >> 1)) * Real{0x1p-31f} < weight * bar;
        };
        if (bars.groups)
            for (int j = 0; j < count; ++j) limits[j] = limit(i + j);
        if (lo > 0) transform_words<law>(words, count, noise);
        if (lo > 0 && bars.groups) look([&](int j, Real weight) { return in_time(j, weight, limits[j]); });
        if (lo > 0 && !bars.groups) look([&](int j, Real weight) { return in_time(j, weight, same); });
        if (!(lo > 0) && bars.groups) look([&](int j, Real weight) { return soon(j, weight, limits[j]); });
        if (!(lo > 0) && !bars.groups) look([&](int j, Real weight) { return soon(j, weight, same); });
        i += count;
    }
    return bad != 0;
}

// times and positions of all that arrive after `lo` and by their group's bar, in the order of their positions; there is
// room for every item in both. `x` is one row of weights, float32 or float64; -1, or the first weight that is none.
int64_t arrivals(Matrix x, Key key, int threads, Law law, double lo, const double* bars, const int32_t* groups,
                 int64_t n_bars, int64_t first, double* times, int64_t* positions, int64_t* count) {
    const int64_t tasks = (x.items + kScan - 1) / kScan;
    std::vector<std::vector<Arrival>> found(static_cast<size_t>(tasks));
    const Ids ids{key.seed, first, key.rows, key.items};
    const Bars ends{bars, groups};
    bool single = lo == 0 || lo > kSmall;
    for (int64_t g = 0; g < n_bars; ++g) single &= bars[g] < kBig || std::isinf(bars[g]);
    BadRow bad;
    const auto run_law = [&](auto* weights, auto real, auto which) {
        using Real = decltype(real);
        parallel(tasks, threads, [&](int64_t task) {
            const int64_t from = task * kScan, to = std::min(x.items, from + kScan);
            if (scan<which(), Real>(weights, ids, lo, ends, from, to, found[static_cast<size_t>(task)]))
                for (int64_t i = from; i < to; ++i)
                    if (!(weights[i] >= 0 && std::isfinite(weights[i]))) {
                        bad.add(i);
                        break;
                    }
        });
    };
    const auto run = [&](auto* weights, auto real) {
        if (law == Law::exponential) run_law(weights, real, std::integral_constant<Law, Law::exponential>{});
        if (law == Law::uniform) run_law(weights, real, std::integral_constant<Law, Law::uniform>{});
        if (law == Law::odds) run_law(weights, real, std::integral_constant<Law, Law::odds>{});
    };
    if (x.dtype == Dtype::f64)
        run(static_cast<const double*>(x.data), double{});
    else if (single)
        run(static_cast<const float*>(x.data), float{});
    else
        run(static_cast<const float*>(x.data), double{});
    *count = 0;
    for (const auto& part : found)
        for (const Arrival& arrival : part) times[*count] = arrival.time, positions[(*count)++] = arrival.position;
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
