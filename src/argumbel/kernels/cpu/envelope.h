// categorical (law) at the price of a maximum: rejection from an envelope of the weights.
//
// One pass takes the maximum of every kWide-th item of each tile: groups of at most kTile / kWide = 16 items. A group is
// proposed in proportion to its size times the weight of its maximum, an item in it uniformly, and the item is accepted
// with probability e^(its logit - the maximum). That is exact whatever the logits; and since a group weighs at least its
// maximum, at least one proposal in sixteen is accepted. Exponentials are taken of the maxima alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "matrix.h"
#include "reduce.h"
#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// Stream 2 of a seed is divided among the law functions (README.md, section 1): each counts its draws from a number of its
// own. categorical has function 0, and counts from 0.
constexpr int64_t kFunction = int64_t{1} << 54;  // so many draws each

// Two uniform doubles for each of `count` (<= kBlocks) draws or rows, from the first on (stream 2 of the seed).
void uniforms(uint64_t seed, int64_t row, int64_t draw, int rows_step, int count, double* block, double* item) {
    alignas(64) uint32_t c[4][kBlocks];
    for (int i = 0; i < count; ++i) {
        const uint64_t d = static_cast<uint64_t>(draw + (rows_step ? 0 : i));
        const uint64_t r = static_cast<uint64_t>(row + (rows_step ? i : 0));
        c[0][i] = static_cast<uint32_t>(d);
        c[1][i] = (static_cast<uint32_t>(d >> 32) & 0x3fffffffu) | 2u << 30;
        c[2][i] = static_cast<uint32_t>(r);
        c[3][i] = static_cast<uint32_t>(r >> 32);
    }
    philox(seed, count, c[0], c[1], c[2], c[3]);
    for (int i = 0; i < count; ++i) {
        block[i] = (static_cast<double>((static_cast<uint64_t>(c[0][i]) << 32 | c[1][i]) >> 11) + 0.5) * 0x1p-53;
        item[i] = (static_cast<double>((static_cast<uint64_t>(c[2][i]) << 32 | c[3][i]) >> 11) + 0.5) * 0x1p-53;
    }
}

void draw_uniforms(uint64_t seed, int64_t row, int64_t first, int count, double* block, double* item) {
    uniforms(seed, row, first, 0, count, block, item);
}
void row_uniforms(uint64_t seed, int64_t row, int count, double* block, double* item) {
    uniforms(seed, row, 0, 1, count, block, item);
}

struct Envelope {
    float scale = 1;  // 1 / temperature

    // False if the row is bad.
    template <class T>
    bool build(const Matrix& x, int64_t row, int threads) {
        tiles = blocks_of(x.items);
        weights.resize(static_cast<size_t>(tiles) * kWide);
        sums.resize(static_cast<size_t>(tiles));
        const auto maxima = [&](int64_t b) {
            if constexpr (std::is_same_v<T, double>)
                return &wide[static_cast<size_t>(b) * kWide];
            else
                return columns(b);
        };
        if constexpr (std::is_same_v<T, double>) wide.resize(weights.size());
        each_tile(threads, [&](int64_t b) {
            alignas(64) float buffer[kTile];
            const int count = block_size(x.items, b);
            column_maxima(fetch(row_of<T>(x, row) + b * kTile, count, buffer), count, maxima(b));
        });
        const double top = max_of(maxima(0), static_cast<int64_t>(weights.size()));
        if (!(top > -kInf && top < kInf)) return false;
        each_tile(threads, [&](int64_t b) {
            alignas(64) float buffer[kWide], weight[kWide];
            const Measured items = measured(maxima(b), kWide, top, buffer);
            exp_of(items.items, kWide, items.top, weight, scale);
            if constexpr (std::is_same_v<T, double>)
                for (float& w : weight) w *= kAbove;
            std::copy(weight, weight + kWide, columns(b));
            sums[static_cast<size_t>(b)] = depth(x, b) * sum_of(weight, kWide);
        });
        double total = 0;
        for (double& sum : sums) sum = total += sum;
        height = top;
        return true;
    }

    // out[i * stride] for i < draws. Two pairs of random numbers (stream 2 of the seed) for every proposal.
    template <class T>
    void draw(const Matrix& x, uint64_t seed, int64_t row, int64_t draws, int64_t* out, int64_t stride) {
        draw_some<T>(x, seed, row, draws, out, stride, [](int64_t) { return true; }, INT64_MAX);
    }

    // The same of those items for which is_left(item). Gives up where so many proposals in a row come to nothing; returns
    // how many draws were made.
    template <class T, class IsLeft>
    int64_t draw_some(const Matrix& x, uint64_t seed, int64_t row, int64_t draws, int64_t* out, int64_t stride,
                      IsLeft is_left, int64_t tries) {
        constexpr int kProposals = 4;  // the numbers for these are one vector's work
        double u[2 * kProposals], v[2 * kProposals];
        int64_t drawn = 0, latest = 0;
        for (int64_t first = 0; drawn < draws; first += 2 * kProposals) {
            if (first - latest > tries) break;
            draw_uniforms(seed, row, first, 2 * kProposals, u, v);
            for (int p = 0; p < kProposals && drawn < draws; ++p) {
                const int64_t b = tile(u[2 * p] * sums.back());
                const int column = pick(columns(b), v[2 * p]);
                const int j = column + kWide * static_cast<int>(v[2 * p + 1] * depth(x, b));
                if (j >= block_size(x.items, b)) continue;
                const auto weight = weight_of(row_of<T>(x, row)[b * kTile + j]);
                if (u[2 * p + 1] * columns(b)[column] < weight && is_left(b * kTile + j)) {
                    out[drawn++ * stride] = b * kTile + j;
                    latest = first;
                }
            }
        }
        return drawn;
    }
    float top() const { return static_cast<float>(height); }

private:
    int64_t tiles = 0;
    double height = 0;           // the maximum of the row
    std::vector<float> weights;  // of the maxima of the columns, kWide for each tile, as multiples of e^height
    std::vector<double> sums;    // running sums of the tiles' envelopes
    std::vector<double> wide;    // of float64 rows: the maxima of the columns

    // The weights of float64 items are float64; those of their envelope, in float32, are raised by more than they are off.
    static constexpr float kAbove = 1 + 0x1p-16f;
    template <class T>
    float weight_of(T x) const {
        return exp_nonpositive((to_float(x) - static_cast<float>(height)) * scale);
    }
    double weight_of(double x) const { return std::exp((x - height) * static_cast<double>(scale)); }

    float* columns(int64_t b) { return &weights[static_cast<size_t>(b) * kWide]; }
    static int depth(const Matrix& x, int64_t b) { return (block_size(x.items, b) + kWide - 1) / kWide; }

    template <class F>
    void each_tile(int threads, F&& body) {
        const int64_t group = kTask / kTile;
        parallel((tiles + group - 1) / group, threads, [&](int64_t task) {
            for (int64_t b = task * group; b < std::min(tiles, (task + 1) * group); ++b) body(b);
        });
    }
    // The first tile whose running sum exceeds the target; should rounding leave it beyond all, the last of any weight.
    int64_t tile(double target) const {
        auto at = std::upper_bound(sums.begin(), sums.end(), target);
        if (at == sums.end()) at = std::lower_bound(sums.begin(), sums.end(), sums.back());
        return at - sums.begin();
    }
    // A column of a tile in proportion to its weight, by inversion of u: first one of kWidth classes of columns, whose sums
    // are vector additions, then a column of the class.
    static int pick(const float* weight, double u) {
        alignas(64) float part[kWidth] = {};
        double to[kWidth], total = 0;
        for (int q = 0; q < kWide; q += kWidth)
            for (int l = 0; l < kWidth; ++l) part[l] += weight[q + l];
        for (int l = 0; l < kWidth; ++l) to[l] = total += part[l];
        const double target = u * total;
        int chosen = 0;
        for (int l = 0; l < kWidth; ++l) chosen += static_cast<int>(to[l] <= target);
        while (chosen == kWidth || (chosen > 0 && to[chosen] == to[chosen - 1])) --chosen;  // rounding led too far
        double left = target - (chosen > 0 ? to[chosen - 1] : 0.0);
        int last = -1;
        for (int l = chosen; l < kWide; l += kWidth) {
            if (!(weight[l] > 0)) continue;
            last = l;
            if ((left -= weight[l]) < 0) break;
        }
        return last;
    }
};

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
