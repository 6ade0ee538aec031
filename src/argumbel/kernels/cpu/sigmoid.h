// gumbel_sigmoid: relaxed Bernoulli draws, a number at a time; the noise is never stored.
#pragma once
#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// out = 1 / (1 + exp(-(x + noise) / tau)), or whether x + noise is above 0; NaN where x is. Returns whether any x is NaN.
[[gnu::noinline]] bool squash(const float* __restrict x, float* __restrict noise, int count, float tau, bool hard) {
    int32_t any_nan = 0;
    for (int i = 0; i < count; ++i) {
        const float v = x[i] + noise[i], z = v / tau;
        const float e = exp_nonpositive(z > 0 ? -z : z);
        const float soft = (z > 0 ? 1.0f : e) / (1.0f + e), exact = v > 0 ? 1.0f : 0.0f;
        any_nan |= static_cast<int32_t>(x[i] != x[i]);
        noise[i] = x[i] != x[i] ? kNan : hard ? exact : soft;
    }
    return any_nan != 0;
}

// tau is one number; 0 asks for `hard`. Infinite logits are certain. A row is bad if it holds NaN.
int64_t gumbel_sigmoid(Matrix x, Key key, int threads, const float* tau, bool hard, void* out) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* to = static_cast<T*>(out);
        const Cut cut(x.rows, x.items);
        const auto stretch = [&](int64_t row, int64_t from, int64_t end) {
            alignas(64) float buffer[kTile], noise[kTile];
            for (int64_t i = from; i < end; i += kTile) {
                const int count = static_cast<int>(std::min<int64_t>(kTile, end - i));
                row_noise<Law::logistic>(key, row, i, count, noise);
                if (squash(fetch(row_of<T>(x, row) + i, count, buffer), noise, count, *tau, hard)) bad.add(row);
                store(noise, count, to + row * x.items + i);
            }
        };
        if (cut.parts > 1) {
            parallel(cut.tasks, threads, [&](int64_t task) {
                const int64_t from = task % cut.parts * kTask;
                stretch(task / cut.parts, from, std::min(x.items, from + kTask));
            });
            return;
        }
        row_tasks(x.rows, cut.rows_per_task, threads, [&](int64_t first, int64_t last) {
            if (in_tiles(key, x.items)) {
                const int n = static_cast<int>(x.items);
                each_tile_of_rows<Law::logistic>(key, first, last, n, [&](int64_t row, int rows, float* noise) {
                    alignas(64) float buffer[kTile];
                    for (int r = 0; r < rows; ++r, noise += stride_of(n)) {
                        if (squash(fetch(row_of<T>(x, row + r), n, buffer), noise, n, *tau, hard)) bad.add(row + r);
                        store(noise, n, to + (row + r) * n);
                    }
                });
                return;
            }
            for (int64_t row = first; row < last; ++row) stretch(row, 0, x.items);
        });
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
