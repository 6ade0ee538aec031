// The arithmetic of kernels/README.md, once, for any instruction set: plain functions that inline into loops which the
// compiler vectorises. Compiled with -ffp-contract=off, so that only what says fma is fused.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

// A call left in a loop would keep it from being vectorised.
#define ARGUMBEL_INLINE [[gnu::always_inline]] inline

namespace argumbel {
namespace ARGUMBEL_ARCH {

ARGUMBEL_INLINE float as_float(uint32_t x) {
    float f;
    std::memcpy(&f, &x, 4);
    return f;
}
ARGUMBEL_INLINE uint32_t as_bits(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u;
}
ARGUMBEL_INLINE float select(uint32_t mask, float a, float b) {
    return as_float((as_bits(a) & mask) | (as_bits(b) & ~mask));
}

ARGUMBEL_INLINE double as_double(uint64_t x) {
    double d;
    std::memcpy(&d, &x, 8);
    return d;
}
ARGUMBEL_INLINE uint64_t as_bits(double x) {
    uint64_t u;
    std::memcpy(&u, &x, 8);
    return u;
}
// The mask is that of a float32, in which all bits are the same.
ARGUMBEL_INLINE double select(uint32_t mask, double a, double b) {
    const uint64_t wide = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(mask)));
    return as_double((as_bits(a) & wide) | (as_bits(b) & ~wide));
}

ARGUMBEL_INLINE float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return static_cast<float>(static_cast<double>(a) * b + c);  // exact before the last rounding: see README.md
#endif
}

constexpr float kLn2 = 0.693147182464599609375f;
constexpr double kLn2High64 = 0x1.62e42fefa3p-1, kLn2Low64 = 0x1.3de6af278ece6p-42;  // its first 41 bits, and the rest
constexpr int64_t kSqrtHalf64 = 0x3FE6A09E667F3BCD;                                  // the bits of sqrt(1/2)
constexpr uint32_t kRefineBelow = 1u << 18;

// -log1p(-q) for q in [0, 1/2]; grid is q rounded to a multiple of 2^-24.
ARGUMBEL_INLINE float minus_log1p(float q, float grid) {
    float s = 1.160612940788269f;
    s = fma(s, grid, -1.0361659526824951f);
    s = fma(s, grid, 0.7516154050827026f);
    s = fma(s, grid, 0.05082383751869202f);
    s = fma(s, grid, 0.26966291666030884f);
    s = fma(s, grid, 0.33212924003601074f);
    s = fma(s, grid, 0.5000246167182922f);
    return q * fma(s, grid, 1.0f);
}

ARGUMBEL_INLINE uint32_t side_mask(uint32_t word) { return static_cast<uint32_t>(static_cast<int32_t>(word) >> 31); }
ARGUMBEL_INLINE uint32_t near_end(uint32_t word) { return word ^ side_mask(word); }

ARGUMBEL_INLINE float half_distance(uint32_t first) {
    return (static_cast<float>(static_cast<int32_t>(near_end(first))) + 0.5f) * 0x1p-32f;
}
ARGUMBEL_INLINE float half_distance_refined(uint32_t first, uint32_t second) {
    const uint32_t side = side_mask(first);
    return static_cast<float>(((first ^ side) * 0x1p32 + static_cast<double>(second ^ side) + 0.5) * 0x1p-64);
}
// Two halves are a double each, and their sum is rounded once: AVX2 has no instruction for all 64 bits.
ARGUMBEL_INLINE double half_distance64(uint32_t first, uint32_t second) {
    const uint32_t side = side_mask(first);
    const double high = static_cast<double>(static_cast<int32_t>(first ^ side));
    const double low = as_double(0x4330000000000000u | (second ^ side)) - 0x1p52;
    return (high * 0x1p32 + low + 0.5) * 0x1p-64;
}

ARGUMBEL_INLINE float uniform(uint32_t side, float h) {
    const float u = select(side, 1.0f - h, h);
    return u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
}
ARGUMBEL_INLINE float exponential(uint32_t side, float h) {
    const uint32_t bits = as_bits(h);
    const float mantissa = as_float((bits & 0x7fffffu) | 0x3f000000u);
    const int32_t n = (126 - static_cast<int32_t>(bits >> 23)) & static_cast<int32_t>(side);
    const float grid = 1.0f - select(side, mantissa, 1.0f - h);
    return fma(static_cast<float>(n), kLn2, minus_log1p(select(side, grid, h), grid));
}
ARGUMBEL_INLINE float gumbel_of_exponential(float e) {
    const uint32_t bits = as_bits(e);
    const float q = 1.0f - as_float((bits & 0x7fffffu) | 0x3f000000u);
    return fma(static_cast<float>(126 - static_cast<int32_t>(bits >> 23)), kLn2, minus_log1p(q, q));
}
ARGUMBEL_INLINE float gumbel(uint32_t side, float h) { return gumbel_of_exponential(exponential(side, h)); }

ARGUMBEL_INLINE float logistic(uint32_t side, float h) { return exponential(~side, h) - exponential(side, h); }

ARGUMBEL_INLINE float odds(uint32_t side, float h) { return select(side, 1.0f - h, h) / select(side, h, 1.0f - h); }

ARGUMBEL_INLINE double uniform64(uint32_t side, double h) {
    const double u = select(side, 1.0 - h, h);
    return u < 0x1.fffffffffffffp-1 ? u : 0x1.fffffffffffffp-1;
}
// log(x) for positive normal x: x = m 2^n with m in [sqrt(1/2), sqrt(2)), and log m by s = (m - 1) / (m + 1).
ARGUMBEL_INLINE double log64(double x) {
    int64_t bits;
    std::memcpy(&bits, &x, 8);
    // n + 1024 in place of n, for AVX2 has no shift that keeps the sign, and makes no int64 a double but by its bits.
    const uint64_t biased = (static_cast<uint64_t>(bits - kSqrtHalf64) + (uint64_t{1024} << 52)) >> 52;
    bits -= static_cast<int64_t>((biased - 1024) << 52);
    const uint64_t with_2_52 = biased | 0x4330000000000000u;
    double m, k;
    std::memcpy(&m, &bits, 8);
    std::memcpy(&k, &with_2_52, 8);
    k -= 0x1p52 + 1024;
    const double f = m - 1.0, s = f / (f + 2.0), z = s * s, half = 0.5 * f * f;
    double r = 2.0 / 21.0;
    r = r * z + 2.0 / 19.0;
    r = r * z + 2.0 / 17.0;
    r = r * z + 2.0 / 15.0;
    r = r * z + 2.0 / 13.0;
    r = r * z + 2.0 / 11.0;
    r = r * z + 2.0 / 9.0;
    r = r * z + 2.0 / 7.0;
    r = r * z + 2.0 / 5.0;
    r = r * z + 2.0 / 3.0;
    return k * kLn2High64 + (f - (half - s * (half + r * z)) + k * kLn2Low64);
}
ARGUMBEL_INLINE double exponential64(uint32_t side, double h) {
    const double x = select(side, h, 1.0 - h);
    return -(log64(x) + select(side, 0.0, (1.0 - x) - h) / x);  // the second term is what rounding took off 1 - h
}
ARGUMBEL_INLINE double gumbel_of_exponential(double e) { return -log64(e); }
ARGUMBEL_INLINE double gumbel64(uint32_t side, double h) { return gumbel_of_exponential(exponential64(side, h)); }
ARGUMBEL_INLINE double logistic64(uint32_t side, double h) { return exponential64(~side, h) - exponential64(side, h); }
ARGUMBEL_INLINE double odds64(uint32_t side, double h) { return select(side, 1.0 - h, h) / select(side, h, 1.0 - h); }

// e^x for x <= 0 (or a little above): relative error below 2e-7; 0 below -87.3, where float32 has no normal numbers.
// Not part of the noise contract.
ARGUMBEL_INLINE float exp_nonpositive(float x) {
    const float shifted = fma(x, 1.44269504f, 12582912.0f);  // 1.5 * 2^23: the low bits now hold round(x / log 2)
    const float n = shifted - 12582912.0f;
    const float r = fma(n, -1.42860677e-6f, fma(n, -0.693145752f, x));
    float p = 1.0f / 720.0f;
    p = fma(p, r, 1.0f / 120.0f);
    p = fma(p, r, 1.0f / 24.0f);
    p = fma(p, r, 1.0f / 6.0f);
    p = fma(p, r, 0.5f);
    p = fma(p, r, 1.0f);
    p = fma(p, r, 1.0f);
    const float y = as_float(as_bits(p) + (as_bits(shifted) << 23));
    return x > -87.3f ? y : 0.0f;
}

// Fused where the machine can: nothing of the noise contract is made of it.
ARGUMBEL_INLINE double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
