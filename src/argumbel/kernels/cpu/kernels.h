// What the compiled paths offer to the module: one table of plain functions per instruction set.
#pragma once
#include <cstdint>

namespace argumbel {

enum class Dtype : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };
enum class Law : int { uniform = 0, exponential = 1, gumbel = 2, logistic = 3 };

// A matrix of logits: items are contiguous, rows may be strided (0 for an expanded row).
struct Matrix {
    const void* data;
    int64_t rows, items, row_stride;
    Dtype dtype;
};

// The keys of that matrix. Null ids mean 0, 1, 2, ...; item ids are shared by the rows (stride 0) or one line per row.
struct Key {
    uint64_t seed;
    const int64_t* rows;
    const int64_t* items;
    int64_t items_row_stride;
};

// Every function returns the first bad row (NaN, +inf, nothing allowed), or -1. A bad row gets index -1 and NaN.
struct Kernels {
    const char* name;
    int64_t (*noise)(Law law, void* out, int64_t rows, int64_t items, Key key, Dtype dtype, int threads);
    int64_t (*bad_row)(Matrix x);
    int64_t (*gumbel_max)(Matrix x, Key key, void* values, int64_t* indices, int threads);
    int64_t (*gumbel_softmax)(
        Matrix x, Key key, const float* tau, int64_t tau_stride, bool hard, void* out, int threads);
    int64_t (*gumbel_softmax_backward)(
        Matrix y, Matrix grad, const float* tau, int64_t tau_stride, void* out, int threads);
    int64_t (*gumbel_softmax_backward_keyed)(
        Matrix x, Key key, Matrix grad, const float* tau, int64_t tau_stride, void* out, int threads);
    int64_t (*categorical)(Matrix x, uint64_t seed, int64_t draws, int64_t* out, double* log_z, int threads);
    int64_t (*gumbel_topk)(Matrix x, Key key, int64_t k, void* values, int64_t* indices, int threads);
    int64_t (*posterior_gumbel)(
        Matrix x, Key key, const int64_t* index, const float* value, float* out, int threads);
    int64_t (*sample_without_replacement)(
        Matrix x, uint64_t seed, int64_t k, void* keys, int64_t* items, int threads);
};

extern const Kernels kernels_v2, kernels_v3, kernels_v4, kernels_generic;

}  // namespace argumbel
