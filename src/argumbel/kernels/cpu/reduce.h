// Maxima, sums and searches in a form that vectorises without leave to reorder: sixteen running values side by side.
#pragma once
#include <algorithm>
#include <limits>

#include "arithmetic.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

constexpr int kWidth = 16;
constexpr int kWide = 4 * kWidth;  // as many running values as keep the adders of the widest machines busy
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// 1 / x, finite: values are measured from their maximum, so a huge factor leaves the argmax alone, as a temperature of 0
// should.
inline float inverse(float x) { return std::min(1.0f / x, std::numeric_limits<float>::max()); }

// Folds running values s[0], ..., s[width - 1] into one, halves onto halves.
template <int width, class Join>
ARGUMBEL_INLINE float fold(float* s, Join join) {
    for (int half = width / 2; half; half /= 2)
        for (int l = 0; l < half; ++l) s[l] = join(s[l], s[l + half]);
    return s[0];
}

// join(running, value(i)) over all i, from `start`.
template <class Value, class Join>
ARGUMBEL_INLINE float reduce(int64_t count, float start, Value value, Join join) {
    float s[kWide];
    for (int l = 0; l < kWide; ++l) s[l] = start;
    int64_t i = 0;
    for (; i + kWide <= count; i += kWide)
        for (int l = 0; l < kWide; ++l) s[l] = join(s[l], value(i + l));
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) s[l] = join(s[l], value(i + l));
    for (int l = 0; i < count; ++i, ++l) s[l] = join(s[l], value(i));
    return fold<kWide>(s, join);
}

ARGUMBEL_INLINE float larger(float a, float b) { return b > a ? b : a; }
ARGUMBEL_INLINE float plus(float a, float b) { return a + b; }

[[gnu::noinline]] static float max_of(const float* __restrict x, int64_t count) {
    return reduce(count, -kInf, [=](int64_t i) { return x[i]; }, larger);
}
// The maximum; +inf if any of x is NaN or +inf.
[[gnu::noinline]] static float top_of(const float* __restrict x, int64_t count) {
    return reduce(count, -kInf, [=](int64_t i) { return x[i] < kInf ? x[i] : kInf; }, larger);
}
// The maxima of the columns of x laid out kWide wide; NaN counts as +inf.
[[gnu::noinline]] static void column_maxima(const float* __restrict x, int count, float* __restrict column) {
    float s[kWide];
    const auto take = [&](int l, float v) { s[l] = larger(s[l], v < kInf ? v : kInf); };
    for (int l = 0; l < kWide; ++l) s[l] = -kInf;
    int i = 0;
    for (; i + kWide <= count; i += kWide)
        for (int l = 0; l < kWide; ++l) take(l, x[i + l]);
    for (int l = 0; i < count; ++i, ++l) take(l, x[i]);
    for (int l = 0; l < kWide; ++l) column[l] = s[l];
}
[[gnu::noinline]] static float sum_of(const float* __restrict x, int count) {
    return reduce(count, 0.0f, [=](int64_t i) { return x[i]; }, plus);
}
[[gnu::noinline]] static float dot_of(const float* __restrict x, const float* __restrict y, int count) {
    return reduce(count, 0.0f, [=](int64_t i) { return x[i] * y[i]; }, plus);
}
// Sum of e^(x - top), for top the maximum of x: at most `count`, which float32 sums of many parts hold well.
[[gnu::noinline]] static float exp_sum(const float* __restrict x, int count, float top) {
    return reduce(count, 0.0f, [=](int64_t i) { return exp_nonpositive(x[i] - top); }, plus);
}

// Whether any of x is NaN or +inf.
[[gnu::noinline]] static bool any_bad(const float* __restrict x, int count) {
    uint32_t bad = 0;
    for (int i = 0; i < count; ++i) bad |= static_cast<uint32_t>(!(x[i] < kInf));
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

// keys += logits, and their maximum; +inf if any logit is NaN or +inf.
[[gnu::noinline]] static float add_and_max(float* __restrict keys, const float* __restrict logits, int count) {
    float s[kWidth];
    const auto take = [&](int l, int i) {
        keys[i] = logits[i] < kInf ? keys[i] + logits[i] : kInf;
        s[l] = larger(s[l], keys[i]);
    };
    for (int l = 0; l < kWidth; ++l) s[l] = -kInf;
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) take(l, i + l);
    for (int l = 0; i < count; ++i, ++l) take(l, i);
    return fold<kWidth>(s, larger);
}

// x becomes e^((x - top) scale), and their sum.
[[gnu::noinline]] static float soften(float* __restrict x, int count, float top, float scale) {
    float s[kWidth] = {};
    const auto take = [&](int l, int i) { s[l] += x[i] = exp_nonpositive((x[i] - top) * scale); };
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) take(l, i + l);
    for (int l = 0; i < count; ++i, ++l) take(l, i);
    return fold<kWidth>(s, plus);
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
