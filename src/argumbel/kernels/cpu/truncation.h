// truncation: which items of a row are left by top_k, top_p and min_p, without a sort of the row.
//
// The items that are left are those of the largest logits, so a row is cut at one logit, and among items equal to it at one
// place. The cut is searched as quickselect searches: a sample guesses where it lies, a pass over the row weighs what lies
// above each of a few pivots around the guess, and the next pass looks at the items between two of them alone.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "matrix.h"
#include "reduce.h"
#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

constexpr int kPivots = 4;
constexpr int kFew = 64;      // so many are sorted at once
constexpr int kSample = 512;  // of long rows; of short ones kFew
constexpr int64_t kLong = 64 * kSample;

// What items weigh: each 1, or e^((x - top) / temperature).
struct Weights {
    bool ones;
    float top, scale;
    float of(float x) const { return ones ? 1.0f : exp_nonpositive((x - top) * scale); }
};

// Adds to sums the weight of `count` (<= kTile) items, and then of those above each of n pivots.
template <int n, bool ones>
[[gnu::noinline]] void weigh_tile(const float* __restrict x, int count, float top, float scale,
                                  const float* __restrict pivots, double* __restrict sums) {
    float all[kWidth] = {}, above[n][kWidth] = {}, pivot[n];
    for (int p = 0; p < n; ++p) pivot[p] = pivots[p];
    const auto take = [&](int l, int i) {
        const float weight = ones ? 1.0f : exp_nonpositive((x[i] - top) * scale);
        all[l] += weight;
#pragma GCC unroll 4
        for (int p = 0; p < n; ++p) above[p][l] += x[i] > pivot[p] ? weight : 0.0f;
    };
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) take(l, i + l);
    for (int l = 0; i < count; ++i, ++l) take(l, i);
    sums[0] += static_cast<double>(fold<kWidth>(all, kPlus));
    for (int p = 0; p < n; ++p) sums[p + 1] += static_cast<double>(fold<kWidth>(above[p], kPlus));
}

template <int n>
void weigh_tile(const float* x, int count, const Weights& weights, const float* pivots, double* sums) {
    const auto weigh = weights.ones ? weigh_tile<n, true> : weigh_tile<n, false>;
    weigh(x, count, weights.top, weights.scale, pivots, sums);
}

// The place of the first byte of a word that is 1, where all are 0 or 1.
inline int first_byte(uint64_t eight) {
    if constexpr (std::endian::native == std::endian::little) {
        return std::countr_zero(eight) / 8;
    } else {
        return std::countl_zero(eight) / 8;
    }
}

[[gnu::noinline]] void flag_between(const float* __restrict x, int count, float low, float high,
                                    uint8_t* __restrict flags) {
    for (int j = 0; j < count; ++j) flags[j] = static_cast<uint8_t>((x[j] > low) & (x[j] <= high));
}

// Appends the items of x in (low, high] to `to`.
void gather_between(const float* x, int64_t count, float low, float high, std::vector<float>& to) {
    alignas(64) uint8_t flags[kTile];
    size_t size = to.size();
    for (int64_t i = 0; i < count; i += kTile) {
        const int part = static_cast<int>(std::min<int64_t>(kTile, count - i));
        flag_between(x + i, part, low, high, flags);
        std::fill(flags + part, flags + (part + 7) / 8 * 8, uint8_t{0});
        to.resize(size + static_cast<size_t>(part));  // room for all
        float* out = to.data() + size;
        for (int j = 0; j < part; j += 8) {  // eight flags are one word, and most words are 0
            uint64_t eight;
            std::memcpy(&eight, flags + j, 8);
            for (; eight; eight &= eight - 1) *out++ = x[i + j + first_byte(eight)];
        }
        size = static_cast<size_t>(out - to.data());
    }
    to.resize(size);
}

// The largest number of x such that it and what is above it weigh at least `share` of the whole, and the weight above it.
struct Quantile {
    float value;
    double above, wanted;
};

class Select {
public:
    // With `ones`, share is a count; else it is a part of the weight of x, in (0, 1].
    Quantile operator()(const float* x, int64_t count, const Weights& weights, double share) {
        double above = 0, wanted = weights.ones ? share : -1.0;
        double part = weights.ones ? share / static_cast<double>(count) : share;  // of what is looked at
        float high = kInf;
        bool halve = false;
        for (std::vector<float>*to = &one, *other = &two;; std::swap(to, other)) {
            if (count <= kFew && wanted >= 0) return among_few(x, count, weights, wanted, above);
            float pivots[kPivots], low = -kInf;
            double sums[kPivots + 1] = {}, from = above;
            choose(x, count, weights, part, halve, pivots);
            for (int64_t i = 0; i < count; i += kTile)
                weigh_tile<kPivots>(x + i, static_cast<int>(std::min<int64_t>(kTile, count - i)), weights, pivots,
                                    sums);
            const double* weight = sums + 1;
            double end = above + sums[0];
            if (wanted < 0) wanted = share * end;
            for (int p = 0; p < kPivots; ++p) {  // pivots fall
                if (above + weight[p] >= wanted) {
                    low = pivots[p], end = above + weight[p];
                    break;
                }
                high = pivots[p], from = above + weight[p];
            }
            above = from;
            part = std::clamp((wanted - above) / std::max(end - above, 1e-300), 0.0, 1.0);
            to->clear();
            gather_between(x, count, low, high, *to);
            const int64_t left = static_cast<int64_t>(to->size());
            if (left == 0) return {high, above, wanted};  // rounding of sums: nothing is as low as was asked for
            halve = left == count;
            x = to->data(), count = left;
            if (halve && least_of(x, count) == max_of(x, count)) return {*x, above, wanted};
        }
    }

private:
    std::vector<float> one, two;

    static float least_of(const float* x, int64_t count) {
        return -reduce(count, -kInf, [=](int64_t i) { return -x[i]; }, kLarger);
    }

    // Falling pivots around the place above which a part of the weight of x lies, as a sample of x has it: so many standard
    // deviations of its error away. Or, where such pivots did not divide x, the middle of its range.
    static void choose(const float* x, int64_t count, const Weights& weights, double part, bool halve, float* pivots) {
        if (halve) {
            const float least = least_of(x, count), most = max_of(x, count), middle = least / 2 + most / 2;
            std::fill_n(pivots, kPivots, middle < most ? middle : least);
            return;
        }
        float sample[kSample];
        double sums[kSample], squares = 0, total = 0;
        const int size = count >= kLong ? kSample : kFew;
        for (int i = 0; i < size; ++i) sample[i] = x[(2 * i + 1) * count / (2 * size)];
        std::sort(sample, sample + size, [](float a, float b) { return a > b; });
        for (int i = 0; i < size; ++i) {
            const double weight = static_cast<double>(weights.of(sample[i]));
            squares += weight * weight;
            sums[i] = total += weight;
        }
        constexpr double kAway[kPivots] = {-1.2, 0, 1.2, 4};
        const double error = std::sqrt(part * (1 - part) * squares) / std::max(total, 1e-300);
        for (int p = 0; p < kPivots; ++p) {
            const double* at = std::lower_bound(sums, sums + size, (part + kAway[p] * error) * total);
            pivots[p] = sample[std::min<int64_t>(at - sums, size - 1)];
        }
    }

    static Quantile among_few(const float* x, int64_t count, const Weights& weights, double wanted, double above) {
        float sorted[kFew];
        std::copy(x, x + count, sorted);
        std::sort(sorted, sorted + count, [](float a, float b) { return a > b; });
        for (int64_t i = 0;;) {
            int64_t end = i + 1;
            while (end < count && sorted[end] == sorted[i]) ++end;
            const double these = static_cast<double>(weights.of(sorted[i])) * static_cast<double>(end - i);
            if (above + these >= wanted || end == count || !(sorted[end] > -kInf)) return {sorted[i], above, wanted};
            above += these;
            i = end;
        }
    }
};

// Where a row is cut: items above `value` are left, and of those equal to it the ones up to place `last`.
struct Kept {
    float value = -kInf;
    int64_t last = INT64_MAX;
    bool leaves(float x, int64_t place) const { return x > value || (x == value && place <= last); }
};

[[gnu::noinline]] int count_equal(const float* __restrict x, int count, float value) {
    int found = 0;
    for (int i = 0; i < count; ++i) found += static_cast<int>(x[i] == value);
    return found;
}

// The place of the n-th item (n >= 1) that equals the value.
int64_t place_of(const float* x, int64_t count, float value, int64_t n) {
    for (int64_t i = 0; i < count; i += kTile) {
        const int part = static_cast<int>(std::min<int64_t>(kTile, count - i));
        const int here = count_equal(x + i, part, value);
        if (n > here) {
            n -= here;
            continue;
        }
        for (int j = 0; j < part; ++j)
            if (x[i + j] == value && --n == 0) return i + j;
    }
    return count - 1;
}

// The limits of one row.
struct RowLimits {
    float temperature = 1;
    int64_t top_k = INT64_MAX;
    double top_p = 1, min_p = 0;

    RowLimits() = default;
    RowLimits(const Limits& all, int64_t row) : temperature(all.temperature[row * all.temperature_stride]) {
        if (all.top_k) top_k = all.top_k[row * all.top_k_stride];
        if (all.top_p) top_p = all.top_p[row * all.top_p_stride];
        if (all.min_p) min_p = all.min_p[row * all.min_p_stride];
    }

    // The least logit that min_p leaves, of a row with this maximum.
    float lowest(float top) const {
        if (!(min_p > 0)) return -kInf;
        const double exact = top + static_cast<double>(temperature) * std::log(min_p);
        float value = static_cast<float>(exact);
        if (value < exact) value = std::nextafter(value, kInf);
        return std::min(value, top);
    }
};

struct Truncate {
    Select select;
    std::vector<float> kept;

    // top is the maximum of the row. Temperature 0 leaves the first of the largest.
    Kept operator()(const float* x, int64_t n, float top, const RowLimits& limits) {
        if (limits.temperature == 0) return {top, place_of(x, n, top, 1)};
        const Weights weights{false, top, inverse(limits.temperature)};
        Kept cut;
        const float* from = x;
        int64_t count = n;
        if (limits.top_k < n) {
            cut.value = select(x, n, {true, top, 1.0f}, static_cast<double>(limits.top_k)).value;
            if (limits.top_p < 1) {
                kept.clear();
                gather_between(x, n, std::nextafter(cut.value, -kInf), kInf, kept);
                from = kept.data(), count = static_cast<int64_t>(kept.size());
            }
        }
        if (limits.top_p < 1) {
            const Quantile found = select(from, count, weights, limits.top_p);
            const double each = static_cast<double>(weights.of(found.value));
            const double wanted = std::max(1.0, std::ceil((found.wanted - found.above) / std::max(each, 1e-300)));
            cut = {found.value, place_of(x, n, found.value, static_cast<int64_t>(std::min(wanted, 0x1p62)))};
        }
        if (const float lowest = limits.lowest(top); lowest > cut.value) cut = {lowest, INT64_MAX};
        return cut;
    }
};

// A row in float32: where it lies, or in the space.
template <class T>
const float* whole_row(const Matrix& x, int64_t row, std::vector<float>& space) {
    if constexpr (!std::is_same_v<T, float>) space.resize(static_cast<size_t>(x.items));
    return fetch(row_of<T>(x, row), static_cast<int>(x.items), space.data());
}

// The cut of each row.
int64_t truncation(Matrix x, Key, int threads, Limits limits, float* cut, int64_t* last) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const int64_t together = std::max<int64_t>(1, kTask / 4 / x.items);
        row_tasks(x.rows, together, threads, [&](int64_t first, int64_t end) {
            std::vector<float> space;
            Truncate truncate;
            for (int64_t row = first; row < end; ++row) {
                const float* items = whole_row<T>(x, row, space);
                const float top = top_of(items, x.items);
                if (!(top > -kInf && top < kInf)) {
                    bad.add(row);
                    cut[row] = kNan, last[row] = -1;
                    continue;
                }
                const Kept found = truncate(items, x.items, top, RowLimits(limits, row));
                cut[row] = found.value, last[row] = found.last;
            }
        });
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
