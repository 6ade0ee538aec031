// Reading and writing rows of any dtype, in stretches that stay in the first-level cache.
#pragma once
#include <cstring>
#include <type_traits>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "arithmetic.h"
#include "kernels.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {

struct half {
    uint16_t bits;
};
struct bfloat {
    uint16_t bits;
};

// An element as it is computed with: in float32, but float64 stays what it is.
inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }
inline float to_float(bfloat x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(half x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00u) return as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // Scaling by 2^112 moves the exponent and makes subnormals right.
    return as_float(as_bits(as_float(rest << 13) * 0x1p112f) | sign);
}

inline void from_float(float x, float* out) { *out = x; }
inline void from_float(double x, double* out) { *out = x; }
inline void from_float(float x, bfloat* out) {
    const uint32_t bits = as_bits(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out->bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
}
inline void from_float(float x, half* out) {
    const uint32_t sign = (as_bits(x) >> 16) & 0x8000u;
    const float magnitude = as_float(as_bits(x) & 0x7fffffffu);
    uint32_t bits;
    if (!(magnitude < 65520.0f)) {
        bits = magnitude == magnitude ? 0x7c00u : 0x7e00u;
    } else if (magnitude < 0x1p-14f) {
        bits = as_bits(magnitude + 0.5f) - as_bits(0.5f);  // the addition rounds to a multiple of 2^-24, to even
    } else {
        const uint32_t m = as_bits(magnitude);
        bits = (m + 0xfffu + ((m >> 13) & 1u) - (112u << 23)) >> 13;
    }
    out->bits = static_cast<uint16_t>(sign | bits);
}

template <class T>
inline const float* fetch(const T* from, int count, float* buffer) {
    for (int i = 0; i < count; ++i) buffer[i] = to_float(from[i]);
    return buffer;
}
inline const float* fetch(const float* from, int, float*) { return from; }
inline const double* fetch(const double* from, int, float*) { return from; }
#ifdef __F16C__
inline const float* fetch(const half* from, int count, float* buffer) {
    int i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    for (; i < count; ++i) buffer[i] = to_float(from[i]);
    return buffer;
}
#endif

template <class T>
inline void store(const float* from, int count, T* to) {
    for (int i = 0; i < count; ++i) from_float(from[i], to + i);
}
inline void store(const float* from, int count, float* to) {
    if (from != to) std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
}
inline void store(const double* from, int count, double* to) {
    if (from != to) std::memcpy(to, from, sizeof(double) * static_cast<size_t>(count));
}
#ifdef __F16C__
inline void store(const float* from, int count, half* to) {
    int i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < count; ++i) from_float(from[i], to + i);
}
#endif

// What numbers of a type are computed in.
template <class T>
using WorkOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls body with a null pointer of the element type: dispatch on dtype for the float32-inside ops.
template <class F>
inline auto by_dtype(Dtype dtype, F&& body) {
    switch (dtype) {
        case Dtype::f16: return body(static_cast<half*>(nullptr));
        case Dtype::bf16: return body(static_cast<bfloat*>(nullptr));
        default: return body(static_cast<float*>(nullptr));
    }
}

// The same for operations that take float64, too.
template <class F>
inline auto by_any_dtype(Dtype dtype, F&& body) {
    return dtype == Dtype::f64 ? body(static_cast<double*>(nullptr)) : by_dtype(dtype, body);
}

}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
