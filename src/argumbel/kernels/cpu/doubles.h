// Numbers of float64 side by side, as many as the machine adds at once.
#pragma once
#include <algorithm>
#include <cstring>
#ifdef __FMA__
#include <immintrin.h>
#endif

#include "arithmetic.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

#if defined(__AVX512F__)
constexpr int kDoubles = 8;
#elif defined(__AVX__)
constexpr int kDoubles = 4;
#else
constexpr int kDoubles = 2;
#endif
typedef double Doubles __attribute__((vector_size(kDoubles * 8)));
typedef int64_t Integers __attribute__((vector_size(kDoubles * 8)));
typedef float Floats __attribute__((vector_size(kDoubles * 4)));

ARGUMBEL_INLINE Doubles load(const double* from) {
    Doubles x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
ARGUMBEL_INLINE Doubles load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, Doubles);
}
template <class V, class T>
ARGUMBEL_INLINE void put(const V& x, T* to) {
    std::memcpy(to, &x, sizeof x);
}
// The same of the last numbers of a row: nothing at `end` or beyond it is read.
template <class T>
ARGUMBEL_INLINE Doubles load_before(const T* from, const T* end) {
    if (from + kDoubles <= end) return load(from);
    T some[kDoubles] = {};
    std::copy(from, std::max(from, end), some);
    return load(some);
}

// a b + c, in one rounding where the machine has it.
ARGUMBEL_INLINE Doubles fused(Doubles a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
}
ARGUMBEL_INLINE double fused(double a, double b, double c) {
#ifdef __FMA__
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}
ARGUMBEL_INLINE Doubles fused(Doubles a, Doubles b, double c) { return fused(a, b, Doubles{} + c); }
ARGUMBEL_INLINE Doubles fused(Doubles a, double b, double c) { return fused(a, Doubles{} + b, Doubles{} + c); }

// e^x for x <= 0: relative error below 1e-15; 0 below -708, where float64 has no normal numbers.
ARGUMBEL_INLINE Doubles exp64_nonpositive(Doubles x) {
    const Doubles none = {};
    const auto is_some = x > -708.0;
    const Doubles y = is_some ? x : none - 708.0;
    const Doubles shifted = fused(y, 0x1.71547652b82fep0, 0x1.8p52);  // the low bits now hold round(y / log 2)
    const Doubles n = shifted - 0x1.8p52, r = fused(n, Doubles{} - kLn2Low64, fused(n, Doubles{} - kLn2High64, y));
    Doubles p = fused(r, 1.0 / 6227020800, 1.0 / 479001600);
    for (const double c : {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                           1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0})
        p = fused(p, r, c);
    const Doubles power =
        reinterpret_cast<Doubles>(reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 52));
    return is_some ? power : none;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
