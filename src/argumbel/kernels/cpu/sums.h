// exact_sums: sums of numbers of at least 0, of each group its own, as whole numbers in limbs of 32 bits. Whatever the order
// of the numbers, the sums are the same.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

constexpr int kLimb = 32, kLimbs = 68;  // limb l counts 2^(32 l - kUnit); the last ones take what is carried
constexpr int kUnit = 1088;             // every float64 is a whole number of 2^-kUnit
constexpr uint64_t kLimbMask = (uint64_t{1} << kLimb) - 1;

// A float64 as a whole number times 2^(place - kUnit).
struct Whole {
    uint64_t number;
    int place;
    explicit Whole(double x) {
        uint64_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        const int field = static_cast<int>(bits >> 52 & 2047);
        number = (bits & ((uint64_t{1} << 52) - 1)) | (field ? uint64_t{1} << 52 : 0);
        place = std::max(field, 1) - 1075 + kUnit;
    }
    int limb() const { return place / kLimb; }
};

// Adds x, which may be negative; `limbs` begins with limb `lowest`. A limb has room for 2^31 of them.
inline void add_exactly(double x, int64_t* limbs, int lowest) {
    const Whole whole(x);
    const int shift = whole.place % kLimb;
    const uint64_t rest = whole.number >> (kLimb - shift);
    const int64_t sign = x < 0 ? -1 : 1;
    int64_t* to = limbs + (whole.limb() - lowest);
    to[0] += sign * static_cast<int64_t>(whole.number << shift & kLimbMask);
    to[1] += sign * static_cast<int64_t>(rest & kLimbMask);
    to[2] += sign * static_cast<int64_t>(rest >> kLimb);
}

// Numbers are cut into slices of kSlice bits from the largest one on: kTile slices have a sum of 53 bits, which is exact.
constexpr int kSlice = 42, kAdders = 32;
static_assert(kTile <= 1 << (53 - kSlice));

template <class T>
void add_tile(const T* __restrict x, int count, double largest, int64_t* limbs) {
    int exponent;
    std::frexp(largest, &exponent);
    if (exponent > 1000) {  // what follows would overflow
        for (int j = 0; j < count; ++j) add_exactly(static_cast<double>(x[j]), limbs, 0);
        return;
    }
    const int unit = std::max(exponent - kSlice, -1074), next = std::max(unit - kSlice, -1074);
    // x + one is rounded to a whole number of 2^unit.
    const double one = std::ldexp(1.5, 52 + unit), two = std::ldexp(1.5, 52 + next);
    double first[kAdders] = {}, second[kAdders] = {}, left[kAdders] = {};
    const auto slice = [&](int j, int l) {
        const double w = static_cast<double>(x[j]), high = (w + one) - one, rest = w - high, low = (rest + two) - two;
        first[l] += high;
        second[l] += low;
        left[l] += std::abs(rest - low);
    };
    int j = 0;
    for (; j + kAdders <= count; j += kAdders)
        for (int l = 0; l < kAdders; ++l) slice(j + l, l);
    for (int l = 0; j < count; ++j, ++l) slice(j, l);
    double high = 0, low = 0, any = 0;
    for (int l = 0; l < kAdders; ++l) high += first[l], low += second[l], any += left[l];
    add_exactly(high, limbs, 0);
    add_exactly(low, limbs, 0);
    if (!(any > 0)) return;
    for (j = 0; j < count; ++j) {  // numbers beside which others are 2^31 times as large
        const double w = static_cast<double>(x[j]), rest = w - ((w + one) - one);
        add_exactly(rest - ((rest + two) - two), limbs, 0);
    }
}

// The largest and the least positive of a tile, and whether one is negative, infinite or NaN.
template <class T>
struct Extent {
    T largest = 0, least = std::numeric_limits<T>::infinity();
    bool is_bad = false;

    void look(const T* __restrict x, int count) {
        T most[kAdders] = {}, some[kAdders];
        uint32_t bad[kAdders] = {};
        for (T& s : some) s = std::numeric_limits<T>::infinity();
        const auto one = [&](int j, int l) {
            most[l] = x[j] > most[l] ? x[j] : most[l];
            const T positive = x[j] > 0 ? x[j] : std::numeric_limits<T>::infinity();
            some[l] = positive < some[l] ? positive : some[l];
            bad[l] |= static_cast<uint32_t>(!(x[j] >= 0));
        };
        int j = 0;
        for (; j + kAdders <= count; j += kAdders)
            for (int l = 0; l < kAdders; ++l) one(j + l, l);
        for (int l = 0; j < count; ++j, ++l) one(j, l);
        for (int l = 0; l < kAdders; ++l) join({most[l], some[l], bad[l] != 0});
    }
    void join(const Extent& other) {
        largest = std::max(largest, other.largest), least = std::min(least, other.least);
        is_bad |= other.is_bad || !(other.largest <= std::numeric_limits<T>::max());
    }
};

// Limbs below 2^32, but for the highest.
inline void carry(int64_t* limbs, int64_t count) {
    for (int64_t l = 0; l + 1 < count; ++l) {
        limbs[l + 1] += limbs[l] >> kLimb;
        limbs[l] &= static_cast<int64_t>(kLimbMask);
    }
}

// counts[g]: items of group g. limbs[g][l], l < range[1]: their sum, in limbs from the limb range[0] on; there is room for
// kLimbs a group. 0 if an item is no number of at least 0, and then nothing else is told; else -1.
int64_t exact_sums(Matrix x, Key, int threads, const int32_t* groups, int64_t n_groups, int64_t* counts, int64_t* limbs,
                   int64_t* range) {
    const int64_t tasks = (x.items + kTask - 1) / kTask;
    bool is_bad = false;
    const auto run = [&](auto* items) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(items)>>;
        std::vector<Extent<T>> extents(static_cast<size_t>(tasks));
        std::vector<int64_t> own(groups ? 0 : static_cast<size_t>(tasks * kLimbs));
        parallel(tasks, threads, [&](int64_t task) {
            each_tile(x.items, task, [&](int64_t i, int count) {
                Extent<T> extent;
                extent.look(items + i, count);
                extents[static_cast<size_t>(task)].join(extent);
                if (!groups && extent.largest > 0 && extent.largest <= std::numeric_limits<T>::max())
                    add_tile(items + i, count, static_cast<double>(extent.largest),
                             &own[static_cast<size_t>(task * kLimbs)]);
            });
        });
        Extent<T> all;
        for (const Extent<T>& extent : extents) all.join(extent);
        is_bad = all.is_bad;
        if (is_bad) return;
        const bool some = all.largest > 0;
        const int lowest = some ? Whole(static_cast<double>(all.least)).limb() : 0;
        const int64_t width = some ? Whole(static_cast<double>(all.largest)).limb() + 3 - lowest : 0;
        range[0] = lowest, range[1] = width;
        std::fill_n(counts, n_groups, 0);
        std::fill_n(limbs, n_groups * width, 0);
        if (groups) {
            for (int64_t i = 0; i < x.items; ++i) {
                ++counts[groups[i]];
                if (items[i] > 0) add_exactly(static_cast<double>(items[i]), limbs + groups[i] * width, lowest);
            }
        } else {
            counts[0] = x.items;
            std::vector<int64_t> total(kLimbs);
            for (size_t i = 0; i < own.size(); ++i) total[i % kLimbs] += own[i];
            carry(total.data(), lowest + width);
            std::copy_n(total.data() + lowest, width, limbs);
        }
        for (int64_t g = 0; g < n_groups; ++g) carry(limbs + g * width, width);
    };
    if (x.dtype == Dtype::f64)
        run(static_cast<const double*>(x.data));
    else
        run(static_cast<const float*>(x.data));
    return is_bad ? 0 : -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
