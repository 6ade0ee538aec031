// Keyed noise into memory.
#pragma once
#include "matrix.h"
#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

template <Law law, class T>
void noise_rows(T* out, int64_t rows, int64_t items, const Key& key, int threads) {
    const Cut cut(rows, items);
    using Work = std::conditional_t<std::is_same_v<T, double>, double, float>;
    parallel(cut.tasks, threads, [&](int64_t task) {
        alignas(64) Work buffer[kShort * kLanes];
        const int64_t part = task % cut.parts, first = task / cut.parts * (cut.parts > 1 ? 1 : cut.rows_per_task);
        const int64_t last = cut.parts > 1 ? first + 1 : std::min(rows, first + cut.rows_per_task);
        if (in_lanes(key, rows, items)) {
            for (int64_t row = first; row < last; row += kLanes) {
                const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                lanes_noise<law>(key, row, lanes, static_cast<int>(items), buffer);
                store_lanes(buffer, row, lanes, static_cast<int>(items), out);
            }
            return;
        }
        const int64_t from = part * kTask, to = cut.parts > 1 ? std::min(items, from + kTask) : items;
        for (int64_t row = first; row < last; ++row) {
            for (int64_t i = from; i < to; i += kTile) {
                const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
                T* dest = out + row * items + i;
                if constexpr (std::is_same_v<T, Work>) {
                    row_noise<law>(key, row, i, count, dest);
                } else {
                    row_noise<law>(key, row, i, count, buffer);
                    store(buffer, count, dest);
                }
            }
        }
    });
}

// `x` tells the shape and dtype of `out`, which is contiguous.
int64_t keyed_noise(Matrix x, Key key, int threads, Law law, void* out) {
    const auto run = [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* to = static_cast<T*>(out);
        if (law == Law::uniform) noise_rows<Law::uniform>(to, x.rows, x.items, key, threads);
        if (law == Law::exponential) noise_rows<Law::exponential>(to, x.rows, x.items, key, threads);
        if (law == Law::logistic) noise_rows<Law::logistic>(to, x.rows, x.items, key, threads);
        if (law == Law::gumbel) noise_rows<Law::gumbel>(to, x.rows, x.items, key, threads);
    };
    x.dtype == Dtype::f64 ? run(static_cast<double*>(nullptr)) : by_dtype(x.dtype, run);
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
