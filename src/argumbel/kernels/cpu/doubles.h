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

ARGUMBEL_INLINE Doubles fma(Doubles a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
}
ARGUMBEL_INLINE Integers as_bits(Doubles x) { return reinterpret_cast<Integers>(x); }
ARGUMBEL_INLINE Doubles as_double(Integers x) { return reinterpret_cast<Doubles>(x); }

// e^x for x <= 0, of one number or of several side by side: relative error below 1e-15; 0 below -708, where float64 has no
// normal numbers.
template <class V>
ARGUMBEL_INLINE V exp64_nonpositive(V x) {
    const auto all = [](double c) __attribute__((always_inline)) { return V{} + c; };
    const V shifted = fma(x, all(0x1.71547652b82fep0), all(0x1.8p52));  // the low bits now hold round(x / log 2)
    const V n = shifted - 0x1.8p52, r = fma(n, all(-kLn2Low64), fma(n, all(-kLn2High64), x));
    V p = all(1.0 / 6227020800);
    p = fma(p, r, all(1.0 / 479001600));
    p = fma(p, r, all(1.0 / 39916800));
    p = fma(p, r, all(1.0 / 3628800));
    p = fma(p, r, all(1.0 / 362880));
    p = fma(p, r, all(1.0 / 40320));
    p = fma(p, r, all(1.0 / 5040));
    p = fma(p, r, all(1.0 / 720));
    p = fma(p, r, all(1.0 / 120));
    p = fma(p, r, all(1.0 / 24));
    p = fma(p, r, all(1.0 / 6));
    p = fma(p, r, all(0.5));
    p = fma(p, r, all(1.0));
    p = fma(p, r, all(1.0));
    return x > -708.0 ? as_double(as_bits(p) + (as_bits(shifted) << 52)) : V{};
}
ARGUMBEL_INLINE double exp_nonpositive(double x) { return exp64_nonpositive(x); }
ARGUMBEL_INLINE Doubles exp_nonpositive(Doubles x) { return exp64_nonpositive(x); }

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
