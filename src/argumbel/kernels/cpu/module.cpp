// The Python module: pointers and sizes in, the compiled path of this machine behind them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "hash.h"
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
#elif defined(ARGUMBEL_ARM)
    found.push_back(&kernels_neon);
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

// What Python passes for an argument: addresses and sizes.
template <class T>
struct Passed {
    using Type = T;
    static T read(T value) { return value; }
};
template <class T>
struct Passed<T*> {
    using Type = uintptr_t;
    static T* read(uintptr_t address) { return reinterpret_cast<T*>(address); }
};
template <>
struct Passed<Terms> {
    using Type = std::tuple<uintptr_t, int64_t, uintptr_t, uintptr_t>;
    static Terms read(Type terms) {
        const auto [temperature, stride, cut, last] = terms;
        return {Passed<const float*>::read(temperature), stride, Passed<const float*>::read(cut),
                Passed<const int64_t*>::read(last)};
    }
};
template <>
struct Passed<Limits> {
    using Type = std::tuple<uintptr_t, int64_t, uintptr_t, int64_t, uintptr_t, int64_t, uintptr_t, int64_t>;
    static Limits read(Type limits) {
        const auto [temperature, temperature_stride, top_k, top_k_stride, top_p, top_p_stride, min_p, min_p_stride] =
            limits;
        return {Passed<const float*>::read(temperature), temperature_stride,
                Passed<const int64_t*>::read(top_k),     top_k_stride,
                Passed<const double*>::read(top_p),      top_p_stride,
                Passed<const double*>::read(min_p),      min_p_stride};
    }
};
template <>
struct Passed<Law> {
    using Type = int;
    static Law read(int law) { return static_cast<Law>(law); }
};

// Ctrl-C during a long draw: Python's handlers of signals run, and what they raise ends the draw.
void run_signal_handlers() {
    const nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals()) throw nb::python_error();
}

// Binds an operation of the active path: a matrix as five numbers, a key as five, the threads, then what is its own.
template <class... Own>
void bind(nb::module_& m, const char* name, int64_t (*Kernels::*operation)(Matrix, Key, int, Own...)) {
    m.def(
        name,
        [operation](uintptr_t data, int64_t rows, int64_t items, int64_t row_stride, int dtype, int64_t seed,
                    uintptr_t row_seeds, uintptr_t row_ids, uintptr_t item_ids, int64_t items_row_stride, int threads,
                    typename Passed<Own>::Type... own) {
            const Matrix x{Passed<const void*>::read(data), rows, items, row_stride, static_cast<Dtype>(dtype)};
            const Key key{static_cast<uint64_t>(seed), Passed<const int64_t*>::read(row_ids),
                          Passed<const int64_t*>::read(item_ids), items_row_stride,
                          Passed<const int64_t*>::read(row_seeds)};
            const Interruptible interruptible(run_signal_handlers);
            return (active->*operation)(x, key, threads, Passed<Own>::read(own)...);
        },
        nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

NB_MODULE(_cpu, m) {
    m.def("paths", &path_names);
    m.def("use", &use);
    m.def("active", [] { return std::string(active ? active->name : ""); });
    m.def("use_openmp", [](uintptr_t entry) { use_openmp(reinterpret_cast<OpenMP>(entry)); });
    m.def(
        "xxh64",
        [](uintptr_t data, uintptr_t offsets, int64_t count, uint64_t seed, uintptr_t out) {
            const auto* bytes = reinterpret_cast<const unsigned char*>(data);
            const auto* from = reinterpret_cast<const int64_t*>(offsets);
            for (int64_t i = 0; i < count; ++i)
                reinterpret_cast<uint64_t*>(out)[i] =
                    xxh64(bytes + from[i], static_cast<uint64_t>(from[i + 1] - from[i]), seed);
        },
        nb::call_guard<nb::gil_scoped_release>());
#define ARGUMBEL_BIND(operation, ...) bind(m, #operation, &Kernels::operation);
    ARGUMBEL_OPERATIONS(ARGUMBEL_BIND)
#undef ARGUMBEL_BIND
}
