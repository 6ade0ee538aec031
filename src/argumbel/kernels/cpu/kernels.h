// What the compiled paths offer to the module: one table of plain functions per instruction set.
#pragma once
#include <cstdint>

namespace argumbel {

enum class Dtype : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };
enum class Law : int { uniform = 0, exponential = 1, gumbel = 2, logistic = 3, odds = 4 };

// What is done to logits before noise is added to them: items that a row's cut does not leave are forbidden, and logits are
// divided by a temperature. Null: neither.
struct Terms {
    const float* temperature = nullptr;  // one for all rows (stride 0), or one a row
    int64_t temperature_stride = 0;
    const float* cut = nullptr;
    const int64_t* last = nullptr;  // items above the cut are left, and of those equal to it the ones up to here
    float temperature_of(int64_t row) const { return temperature[row * temperature_stride]; }
};

// A temperature, and which items of a row take part. Each is one for all rows (stride 0) or one a row; null limits leave all.
struct Limits {
    const float* temperature;
    int64_t temperature_stride;
    const int64_t* top_k;
    int64_t top_k_stride;
    const double* top_p;
    int64_t top_p_stride;
    const double* min_p;
    int64_t min_p_stride;
};

// A matrix of logits: items are contiguous, rows may be strided (0 for an expanded row).
struct Matrix {
    const void* data;
    int64_t rows, items, row_stride;
    Dtype dtype;
    Terms terms = {};
};

// The keys of that matrix. Null ids mean 0, 1, 2, ...; item ids are shared by the rows (stride 0) or one line per row. The
// seed is that of every row, unless rows have seeds of their own.
struct Key {
    uint64_t seed;
    const int64_t* rows;
    const int64_t* items;
    int64_t items_row_stride;
    const int64_t* seeds = nullptr;
};

}  // namespace argumbel

#include "operations.h"

namespace argumbel {

// Every function returns the first bad row (NaN, +inf, nothing allowed), or -1. A bad row gets index -1 and NaN.
struct Kernels {
    const char* name;
#define ARGUMBEL_MEMBER(operation, ...) int64_t (*operation)(Matrix x, Key key, int threads __VA_OPT__(, ) __VA_ARGS__);
    ARGUMBEL_OPERATIONS(ARGUMBEL_MEMBER)
#undef ARGUMBEL_MEMBER
};

extern const Kernels kernels_v2, kernels_v3, kernels_v4, kernels_neon, kernels_generic;

}  // namespace argumbel
