// Maxima, sums and searches in a form that vectorises without leave to reorder: sixteen running values side by side.
#pragma once
#include <algorithm>
#include <limits>

#include "doubles.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

constexpr int kWidth = 16;
constexpr int kWide = 4 * kWidth;  // as many running values as keep the adders of the widest machines busy
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// 1 / x, finite: values are measured from their maximum, so a huge factor leaves the argmax alone, as a temperature of 0
// should.
template <class Real>
inline Real inverse(Real x) {
    return std::min(1 / x, std::numeric_limits<Real>::max());
}

// Folds running values s[0], ..., s[width - 1] into one, halves onto halves.
template <int width, class Real, class Join>
ARGUMBEL_INLINE Real fold(Real* s, Join join) {
    for (int half = width / 2; half; half /= 2)
        for (int l = 0; l < half; ++l) s[l] = join(s[l], s[l + half]);
    return s[0];
}

// join(running, value(i)) over all i, from `start`, with `width` running values.
template <int width = kWide, class Real, class Value, class Join>
ARGUMBEL_INLINE Real reduce(int64_t count, Real start, Value value, Join join) {
    Real s[width];
    for (int l = 0; l < width; ++l) s[l] = start;
    int64_t i = 0;
    for (; i + width <= count; i += width)
        for (int l = 0; l < width; ++l) s[l] = join(s[l], value(i + l));
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) s[l] = join(s[l], value(i + l));
    for (int l = 0; i < count; ++i, ++l) s[l] = join(s[l], value(i));
    return fold<width>(s, join);
}

ARGUMBEL_INLINE float larger(float a, float b) { return b > a ? b : a; }
ARGUMBEL_INLINE double larger(double a, double b) { return b > a ? b : a; }
constexpr auto kLarger = [](auto a, auto b) { return larger(a, b); };
constexpr auto kPlus = [](auto a, auto b) { return a + b; };

template <class Real>
[[gnu::noinline]] static Real max_of(const Real* __restrict x, int64_t count) {
    return reduce(count, static_cast<Real>(-kInf), [=](int64_t i) { return x[i]; }, kLarger);
}
// The maximum; +inf if any of x is NaN or +inf.
template <class Real>
[[gnu::noinline]] static Real top_of(const Real* __restrict x, int64_t count) {
    constexpr Real inf = kInf;
    return reduce(count, -inf, [=](int64_t i) { return x[i] < inf ? x[i] : inf; }, kLarger);
}
// The maxima of the columns of x laid out kWide wide; NaN counts as +inf.
template <class Real>
[[gnu::noinline]] static void column_maxima(const Real* __restrict x, int count, Real* __restrict column) {
    constexpr Real inf = kInf;
    Real s[kWide];
    const auto take = [&](int l, Real v) { s[l] = larger(s[l], v < inf ? v : inf); };
    for (int l = 0; l < kWide; ++l) s[l] = -inf;
    int i = 0;
    for (; i + kWide <= count; i += kWide) {
        // The pass is as fast as memory; of float64 rows that no cache holds it takes a third of the time so.
        if constexpr (sizeof(Real) == 8)
            for (int l = 0; l < kWide; l += 8) __builtin_prefetch(x + i + 512 + l);
        for (int l = 0; l < kWide; ++l) take(l, x[i + l]);
    }
    for (int l = 0; i < count; ++i, ++l) take(l, x[i]);
    for (int l = 0; l < kWide; ++l) column[l] = s[l];
}
template <class Real>
[[gnu::noinline]] static Real sum_of(const Real* __restrict x, int count) {
    return reduce(count, Real{0}, [=](int64_t i) { return x[i]; }, kPlus);
}
template <class Real>
[[gnu::noinline]] static Real dot_of(const Real* __restrict x, const Real* __restrict y, int count) {
    return reduce(count, Real{0}, [=](int64_t i) { return x[i] * y[i]; }, kPlus);
}
// Sum of e^(x - top), for top the maximum of x: at most `count`, which float32 sums of many parts hold well.
template <class Real>
[[gnu::noinline]] static Real exp_sum(const Real* __restrict x, int count, Real top) {
    constexpr int width = sizeof(Real) == 8 ? kWidth : kWide;  // what registers hold beside the exponential
    return reduce<width>(count, Real{0}, [=](int64_t i) { return exp_nonpositive(x[i] - top); }, kPlus);
}

// float64 numbers measured from `top`, in float32: what lies near the top keeps its digits, wherever the top is.
[[gnu::noinline]] static void measure_from(double top, const double* __restrict x, int count, float* __restrict out) {
    for (int i = 0; i < count; ++i) out[i] = static_cast<float>(x[i] - top);
}

// Whether any of x is NaN or +inf.
template <class Real>
[[gnu::noinline]] static bool any_bad(const Real* __restrict x, int count) {
    constexpr Real inf = kInf;
    uint32_t bad = 0;
    for (int i = 0; i < count; ++i) bad |= static_cast<uint32_t>(!(x[i] < inf));
    return bad != 0;
}

[[gnu::noinline]] static void exp_of(const float* __restrict x, int count, float top, float* __restrict out,
                                     float scale = 1.0f) {
    for (int i = 0; i < count; ++i) out[i] = exp_nonpositive((x[i] - top) * scale);
}

// The first place that holds the value; without a branch, so that it vectorises.
[[gnu::noinline]] static int index_of(const float* __restrict x, int count, float value) {
    int at = count;
    for (int i = 0; i < count; ++i) {
        const int here = x[i] == value ? i : count;
        at = here < at ? here : at;
    }
    return at;
}

// Calls body(j) for those of `count` items of which is(j) holds. They are few: most parts are one look of vectors.
template <class Is, class F>
ARGUMBEL_INLINE void each_where(int count, Is is, F body) {
    for (int part = 0; part < count; part += kWide) {
        const int end = std::min(count, part + kWide);
        uint32_t any = 0;
        if (end == part + kWide) {  // a length that the compiler knows
            for (int l = 0; l < kWide; ++l) any |= static_cast<uint32_t>(is(part + l));
        } else {
            for (int j = part; j < end; ++j) any |= static_cast<uint32_t>(is(j));
        }
        for (int j = part; any && j < end; ++j)
            if (is(j)) body(j);
    }
}

// keys += logits, and their maximum; +inf if any logit is NaN or +inf.
template <class Real>
[[gnu::noinline]] static Real add_and_max(Real* __restrict keys, const Real* __restrict logits, int count) {
    constexpr Real inf = kInf;
    Real s[kWidth];
    const auto take = [&](int l, int i) {
        keys[i] = logits[i] < inf ? keys[i] + logits[i] : inf;
        s[l] = larger(s[l], keys[i]);
    };
    for (int l = 0; l < kWidth; ++l) s[l] = -inf;
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) take(l, i + l);
    for (int l = 0; i < count; ++i, ++l) take(l, i);
    return fold<kWidth>(s, kLarger);
}

// x becomes e^((x - top) scale), and their sum.
template <class Real>
[[gnu::noinline]] static Real soften(Real* __restrict x, int count, Real top, Real scale) {
    Real s[kWidth] = {};
    const auto take = [&](int l, int i) { s[l] += x[i] = exp_nonpositive((x[i] - top) * scale); };
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) take(l, i + l);
    for (int l = 0; i < count; ++i, ++l) take(l, i);
    return fold<kWidth>(s, kPlus);
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
