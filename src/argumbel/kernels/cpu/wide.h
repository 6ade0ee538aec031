// Numbers of float64's precision whose exponent has no limit: exp(x) of any score, and sums and products of them.
#pragma once
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// m 2^e, with m in [1, 2) or 0. A zero has the lowest exponent, so that sums need no case for it.
struct Wide {
    static constexpr int64_t kNothing = -(int64_t{1} << 60);
    double m = 0;
    int64_t e = kNothing;

    Wide() = default;
    Wide(double number, int64_t exponent = 0) : m(number), e(exponent) { settle(); }  // also from plain numbers

    void settle() {
        if (m == 0) {
            e = kNothing;
            return;
        }
        uint64_t bits;
        std::memcpy(&bits, &m, sizeof bits);
        e += static_cast<int64_t>(bits >> 52 & 2047) - 1023;
        bits = (bits & 0x800fffffffffffffu) | 0x3ff0000000000000u;
        std::memcpy(&m, &bits, sizeof bits);
    }
};

inline Wide operator*(Wide a, Wide b) { return {a.m * b.m, a.e + b.e}; }
inline Wide operator/(Wide a, Wide b) { return {a.m / b.m, a.e - b.e}; }
inline Wide operator-(Wide a) { return {-a.m, a.e}; }
// 2^-n for n of 0 to 1000, and 0 beyond.
inline double halved(int64_t n) {
    if (n > 1000) return 0;
    const uint64_t bits = static_cast<uint64_t>(1023 - n) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}
inline Wide operator+(Wide a, Wide b) {
    return a.e >= b.e ? Wide(a.m + b.m * halved(a.e - b.e), a.e) : Wide(b.m + a.m * halved(b.e - a.e), b.e);
}
inline Wide operator-(Wide a, Wide b) { return a + -b; }
inline bool is_zero(Wide a) { return a.m == 0; }
inline bool is_zero(double a) { return a == 0; }

constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLn2Rest = 0x1.abc9e3b39803fp-56;

// Below kForbidden is no score but what stands for -inf.
constexpr double kForbidden = -1e29;
// log Z where no structure is left.
constexpr double kImpossible = -1e30;
template <class N>
N exponential(double x);
template <>
inline double exponential<double>(double x) {
    return std::exp(x);
}
template <>
inline Wide exponential<Wide>(double x) {
    if (x < kForbidden) return {};
    const double e = std::nearbyint(x / kLn2);
    return {std::exp(std::fma(-e, kLn2, x) - e * kLn2Rest), static_cast<int64_t>(e)};
}
inline double logarithm(double x) { return std::log(x); }
inline double logarithm(Wide x) { return std::log(x.m) + static_cast<double>(x.e) * kLn2; }
inline double plain(double x) { return x; }
inline double plain(Wide x) {
    return x.e < -1000 ? 0 : x.m * (x.e > 0 ? 1 / halved(std::min<int64_t>(x.e, 1000)) : halved(-x.e));
}

// A number and its derivative in one direction.
template <class N>
struct Dual {
    N value{}, slope{};
    Dual() = default;
    Dual(double number) : value(number) {}
    Dual(N v, N s) : value(v), slope(s) {}
};
template <class N>
inline Dual<N> operator+(Dual<N> a, Dual<N> b) {
    return {a.value + b.value, a.slope + b.slope};
}
template <class N>
inline Dual<N> operator-(Dual<N> a, Dual<N> b) {
    return {a.value - b.value, a.slope - b.slope};
}
template <class N>
inline Dual<N> operator*(Dual<N> a, Dual<N> b) {
    return {a.value * b.value, a.slope * b.value + a.value * b.slope};
}
template <class N>
inline Dual<N> operator/(Dual<N> a, Dual<N> b) {
    const N q = a.value / b.value;
    return {q, (a.slope - q * b.slope) / b.value};
}
template <class N>
inline bool is_zero(Dual<N> a) {
    return is_zero(a.value);
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
