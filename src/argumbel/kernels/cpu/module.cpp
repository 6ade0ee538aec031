// The Python module: pointers and sizes in, the compiled path of this machine behind them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace nb = nanobind;
using namespace argumbel;

namespace {

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> found;  // best first
#ifdef ARGUMBEL_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found.push_back(&kernels_v4);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("f16c"))
        found.push_back(&kernels_v3);
    if (__builtin_cpu_supports("sse4.2")) found.push_back(&kernels_v2);
#else
    found.push_back(&kernels_generic);
#endif
    return found;
}

const std::vector<const Kernels*> paths = runnable();
const Kernels* active = paths.empty() ? nullptr : paths.front();

std::vector<std::string> path_names() {
    std::vector<std::string> names;
    for (const Kernels* k : paths) names.emplace_back(k->name);
    return names;
}

std::string use(const std::string& name) {
    for (const Kernels* k : paths)
        if (name == k->name) return (active = k)->name;
    throw std::invalid_argument("no compiled path '" + name + "' on this machine");
}

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Matrix matrix(uintptr_t data, int64_t rows, int64_t items, int64_t row_stride, int dtype) {
    return {at<const void>(data), rows, items, row_stride, static_cast<Dtype>(dtype)};
}

Key key_of(int64_t seed, uintptr_t rows, uintptr_t items, int64_t items_row_stride) {
    return {static_cast<uint64_t>(seed), at<const int64_t>(rows), at<const int64_t>(items), items_row_stride};
}

int64_t noise(int law, uintptr_t out, int64_t rows, int64_t items, int dtype, int64_t seed, uintptr_t row_ids,
              uintptr_t item_ids, int64_t items_row_stride, int threads) {
    return active->noise(static_cast<Law>(law), at<void>(out), rows, items,
                         key_of(seed, row_ids, item_ids, items_row_stride), static_cast<Dtype>(dtype), threads);
}

int64_t bad_row(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype) {
    return active->bad_row(matrix(x, rows, items, row_stride, dtype));
}

int64_t gumbel_max(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype, int64_t seed,
                   uintptr_t row_ids, uintptr_t item_ids, int64_t items_row_stride, uintptr_t values, uintptr_t indices,
                   int threads) {
    return active->gumbel_max(matrix(x, rows, items, row_stride, dtype),
                              key_of(seed, row_ids, item_ids, items_row_stride), at<void>(values), at<int64_t>(indices),
                              threads);
}

int64_t gumbel_softmax(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype, int64_t seed,
                       uintptr_t row_ids, uintptr_t item_ids, int64_t items_row_stride, uintptr_t tau,
                       int64_t tau_stride, bool hard, uintptr_t out, int threads) {
    return active->gumbel_softmax(matrix(x, rows, items, row_stride, dtype),
                                  key_of(seed, row_ids, item_ids, items_row_stride), at<const float>(tau), tau_stride,
                                  hard, at<void>(out), threads);
}

int64_t gumbel_softmax_backward(uintptr_t y, uintptr_t grad, int64_t rows, int64_t items, int64_t y_stride,
                                int64_t grad_stride, int dtype, uintptr_t tau, int64_t tau_stride, uintptr_t out,
                                int threads) {
    return active->gumbel_softmax_backward(matrix(y, rows, items, y_stride, dtype),
                                           matrix(grad, rows, items, grad_stride, dtype), at<const float>(tau),
                                           tau_stride, at<void>(out), threads);
}

int64_t gumbel_softmax_backward_keyed(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype,
                                      int64_t seed, uintptr_t row_ids, uintptr_t item_ids, int64_t items_row_stride,
                                      uintptr_t grad, int64_t grad_stride, uintptr_t tau, int64_t tau_stride,
                                      uintptr_t out, int threads) {
    return active->gumbel_softmax_backward_keyed(
        matrix(x, rows, items, row_stride, dtype), key_of(seed, row_ids, item_ids, items_row_stride),
        matrix(grad, rows, items, grad_stride, dtype), at<const float>(tau), tau_stride, at<void>(out), threads);
}

int64_t categorical(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype, int64_t seed,
                    int64_t draws, uintptr_t out, uintptr_t log_z, int threads) {
    return active->categorical(matrix(x, rows, items, row_stride, dtype), static_cast<uint64_t>(seed), draws,
                               at<int64_t>(out), at<double>(log_z), threads);
}

int64_t gumbel_topk(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype, int64_t seed,
                    uintptr_t row_ids, uintptr_t item_ids, int64_t items_row_stride, int64_t k, uintptr_t values,
                    uintptr_t indices, int threads) {
    return active->gumbel_topk(matrix(x, rows, items, row_stride, dtype),
                               key_of(seed, row_ids, item_ids, items_row_stride), k, at<void>(values),
                               at<int64_t>(indices), threads);
}

int64_t posterior_gumbel(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype, int64_t seed,
                         uintptr_t row_ids, uintptr_t item_ids, int64_t items_row_stride, uintptr_t index,
                         uintptr_t value, uintptr_t out, int threads) {
    return active->posterior_gumbel(matrix(x, rows, items, row_stride, dtype),
                                    key_of(seed, row_ids, item_ids, items_row_stride), at<const int64_t>(index),
                                    at<const float>(value), at<float>(out), threads);
}

int64_t sample_without_replacement(uintptr_t x, int64_t rows, int64_t items, int64_t row_stride, int dtype,
                                   int64_t seed, int64_t k, uintptr_t keys, uintptr_t indices, int threads) {
    return active->sample_without_replacement(matrix(x, rows, items, row_stride, dtype), static_cast<uint64_t>(seed), k,
                                              at<void>(keys), at<int64_t>(indices), threads);
}

}  // namespace

NB_MODULE(_cpu, m) {
    const auto free = nb::call_guard<nb::gil_scoped_release>();
    m.def("paths", &path_names);
    m.def("use", &use);
    m.def("active", [] { return std::string(active ? active->name : ""); });
    m.def("use_openmp", [](uintptr_t entry) { use_openmp(reinterpret_cast<OpenMP>(entry)); });
    m.def("noise", &noise, free);
    m.def("bad_row", &bad_row);
    m.def("gumbel_max", &gumbel_max, free);
    m.def("gumbel_softmax", &gumbel_softmax, free);
    m.def("gumbel_softmax_backward", &gumbel_softmax_backward, free);
    m.def("gumbel_softmax_backward_keyed", &gumbel_softmax_backward_keyed, free);
    m.def("categorical", &categorical, free);
    m.def("gumbel_topk", &gumbel_topk, free);
    m.def("posterior_gumbel", &posterior_gumbel, free);
    m.def("sample_without_replacement", &sample_without_replacement, free);
}
