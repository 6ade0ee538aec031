// sample_without_replacement (law): k of n for k much smaller than n, in one pass over the logits.
//
// Item i arrives first at an exponential time of rate w_i = e^x_i; the order of arrival is the order drawn, and minus the
// logarithm of the time is the item's key. All arrivals together are one Poisson process of rate Z: its times are sums of
// exponentials, and who arrives is drawn in proportion to the weights, block first, item next. An item that arrives again
// is passed over, which is exact. When such repeats get frequent (a few items hold most of the weight), what has been
// drawn is struck out of the weights and the process goes on at the smaller rate, which is exact too: it has no memory.
#pragma once
#include <cmath>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "law.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

struct Arrivals {
    std::vector<double> keys;
    std::vector<int64_t> items;
};

// The weights of a row as they stand: blocks, and the items struck out of them.
template <class T>
struct Remaining {
    const Matrix& x;
    const T* data;
    Workspace& w;
    double top = -kInf;
    std::unordered_map<int64_t, std::vector<int32_t>> struck;

    Remaining(const Matrix& m, int64_t row, Workspace& space) : x(m), data(row_of<T>(m, row)), w(space) {}

    void open(int64_t b, BlockWeights& block) const {
        block.open(data + b * kTile, block_size(x.items, b), w.blocks[static_cast<size_t>(b)].top);
        const auto found = struck.find(b);
        if (found == struck.end()) return;
        for (int32_t j : found->second) block.weight[j] = 0;
        block.add_up((block_size(x.items, b) + kWide - 1) / kWide * kWide);
    }
    // Strikes items out, and weighs their blocks again on a scale of their own, so that what was negligible beside a
    // struck item is seen as soon as it is gone.
    void remove(const std::vector<int64_t>& items) {
        alignas(64) float buffer[kTile], left[kTile];
        for (int64_t item : items) struck[item / kTile].push_back(static_cast<int32_t>(item % kTile));
        for (int64_t item : items) {
            const int64_t b = item / kTile;
            const int count = block_size(x.items, b);
            const float* logits = fetch(data + b * kTile, count, buffer);
            std::copy(logits, logits + count, left);
            for (int32_t j : struck[b]) left[j] = -kInf;
            const float height = max_of(left, count);
            w.blocks[static_cast<size_t>(b)] = {height, height > -kInf ? exp_sum(left, count, height) : 0.0f};
        }
    }
    // Brings all blocks to one scale; false if nothing is left.
    bool add_up() {
        top = top_of_blocks(w.blocks);
        if (!(top > -kInf)) return false;
        w.rows.sums.resize(w.blocks.size());
        double total = 0;
        for (size_t b = 0; b < w.blocks.size(); ++b)
            w.rows.sums[b] = total += w.blocks[b].sum * std::exp(w.blocks[b].top - top);
        w.rows.build_guide();
        return true;
    }
};

// The first k of one row, in order. False if the row is bad or allows fewer than k items.
template <class T>
bool arrive(const Matrix& x, uint64_t seed, int64_t row, int64_t k, int threads, Workspace& w, Arrivals& out) {
    constexpr int64_t kArrivals = 1 * kFunction;          // function 1 of stream 2
    constexpr int64_t kGaps = kArrivals + kFunction / 2;  // the times between arrivals have draw numbers of their own
    constexpr int kRepeats = 16;                          // so many in a row are a sign that little weight is left
    out.keys.clear(), out.items.clear();
    double log_z;
    if (!weigh_row<T>(x, row, threads, w.blocks, w.rows, &log_z)) return false;
    Remaining<T> remaining(x, row, w);
    remaining.add_up();
    std::unordered_set<int64_t> drawn;
    drawn.reserve(static_cast<size_t>(2 * k));
    std::vector<int64_t> fresh;  // drawn since the last removal
    std::vector<BlockWeights> kept(w.blocks.size() <= 16 ? w.blocks.size() : 0);
    std::vector<char> is_weighed(kept.size());
    double time = 0, u[kBlocks], v[kBlocks], gap[kBlocks], unused[kBlocks];  // time in units of e^-top
    int64_t arrivals = 0;
    int repeats = 0;
    while (static_cast<int64_t>(out.items.size()) < k) {
        ask_whether_to_end();
        const int64_t missing = k - static_cast<int64_t>(out.items.size());
        const int count = static_cast<int>(std::min<int64_t>(kBlocks, 8 + missing + missing / 4));
        draw_uniforms(seed, row, kArrivals + arrivals, count, u, v);
        draw_uniforms(seed, row, kGaps + arrivals, count, gap, unused);
        arrivals += count;
        for (int i = 0; i < count && static_cast<int64_t>(out.items.size()) < k; ++i) {
            time -= std::log(gap[i]) / w.rows.total();
            const int64_t b = w.rows.index_of(u[i]);
            const size_t slot = static_cast<size_t>(b);
            BlockWeights& block = kept.empty() ? w.block : kept[slot];
            if (kept.empty() || !is_weighed[slot]) remaining.open(b, block);
            if (!kept.empty()) is_weighed[slot] = 1;
            const int64_t item = b * kTile + block.pick(v[i]);
            if (drawn.insert(item).second) {
                out.items.push_back(item);
                out.keys.push_back(remaining.top - std::log(time));
                fresh.push_back(item);
                repeats = 0;
            } else if (++repeats == kRepeats) {
                repeats = 0;
                const double before = remaining.top;
                remaining.remove(fresh);
                fresh.clear();
                std::fill(is_weighed.begin(), is_weighed.end(), 0);
                if (!remaining.add_up()) return false;
                time *= std::exp(remaining.top - before);
                break;  // the random numbers left of this batch are dropped; they were not looked at
            }
        }
    }
    return true;
}

// values[row][place], indices[row][place] in the order drawn; NaN and -1 throughout a bad row.
int64_t sample_without_replacement(Matrix x, Key key, int threads, int64_t k, void* values, int64_t* indices) {
    const uint64_t seed = key.seed;
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto draw_row = [&](int64_t row, int inner, Workspace& w, Arrivals& arrivals) {
            const bool good = arrive<T>(x, seed, row, k, inner, w, arrivals);
            if (!good) bad.add(row);
            for (int64_t p = 0; p < k; ++p) {
                from_float(good ? static_cast<float>(arrivals.keys[static_cast<size_t>(p)]) : kNan,
                           static_cast<T*>(values) + row * k + p);
                indices[row * k + p] = good ? arrivals.items[static_cast<size_t>(p)] : -1;
            }
        };
        if (x.rows >= 2 * threads) {
            const int64_t group = std::max<int64_t>(1, kTask / x.items);
            row_tasks(x.rows, group, threads, [&](int64_t first, int64_t last) {
                Workspace w;
                Arrivals arrivals;
                for (int64_t row = first; row < last; ++row) draw_row(row, 1, w, arrivals);
            });
        } else {
            Workspace w;
            Arrivals arrivals;
            for (int64_t row = 0; row < x.rows; ++row) draw_row(row, threads, w, arrivals);
        }
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
