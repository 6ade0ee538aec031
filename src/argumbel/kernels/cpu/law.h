// categorical (law). A few draws of a long row: rejection (envelope.h), one pass for maxima. Many draws of one row: alias
// tables. Rows of one block: inversion of running sums. And the weights of blocks, for whoever draws from those: by
// max-stability the race of all items is a race of blocks, each a Gumbel at its logsumexp, then one inside the winner.
#pragma once
#include <cmath>
#include <memory>
#include <vector>

#include "envelope.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// Numbers with their running sums, ready for many inversions: guide[j] is where to begin to look for u in [j, j + 1) / n.
struct Cumulative {
    std::vector<double> sums;
    std::vector<int32_t> guide;

    double total() const { return sums.back(); }
    void build_guide() {
        const int64_t n = static_cast<int64_t>(sums.size());
        guide.resize(static_cast<size_t>(n));
        const double step = total() / static_cast<double>(n);
        int64_t at = 0;
        for (int64_t j = 0; j < n; ++j) {
            while (at + 1 < n && sums[static_cast<size_t>(at)] <= step * static_cast<double>(j)) ++at;
            guide[static_cast<size_t>(j)] = static_cast<int32_t>(at);
        }
    }
    // The first place whose running sum exceeds u * total: its weight is not zero.
    int64_t index_of(double u) const {
        const int64_t n = static_cast<int64_t>(sums.size());
        const double target = u * total();
        int64_t at = guide[static_cast<size_t>(u * static_cast<double>(n))];
        // The guide's own rounding may be a place too far.
        while (at > 0 && sums[static_cast<size_t>(at - 1)] > target) --at;
        while (at < n && sums[static_cast<size_t>(at)] <= target) ++at;
        if (at < n) return at;
        for (at = n - 1; at > 0 && sums[static_cast<size_t>(at - 1)] >= sums[static_cast<size_t>(at)];) --at;
        return at;  // u * total rounded up to total: the last place with any weight
    }
};

template <class T>
Block weigh(const T* x, int count, bool& bad) {
    alignas(64) float buffer[kTile];
    const auto* logits = fetch(x, count, buffer);
    const double top = top_of(logits, count);
    bad |= top == kInf;
    if (!(top > -kInf && top < kInf)) return {-kInf, 0.0f};
    const Measured items = measured(logits, count, top, buffer);
    return {top, exp_sum(items.items, count, items.top)};
}

// The weights of a block, for a draw or a few: its weights e^(x - top), and their sums in kWide interleaved groups, which cost one
// vector addition for every vector of weights.
struct BlockWeights {
    alignas(64) float weight[kTile];
    alignas(64) float group[kWide];
    double total;

    template <class T>
    void open(const T* x, int count, double top) {
        alignas(64) float buffer[kTile];
        const Measured items = measured(fetch(x, count, buffer), count, top, buffer);
        exp_of(items.items, count, items.top, weight);
        const int padded = (count + kWide - 1) / kWide * kWide;
        std::fill(weight + count, weight + padded, 0.0f);
        add_up(padded);
    }
    void add_up(int padded) {
        for (int l = 0; l < kWide; ++l) group[l] = 0;
        for (int i = 0; i < padded; i += kWide)
            for (int l = 0; l < kWide; ++l) group[l] += weight[i + l];
        total = 0;
        for (int q = 0; q < kWide / kWidth; ++q) {
            double sum = 0;
            for (int l = q * kWidth; l < (q + 1) * kWidth; ++l) sum += group[l];
            total += sixteen[q] = sum;
        }
        size = padded;
    }
    // An item in proportion to its weight, by inversion of u.
    int pick(double u) const {
        const double target = u * total;
        double reached = 0, before = 0;
        int from = 0;  // the sixteen groups that hold the target
        for (int q = 0; q + 1 < kWide / kWidth && reached + sixteen[q] <= target; ++q)
            reached += sixteen[q], from = (q + 1) * kWidth;
        int chosen = -1;  // the group that holds it, or the last with any weight should rounding leave it beyond
        for (int l = from; l < from + kWidth && reached <= target; ++l) {
            if (group[l] > 0) chosen = l, before = reached;
            reached += group[l];
        }
        for (int l = from - 1; chosen < 0; --l)
            if (group[l] > 0) chosen = l, before = 0;
        int item = -1;
        for (int i = chosen; i < size; i += kWide) {
            if (!(weight[i] > 0)) continue;
            item = i;
            if ((before += weight[i]) > target) break;
        }
        return item;
    }

private:
    double sixteen[kWide / kWidth];  // sums of sixteen groups each
    int size;
};

// Walker's alias table, by Vose's construction: a draw is one look-up. `share` is the part of a slot that its own item
// keeps; the share of an item of tiny weight is as exact as its weight, so rare items are drawn at their rate.
struct Slot {
    float share;
    int32_t other;
};

template <class Weight>
void build_alias(const Weight* weight, int64_t n, Slot* slots, std::vector<double>& left, std::vector<int32_t>& stack) {
    left.resize(static_cast<size_t>(n));
    stack.resize(static_cast<size_t>(n));
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += weight[i];
    const double scale = static_cast<double>(n) / total;
    int64_t small = 0, large = n, heaviest = 0;  // two stacks in one array: the small grow up, the large grow down
    for (int64_t i = 0; i < n; ++i) {
        left[static_cast<size_t>(i)] = weight[i] * scale;
        if (weight[i] > weight[heaviest]) heaviest = i;
        const int64_t is_small = left[static_cast<size_t>(i)] < 1.0;
        stack[static_cast<size_t>(is_small ? small : large - 1)] = static_cast<int32_t>(i);
        small += is_small;
        large -= 1 - is_small;
    }
    while (small > 0 && large < n) {
        const int32_t light = stack[static_cast<size_t>(--small)], heavy = stack[static_cast<size_t>(large)];
        slots[light] = {static_cast<float>(left[static_cast<size_t>(light)]), heavy};
        left[static_cast<size_t>(heavy)] -= 1.0 - left[static_cast<size_t>(light)];
        if (left[static_cast<size_t>(heavy)] < 1.0) {
            ++large;
            stack[static_cast<size_t>(small++)] = heavy;
        }
    }
    for (int64_t at = 0; at < n; ++at) {  // what rounding left over is full, or, without any weight, empty
        if (at == small) at = large;
        if (at >= n) break;
        const int32_t i = stack[static_cast<size_t>(at)];
        slots[i] = {weight[i] > 0 ? 1.0f : 0.0f, static_cast<int32_t>(heaviest)};
    }
}

int64_t look_up(const Slot* slots, int64_t n, double u) {
    const double x = u * static_cast<double>(n);
    const int64_t at = std::min(static_cast<int64_t>(x), n - 1);
    // Without a branch: it would be guessed wrong every other time.
    const int64_t away = -static_cast<int64_t>(x - static_cast<double>(at) >= static_cast<double>(slots[at].share));
    return at + ((slots[at].other - at) & away);
}

// The weights of all blocks of a row, on a common scale, in `cumulative`; log Z; false if the row is bad.
template <class T>
bool weigh_row(const Matrix& x, int64_t row, int threads, std::vector<Block>& blocks, Cumulative& cumulative,
               double* log_z) {
    const int64_t n = blocks_of(x.items);
    const T* data = row_of<T>(x, row);
    blocks.resize(static_cast<size_t>(n));
    std::atomic<bool> bad{false};
    const int64_t group = kTask / kTile;
    parallel((n + group - 1) / group, threads, [&](int64_t task) {
        bool is_bad = false;
        for (int64_t b = task * group; b < std::min(n, (task + 1) * group); ++b)
            blocks[static_cast<size_t>(b)] = weigh(data + b * kTile, block_size(x.items, b), is_bad);
        if (is_bad) bad = true;
    });
    const double top = top_of_blocks(blocks);
    cumulative.sums.resize(static_cast<size_t>(n));
    double total = 0;
    for (size_t b = 0; b < static_cast<size_t>(n); ++b)
        cumulative.sums[b] = total += blocks[b].sum * std::exp(blocks[b].top - top);
    *log_z = bad ? static_cast<double>(kNan) : top > -kInf ? top + std::log(total) : -static_cast<double>(kInf);
    return !bad && top > -kInf;
}

// log Z of a sound row of float64, to the precision of float64: weights in float32 are enough to draw by, not for this.
double log_z64(const Matrix& x, int64_t row, double top, int threads) {
    const int64_t parts = (x.items + kTask - 1) / kTask;
    std::vector<double> sums(static_cast<size_t>(parts));
    parallel(parts, threads, [&](int64_t part) {
        double sum = 0;
        each_tile(x.items, part, [&](int64_t i, int count) { sum += exp_sum(row_of<double>(x, row) + i, count, top); });
        sums[static_cast<size_t>(part)] = sum;
    });
    double total = 0;
    for (double sum : sums) total += sum;
    return top + std::log(total);
}

struct Workspace {
    std::vector<Block> blocks;
    Cumulative rows;
    BlockWeights block;
    Envelope envelope;
};

// Many draws of one row: an alias table for the blocks and one for the items of each. It takes eight bytes an item.
template <class T>
void draw_many(const Matrix& x, uint64_t seed, int64_t row, int64_t draws, int threads, Workspace& w, int64_t* out) {
    const int64_t n = static_cast<int64_t>(w.blocks.size());
    const std::unique_ptr<Slot[]> item_slots(
        new Slot[static_cast<size_t>(x.items)]);  // not zeroed: written in parallel
    std::vector<Slot> block_slots(static_cast<size_t>(n));
    std::vector<double> left, weights(static_cast<size_t>(n));
    std::vector<int32_t> stack;
    for (size_t b = 0; b < weights.size(); ++b) weights[b] = w.rows.sums[b] - (b ? w.rows.sums[b - 1] : 0.0);
    build_alias(weights.data(), n, block_slots.data(), left, stack);
    const int64_t group = kTask / kTile;
    parallel((n + group - 1) / group, threads, [&](int64_t task) {
        alignas(64) float buffer[kTile], weight[kTile];
        std::vector<double> space;
        std::vector<int32_t> order;
        for (int64_t b = task * group; b < std::min(n, (task + 1) * group); ++b) {
            const double top = w.blocks[static_cast<size_t>(b)].top;
            if (!(top > -kInf)) continue;  // nothing in it, so never chosen
            const int size = block_size(x.items, b);
            const auto* logits = fetch(row_of<T>(x, row) + b * kTile, size, buffer);
            const Measured items = measured(logits, size, top, buffer);
            exp_of(items.items, size, items.top, weight);
            build_alias(weight, size, &item_slots[static_cast<size_t>(b * kTile)], space, order);
        }
    });
    const int64_t chunk = 16 * kBlocks;
    parallel((draws + chunk - 1) / chunk, threads, [&](int64_t c) {
        double u[kBlocks], v[kBlocks];
        for (int64_t first = c * chunk; first < std::min(draws, (c + 1) * chunk); first += kBlocks) {
            const int count = static_cast<int>(std::min<int64_t>(kBlocks, draws - first));
            draw_uniforms(seed, row, first, count, u, v);
            for (int i = 0; i < count; ++i) {
                const int64_t b = look_up(block_slots.data(), n, u[i]);
                const Slot* items = &item_slots[static_cast<size_t>(b * kTile)];
                out[(first + i) * x.rows + row] = b * kTile + look_up(items, block_size(x.items, b), v[i]);
            }
        }
    });
}

// Rows of one block, one draw each: the weights stay in the cache, and the random numbers come for many rows at once.
template <class T>
void draw_one_block_rows(const Matrix& x, uint64_t seed, int64_t first, int64_t last, int64_t* out, double* log_z,
                         BadRow& bad) {
    alignas(64) float buffer[kTile];
    double u[kBlocks], unused[kBlocks];
    BlockWeights block;
    const int n = static_cast<int>(x.items);
    for (int64_t row = first; row < last; ++row) {
        const int64_t at = (row - first) % kBlocks;
        if (at == 0) row_uniforms(seed, row, static_cast<int>(std::min<int64_t>(kBlocks, last - row)), u, unused);
        const auto* logits = fetch(row_of<T>(x, row), n, buffer);
        const double top = top_of(logits, n);
        if (!(top > -kInf && top < kInf)) {
            bad.add(row);
            out[row] = -1;
            if (log_z) log_z[row] = static_cast<double>(kNan);
            continue;
        }
        block.open(logits, n, top);
        if (log_z) log_z[row] = std::is_same_v<T, double> ? log_z64(x, row, top, 1) : top + std::log(block.total);
        out[row] = block.pick(u[at]);
    }
}

// Short rows side by side: running sums of each lane, and a count of those not beyond its target.
template <class T>
void draw_lanes(const Matrix& x, uint64_t seed, int64_t row, int lanes, int64_t draws, int64_t* out, double* log_z,
                BadRow& bad) {
    alignas(64) float logits[kShort * kLanes], top[kLanes];
    alignas(64) double height[kLanes];
    alignas(64) double sums[kShort * kLanes], target[kLanes];
    alignas(64) int64_t index[kLanes];
    alignas(64) int32_t is_bad[kLanes];
    const int n = static_cast<int>(x.items);
    if constexpr (std::is_same_v<T, double>)
        load_lanes_near(x, row, lanes, logits, height, is_bad);
    else
        load_lanes<T>(x, row, lanes, logits), std::fill_n(is_bad, kLanes, 0);
    for (int l = 0; l < kLanes; ++l) top[l] = -kInf, target[l] = 0;
    for (int i = 0; i < n; ++i) {
        for (int l = 0; l < kLanes; ++l) {
            const float v = logits[i * kLanes + l];
            is_bad[l] |= static_cast<int32_t>(!(v < kInf));
            top[l] = v > top[l] ? v : top[l];
        }
    }
    for (int i = 0; i < n; ++i) {
        for (int l = 0; l < kLanes; ++l) {
            target[l] += exp_nonpositive(logits[i * kLanes + l] - top[l]);
            sums[i * kLanes + l] = target[l];
        }
    }
    for (int l = 0; l < lanes; ++l) {
        if (is_bad[l] || !(top[l] > -kInf)) bad.add(row + l), is_bad[l] = 1;
        if (!log_z) continue;
        if constexpr (std::is_same_v<T, double>)
            log_z[row + l] = is_bad[l] ? static_cast<double>(kNan) : log_z64(x, row + l, height[l], 1);
        else
            log_z[row + l] = is_bad[l] ? static_cast<double>(kNan) : top[l] + std::log(sums[(n - 1) * kLanes + l]);
    }
    for (int64_t draw = 0; draw < draws; ++draw) {
        alignas(64) uint32_t c[4][kLanes];
        for (int l = 0; l < kLanes; ++l) {
            c[0][l] = static_cast<uint32_t>(draw);
            c[1][l] = (static_cast<uint32_t>(draw >> 32) & 0x3fffffffu) | 2u << 30;
            c[2][l] = static_cast<uint32_t>(row + l);
            c[3][l] = static_cast<uint32_t>(static_cast<uint64_t>(row + l) >> 32);
        }
        philox(seed, kLanes, c[0], c[1], c[2], c[3]);
        for (int l = 0; l < kLanes; ++l) {
            const uint64_t bits = (static_cast<uint64_t>(c[0][l]) << 32 | c[1][l]) >> 11;
            target[l] = (static_cast<double>(static_cast<int64_t>(bits)) + 0.5) * 0x1p-53 * sums[(n - 1) * kLanes + l];
            index[l] = 0;
        }
        for (int i = 0; i < n; ++i)
            for (int l = 0; l < kLanes; ++l) index[l] += static_cast<int64_t>(sums[i * kLanes + l] <= target[l]);
        for (int l = 0; l < lanes; ++l) {
            int64_t at = index[l];
            if (at == n)  // u * total rounded up to total: the last item with any weight
                for (--at; at > 0 && sums[(at - 1) * kLanes + l] >= sums[at * kLanes + l];) --at;
            out[draw * x.rows + row + l] = is_bad[l] ? -1 : at;
        }
    }
}

// out[draw][row]; log_z may be null.
int64_t categorical(Matrix x, Key key, int threads, int64_t draws, double* log_z, int64_t* out) {
    const uint64_t seed = key.seed;
    BadRow bad;
    by_any_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto draw_row = [&](int64_t row, int inner, Workspace& w) {
            const bool many = draws > 8 && 32 * draws > x.items;
            bool good = true;
            if (many || log_z) {
                double z;
                good = weigh_row<T>(x, row, inner, w.blocks, w.rows, &z);
                if constexpr (std::is_same_v<T, double>)
                    if (log_z && good) z = log_z64(x, row, top_of_blocks(w.blocks), inner);
                if (log_z) log_z[row] = z;
            }
            if (!many && good) good = w.envelope.build<T>(x, row, inner);
            if (!good) {
                bad.add(row);
                for (int64_t i = 0; i < draws; ++i) out[i * x.rows + row] = -1;
            } else if (many) {
                draw_many<T>(x, seed, row, draws, inner, w, out);
            } else {
                w.envelope.draw<T>(x, seed, row, draws, out + row, x.rows);
            }
        };
        if (x.items <= kShort && x.rows >= (draws == 1 ? kFewRows : kLanes / 2)) {
            const int64_t group = std::max<int64_t>(1, kTask / kLanes / x.items) * kLanes;
            row_tasks(x.rows, group, threads, [&](int64_t first, int64_t last) {
                for (int64_t row = first; row < last; row += kLanes) {
                    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                    draw_lanes<T>(x, seed, row, lanes, draws, out, log_z, bad);
                }
            });
        } else if (x.items <= kTile && draws == 1) {
            const int64_t group = std::max<int64_t>(1, kTask / x.items);
            row_tasks(x.rows, group, threads, [&](int64_t first, int64_t last) {
                draw_one_block_rows<T>(x, seed, first, last, out, log_z, bad);
            });
        } else if (x.rows >= 2 * threads) {
            const int64_t group = std::max<int64_t>(1, kTask / (x.items + draws));
            row_tasks(x.rows, group, threads, [&](int64_t first, int64_t last) {
                Workspace w;
                for (int64_t row = first; row < last; ++row) draw_row(row, 1, w);
            });
        } else {
            Workspace w;
            for (int64_t row = 0; row < x.rows; ++row) draw_row(row, threads, w);
        }
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
