// Maxima, sums and searches in a form that vectorises without leave to reorder: sixteen running values side by side.
#pragma once
#include <limits>

#include "arithmetic.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

constexpr int kWidth = 16;
constexpr int kWide = 4 * kWidth;  // as many running values as keep the adders of the widest machines busy
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Folds running values s[0], ..., s[kWide - 1] into one, halves onto halves.
template <class Join>
ARGUMBEL_INLINE float fold(float* s, Join join) {
    for (int half = kWide / 2; half; half /= 2)
        for (int l = 0; l < half; ++l) s[l] = join(s[l], s[l + half]);
    return s[0];
}

// join(running, value(i)) over all i, from `start`.
template <class Value, class Join>
ARGUMBEL_INLINE float reduce(int count, float start, Value value, Join join) {
    float s[kWide];
    for (int l = 0; l < kWide; ++l) s[l] = start;
    int i = 0;
    for (; i + kWide <= count; i += kWide)
        for (int l = 0; l < kWide; ++l) s[l] = join(s[l], value(i + l));
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) s[l] = join(s[l], value(i + l));
    for (int l = 0; i < count; ++i, ++l) s[l] = join(s[l], value(i));
    return fold(s, join);
}

ARGUMBEL_INLINE float larger(float a, float b) { return b > a ? b : a; }
ARGUMBEL_INLINE float plus(float a, float b) { return a + b; }

[[gnu::noinline]] static float max_of(const float* __restrict x, int count) {
    return reduce(count, -kInf, [=](int i) { return x[i]; }, larger);
}
[[gnu::noinline]] static float sum_of(const float* __restrict x, int count) {
    return reduce(count, 0.0f, [=](int i) { return x[i]; }, plus);
}
[[gnu::noinline]] static float dot_of(const float* __restrict x, const float* __restrict y, int count) {
    return reduce(count, 0.0f, [=](int i) { return x[i] * y[i]; }, plus);
}
// Sum of e^(x - top), for top the maximum of x: at most `count`, which float32 sums of many parts hold well.
[[gnu::noinline]] static float exp_sum(const float* __restrict x, int count, float top) {
    return reduce(count, 0.0f, [=](int i) { return exp_nonpositive(x[i] - top); }, plus);
}

// Whether any of x is NaN or +inf.
[[gnu::noinline]] static bool any_bad(const float* __restrict x, int count) {
    uint32_t bad = 0;
    for (int i = 0; i < count; ++i) bad |= static_cast<uint32_t>(!(x[i] < kInf));
    return bad != 0;
}

[[gnu::noinline]] static void exp_of(const float* __restrict x, int count, float top, float* __restrict out) {
    for (int i = 0; i < count; ++i) out[i] = exp_nonpositive(x[i] - top);
}

inline int index_of(const float* __restrict x, int count, float value) {
    for (int i = 0; i < count; ++i)
        if (x[i] == value) return i;
    return count;
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
