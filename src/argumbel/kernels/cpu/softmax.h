// gumbel_softmax and its gradient.
#pragma once
#include <vector>

#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

template <class T>
void fill_nan(T* out, int64_t items) {
    for (int64_t i = 0; i < items; ++i) from_float(kNan, out + i);
}

// 1 / tau, finite: keys are measured from their maximum, so a huge factor leaves the argmax alone, as tau = 0 should.
float inverse(float tau) { return std::min(1.0f / tau, std::numeric_limits<float>::max()); }

// The same factor of the gradient: zero at tau = 0, where the sample is exact and does not move.
float slope(float tau) { return tau > 0 ? inverse(tau) : 0.0f; }

template <class T>
float perturb_part(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, float* keys, bool& bad) {
    alignas(64) float buffer[kTile];
    float best = -kInf;
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        const float* logits = fetch(row_of<T>(x, row) + i, count, buffer);
        bad |= any_bad(logits, count);
        row_noise<Law::gumbel>(key, row, i, count, keys + i);
        for (int j = 0; j < count; ++j) keys[i + j] += logits[j];
        best = std::max(best, max_of(keys + i, count));
    }
    return best;
}

double exp_part(float* keys, int64_t from, int64_t to, float best, float scale) {
    double total = 0;
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        float* k = keys + i;
        for (int j = 0; j < count; ++j) k[j] = exp_nonpositive((k[j] - best) * scale);
        total += sum_of(k, count);
    }
    return total;
}

template <class T>
void scale_part(const float* keys, int64_t from, int64_t to, float factor, T* out) {
    alignas(64) float buffer[kTile];
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        for (int j = 0; j < count; ++j) buffer[j] = keys[i + j] * factor;
        store(buffer, count, out + i);
    }
}

template <class T>
void softmax_long_row(const Matrix& x, const Key& key, int64_t row, float scale, float* keys, T* out, int threads,
                      BadRow& bad) {
    const int64_t parts = (x.items + kTask - 1) / kTask;
    std::vector<float> best(static_cast<size_t>(parts));
    std::vector<double> total(static_cast<size_t>(parts));
    std::atomic<bool> is_bad{false};
    const auto part = [&](int64_t task, auto&& body) {
        body(static_cast<size_t>(task), task * kTask, std::min(x.items, (task + 1) * kTask));
    };
    parallel(parts, threads, [&](int64_t task) {
        part(task, [&](size_t p, int64_t from, int64_t to) {
            bool part_is_bad = false;
            best[p] = perturb_part<T>(x, key, row, from, to, keys, part_is_bad);
            if (part_is_bad) is_bad = true;
        });
    });
    const float top = *std::max_element(best.begin(), best.end());
    if (is_bad || top == -kInf) {
        bad.add(row);
        fill_nan(out, x.items);
        return;
    }
    parallel(parts, threads, [&](int64_t task) {
        part(task, [&](size_t p, int64_t from, int64_t to) { total[p] = exp_part(keys, from, to, top, scale); });
    });
    double sum = 0;
    for (double t : total) sum += t;
    const float factor = static_cast<float>(1.0 / sum);
    parallel(parts, threads, [&](int64_t task) {
        part(task, [&](size_t, int64_t from, int64_t to) { scale_part(keys, from, to, factor, out); });
    });
}

template <class T>
void softmax_lanes(const Matrix& x, const Key& key, int64_t row, int lanes, const float* tau, int64_t tau_stride, T* out,
                   BadRow& bad) {
    alignas(64) float keys[kShort * kLanes], best[kLanes], total[kLanes], scale[kLanes];
    alignas(64) int32_t is_bad[kLanes];
    const int n = static_cast<int>(x.items);
    lanes_keys<T>(x, key, row, lanes, keys, is_bad);
    for (int l = 0; l < kLanes; ++l)
        best[l] = -kInf, total[l] = 0, scale[l] = inverse(tau[(row + (l < lanes ? l : 0)) * tau_stride]);
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) best[l] = keys[i * kLanes + l] > best[l] ? keys[i * kLanes + l] : best[l];
    for (int i = 0; i < n; ++i) {
        float* k = keys + i * kLanes;
        for (int l = 0; l < kLanes; ++l) {
            k[l] = exp_nonpositive((k[l] - best[l]) * scale[l]);
            total[l] += k[l];
        }
    }
    for (int l = 0; l < kLanes; ++l) total[l] = 1.0f / total[l];
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) keys[i * kLanes + l] *= total[l];
    for (int l = 0; l < lanes; ++l) {
        for (int i = 0; i < n; ++i) from_float(keys[i * kLanes + l], out + (row + l) * n + i);
        if (is_bad[l] || best[l] == -kInf) {
            bad.add(row + l);
            fill_nan(out + (row + l) * n, n);
        }
    }
}

template <class T>
void softmax_rows(const Matrix& x, const Key& key, const float* tau, int64_t tau_stride, T* out, int threads,
                  BadRow& bad) {
    const int64_t n = x.items;
    const auto keys_of = [&](T* to) -> float* {
        if constexpr (std::is_same_v<T, float>) return to;
        static thread_local std::vector<float> scratch;
        scratch.resize(static_cast<size_t>(n));
        return scratch.data();
    };
    if (x.rows < 2 * threads && n >= 2 * kTask) {
        for (int64_t row = 0; row < x.rows; ++row)
            softmax_long_row(x, key, row, inverse(tau[row * tau_stride]), keys_of(out + row * n), out + row * n, threads, bad);
        return;
    }
    const Cut cut(x.rows, n);
    parallel((x.rows + cut.rows_per_task - 1) / cut.rows_per_task, threads, [&](int64_t task) {
        const int64_t first = task * cut.rows_per_task, last = std::min(x.rows, first + cut.rows_per_task);
        if (in_lanes(key, x.rows, n)) {
            for (int64_t row = first; row < last; row += kLanes)
                softmax_lanes(x, key, row, static_cast<int>(std::min<int64_t>(kLanes, last - row)), tau, tau_stride, out, bad);
            return;
        }
        for (int64_t row = first; row < last; ++row) {
            T* to = out + row * n;
            float* keys = keys_of(to);
            bool is_bad = false;
            const float best = perturb_part<T>(x, key, row, 0, n, keys, is_bad);
            if (is_bad || best == -kInf) {
                bad.add(row);
                fill_nan(to, n);
                continue;
            }
            const double total = exp_part(keys, 0, n, best, inverse(tau[row * tau_stride]));
            scale_part(keys, 0, n, static_cast<float>(1.0 / total), to);
        }
    });
}

int64_t gumbel_softmax(Matrix x, Key key, const float* tau, int64_t tau_stride, bool hard, void* out, int threads) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* to = static_cast<T*>(out);
        if (!hard) {
            softmax_rows<T>(x, key, tau, tau_stride, to, threads, bad);
            return;
        }
        std::memset(out, 0, sizeof(T) * static_cast<size_t>(x.rows * x.items));
        race_rows<T>(x, key, threads, [&](int64_t row, const Winner& winner) {
            if (winner.bad || winner.index < 0) {
                bad.add(row);
                fill_nan(to + row * x.items, x.items);
            } else {
                from_float(1.0f, to + row * x.items + winner.index);
            }
        });
    });
    return bad.result();
}

// out = y (grad - <grad, y>) / tau, of short rows side by side.
template <class T>
void backward_lanes(const Matrix& y, const Matrix& grad, int64_t row, int lanes, const float* tau, int64_t tau_stride,
                    T* out) {
    alignas(64) float ys[kShort * kLanes], gs[kShort * kLanes], mean[kLanes], scale[kLanes];
    const int n = static_cast<int>(y.items);
    load_lanes<T>(y, row, lanes, ys);
    load_lanes<T>(grad, row, lanes, gs);
    for (int l = 0; l < kLanes; ++l) mean[l] = 0, scale[l] = slope(tau[(row + (l < lanes ? l : 0)) * tau_stride]);
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) mean[l] += ys[i * kLanes + l] * gs[i * kLanes + l];
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) ys[i * kLanes + l] *= (gs[i * kLanes + l] - mean[l]) * scale[l];
    for (int l = 0; l < lanes; ++l)
        for (int i = 0; i < n; ++i) from_float(ys[i * kLanes + l], out + (row + l) * n + i);
}

// out = y (grad - <grad, y>) / tau.
int64_t gumbel_softmax_backward(Matrix y, Matrix grad, const float* tau, int64_t tau_stride, void* out, int threads) {
    by_dtype(y.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const int64_t n = y.items;
        const Cut cut(y.rows, n);
        parallel((y.rows + cut.rows_per_task - 1) / cut.rows_per_task, threads, [&](int64_t task) {
            alignas(64) float a[kTile], b[kTile], c[kTile];
            const int64_t first = task * cut.rows_per_task, last = std::min(y.rows, first + cut.rows_per_task);
            if (n <= kShort && y.rows >= kFewRows) {
                for (int64_t row = first; row < last; row += kLanes)
                    backward_lanes(y, grad, row, static_cast<int>(std::min<int64_t>(kLanes, last - row)), tau, tau_stride,
                                   static_cast<T*>(out));
                return;
            }
            for (int64_t row = first; row < last; ++row) {
                const T *ys = row_of<T>(y, row), *gs = row_of<T>(grad, row);
                T* to = static_cast<T*>(out) + row * n;
                double dot = 0;
                for (int64_t i = 0; i < n; i += kTile) {
                    const int count = static_cast<int>(std::min<int64_t>(kTile, n - i));
                    dot += dot_of(fetch(ys + i, count, a), fetch(gs + i, count, b), count);
                }
                const float mean = static_cast<float>(dot), scale = slope(tau[row * tau_stride]);
                for (int64_t i = 0; i < n; i += kTile) {
                    const int count = static_cast<int>(std::min<int64_t>(kTile, n - i));
                    const float *yt = fetch(ys + i, count, a), *gt = fetch(gs + i, count, b);
                    for (int j = 0; j < count; ++j) c[j] = yt[j] * (gt[j] - mean) * scale;
                    store(c, count, to + i);
                }
            }
        });
    });
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
