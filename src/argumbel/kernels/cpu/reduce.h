// Maxima, sums and searches in a form that vectorises without leave to reorder: sixteen running values side by side.
#pragma once
#include <limits>

#include "arithmetic.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

constexpr int kWidth = 16;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

[[gnu::noinline]] static float max_of(const float* __restrict x, int count) {
    float m[kWidth];
    for (int l = 0; l < kWidth; ++l) m[l] = -kInf;
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) m[l] = x[i + l] > m[l] ? x[i + l] : m[l];
    for (; i < count; ++i) m[0] = x[i] > m[0] ? x[i] : m[0];
    float best = m[0];
    for (int l = 1; l < kWidth; ++l) best = m[l] > best ? m[l] : best;
    return best;
}

[[gnu::noinline]] static float sum_of(const float* __restrict x, int count) {
    float s[kWidth] = {};
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) s[l] += x[i + l];
    for (; i < count; ++i) s[0] += x[i];
    float total = s[0];
    for (int l = 1; l < kWidth; ++l) total += s[l];
    return total;
}

[[gnu::noinline]] static float dot_of(const float* __restrict x, const float* __restrict y, int count) {
    float s[kWidth] = {};
    int i = 0;
    for (; i + kWidth <= count; i += kWidth)
        for (int l = 0; l < kWidth; ++l) s[l] = fma(x[i + l], y[i + l], s[l]);
    for (; i < count; ++i) s[0] = fma(x[i], y[i], s[0]);
    float total = s[0];
    for (int l = 1; l < kWidth; ++l) total += s[l];
    return total;
}

// Whether any of x is NaN or +inf.
[[gnu::noinline]] static bool any_bad(const float* __restrict x, int count) {
    uint32_t bad = 0;
    for (int i = 0; i < count; ++i) bad |= static_cast<uint32_t>(!(x[i] < kInf));
    return bad != 0;
}

inline int index_of(const float* __restrict x, int count, float value) {
    for (int i = 0; i < count; ++i)
        if (x[i] == value) return i;
    return count;
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
