// The operations on matrices of logits. This file is compiled once per instruction set, ARGUMBEL_ARCH.
#include <atomic>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "matrix.h"
#include "noise.h"
#include "reduce.h"
#include "threads.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// How a matrix is cut into tasks of about kTask items: whole rows together, or stretches of one row.
constexpr int64_t kTask = 16 * kTile;
struct Cut {
    int64_t rows, items, rows_per_task, parts, tasks;
    Cut(int64_t r, int64_t n) : rows(r), items(n) {
        rows_per_task = n >= kTask ? 1 : std::max<int64_t>(1, kTask / std::max<int64_t>(n, 1));
        if (n <= kShort) rows_per_task = (rows_per_task + kLanes - 1) / kLanes * kLanes;
        parts = n >= 2 * kTask ? (n + kTask - 1) / kTask : 1;
        tasks = parts > 1 ? rows * parts : (rows + rows_per_task - 1) / rows_per_task;
    }
};

// The first bad row of all, or -1.
struct BadRow {
    std::atomic<int64_t> first{INT64_MAX};
    void add(int64_t row) {
        int64_t seen = first.load(std::memory_order_relaxed);
        while (row < seen && !first.compare_exchange_weak(seen, row)) {
        }
    }
    int64_t result() const {
        const int64_t row = first.load();
        return row == INT64_MAX ? -1 : row;
    }
};

template <class T>
const T* row_of(const Matrix& x, int64_t row) {
    return static_cast<const T*>(x.data) + row * x.row_stride;
}

bool in_lanes(const Key& key, int64_t items) { return items <= kShort && !key.items; }

// ---------------------------------------------------------------------------------------------------------- noise

template <Law law, class T>
void noise_rows(T* out, int64_t rows, int64_t items, const Key& key, int threads) {
    const Cut cut(rows, items);
    using Work = std::conditional_t<std::is_same_v<T, double>, double, float>;
    parallel(cut.tasks, threads, [&](int64_t task) {
        alignas(64) Work buffer[kShort * kLanes];
        const int64_t part = task % cut.parts, first = task / cut.parts * (cut.parts > 1 ? 1 : cut.rows_per_task);
        const int64_t last = cut.parts > 1 ? first + 1 : std::min(rows, first + cut.rows_per_task);
        if constexpr (!std::is_same_v<T, double>) {
            if (in_lanes(key, items)) {
                for (int64_t row = first; row < last; row += kLanes) {
                    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                    lanes_noise<law>(key, row, lanes, static_cast<int>(items), buffer);
                    for (int l = 0; l < lanes; ++l)
                        for (int64_t i = 0; i < items; ++i) from_float(buffer[i * kLanes + l], &out[(row + l) * items + i]);
                }
                return;
            }
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

int64_t noise(Law law, void* out, int64_t rows, int64_t items, Key key, Dtype dtype, int threads) {
    const auto run = [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* to = static_cast<T*>(out);
        if (law == Law::uniform) noise_rows<Law::uniform>(to, rows, items, key, threads);
        if (law == Law::exponential) noise_rows<Law::exponential>(to, rows, items, key, threads);
        if (law == Law::logistic) noise_rows<Law::logistic>(to, rows, items, key, threads);
        if (law == Law::gumbel) noise_rows<Law::gumbel>(to, rows, items, key, threads);
    };
    dtype == Dtype::f64 ? run(static_cast<double*>(nullptr)) : by_dtype(dtype, run);
    return -1;
}

// ----------------------------------------------------------------------------------------------------- gumbel_max

// Perturbed logits of short rows side by side, keys[item][lane], and which of the rows hold NaN or +inf.
template <class T>
void lanes_keys(const Matrix& x, const Key& key, int64_t row, int lanes, float* __restrict keys,
                int32_t* __restrict bad) {
    alignas(64) float logits[kShort * kLanes];
    const int n = static_cast<int>(x.items);
    if (lanes < kLanes) std::fill_n(logits, n * kLanes, 0.0f);
    for (int l = 0; l < lanes; ++l) {
        const T* from = row_of<T>(x, row + l);
        for (int i = 0; i < n; ++i) logits[i * kLanes + l] = to_float(from[i]);
    }
    lanes_noise<Law::gumbel>(key, row, lanes, n, keys);
    for (int l = 0; l < kLanes; ++l) bad[l] = 0;
    for (int i = 0; i < n; ++i) {
        for (int l = 0; l < kLanes; ++l) {
            bad[l] |= static_cast<int32_t>(!(logits[i * kLanes + l] < kInf));
            keys[i * kLanes + l] += logits[i * kLanes + l];
        }
    }
}

struct Winner {
    float value = -kInf;
    int64_t index = -1;
    bool bad = false;
    void merge(const Winner& other) {  // `other` comes later in the row: a tie is the earlier one's
        bad |= other.bad;
        if (other.value > value) value = other.value, index = other.index;
    }
};

// Words from here on cannot give noise above `height`: the inverse of the Gumbel law, with a margin far beyond the error
// of the float32 arithmetic. 2^31 (every word on the upper side) when most could.
uint32_t word_limit(double height) {
    const double u = -std::expm1(-std::exp(-(height - 1e-3)));
    return u < 0.5 ? static_cast<uint32_t>(u * 0x1p32) + 2 : 0x80000000u;
}

// The winner of a stretch of a row. Once a runner leads by enough, only words that could beat it are made into noise.
template <class T>
void race(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, Winner& best) {
    alignas(64) float buffer[kTile], noise[kTile];
    alignas(64) uint32_t words[kTile];
    const uint64_t id = static_cast<uint64_t>(row_id(key, row));
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        const float* logits = fetch(row_of<T>(x, row) + i, count, buffer);
        best.bad |= any_bad(logits, count);
        const double needed = static_cast<double>(best.value) - max_of(logits, count);
        if (needed > 1.0) {
            const uint32_t limit = word_limit(needed);
            row_words(key, row, i, count, 0, words);
            uint32_t any = 0;
            for (int j = 0; j < count; ++j) any |= static_cast<uint32_t>(words[j] < limit);
            if (!any) continue;
            for (int j = 0; j < count; ++j) {
                if (words[j] >= limit) continue;
                const float g = words[j] < kRefineBelow
                                    ? refined<Law::gumbel>(key.seed, static_cast<int64_t>(id), item_id(key, row, i + j), words[j])
                                    : gumbel(0, half_distance(words[j]));
                const float value = logits[j] + g;
                if (value > best.value) best.value = value, best.index = i + j;
            }
            continue;
        }
        row_noise<Law::gumbel>(key, row, i, count, noise);
        for (int j = 0; j < count; ++j) noise[j] += logits[j];
        const float value = max_of(noise, count);
        if (value > best.value) best.value = value, best.index = i + index_of(noise, count, value);
    }
}

// A few long rows are cut into stretches, raced apart and merged; else a task is a number of rows.
template <class T, class Done>
void race_rows(const Matrix& x, const Key& key, int threads, Done&& done) {
    if (x.rows < 2 * threads && x.items >= 2 * kTask) {
        const int64_t parts = (x.items + kTask - 1) / kTask;
        std::vector<Winner> winners(static_cast<size_t>(x.rows * parts));
        parallel(x.rows * parts, threads, [&](int64_t task) {
            const int64_t from = task % parts * kTask;
            race<T>(x, key, task / parts, from, std::min(x.items, from + kTask), winners[static_cast<size_t>(task)]);
        });
        for (int64_t row = 0; row < x.rows; ++row) {
            Winner best;
            for (int64_t p = 0; p < parts; ++p) best.merge(winners[static_cast<size_t>(row * parts + p)]);
            done(row, best);
        }
        return;
    }
    const Cut cut(x.rows, x.items);
    const int64_t tasks = (x.rows + cut.rows_per_task - 1) / cut.rows_per_task;
    parallel(tasks, threads, [&](int64_t task) {
        const int64_t first = task * cut.rows_per_task, last = std::min(x.rows, first + cut.rows_per_task);
        if (in_lanes(key, x.items)) {
            alignas(64) float keys[kShort * kLanes];
            for (int64_t row = first; row < last; row += kLanes) {
                const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                alignas(64) float value[kLanes];
                alignas(64) int32_t index[kLanes], bad[kLanes];
                lanes_keys<T>(x, key, row, lanes, keys, bad);
                for (int l = 0; l < kLanes; ++l) value[l] = -kInf, index[l] = -1;
                for (int i = 0; i < static_cast<int>(x.items); ++i) {
                    for (int l = 0; l < kLanes; ++l) {
                        const bool wins = keys[i * kLanes + l] > value[l];
                        value[l] = wins ? keys[i * kLanes + l] : value[l];
                        index[l] = wins ? i : index[l];
                    }
                }
                for (int l = 0; l < lanes; ++l) done(row + l, Winner{value[l], index[l], bad[l] != 0});
            }
            return;
        }
        for (int64_t row = first; row < last; ++row) {
            Winner best;
            race<T>(x, key, row, 0, x.items, best);
            done(row, best);
        }
    });
}

int64_t gumbel_max(Matrix x, Key key, void* values, int64_t* indices, int threads) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        race_rows<T>(x, key, threads, [&](int64_t row, const Winner& winner) {
            const bool is_bad = winner.bad || winner.index < 0;
            if (is_bad) bad.add(row);
            from_float(is_bad ? kNan : winner.value, static_cast<T*>(values) + row);
            indices[row] = is_bad ? -1 : winner.index;
        });
    });
    return bad.result();
}

// ------------------------------------------------------------------------------------------------- gumbel_softmax

template <class T>
void fill_nan(T* out, int64_t items) {
    for (int64_t i = 0; i < items; ++i) from_float(kNan, out + i);
}

// 1 / tau, finite: keys are measured from their maximum, so a huge factor leaves the argmax alone, as tau = 0 should.
float inverse(float tau) { return std::min(1.0f / tau, std::numeric_limits<float>::max()); }

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
        if (in_lanes(key, n)) {
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

// out = y (grad - <grad, y>) / tau; out may be y.
int64_t gumbel_softmax_backward(Matrix y, Matrix grad, const float* tau, int64_t tau_stride, void* out, int threads) {
    by_dtype(y.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const int64_t n = y.items;
        const Cut cut(y.rows, n);
        parallel((y.rows + cut.rows_per_task - 1) / cut.rows_per_task, threads, [&](int64_t task) {
            alignas(64) float a[kTile], b[kTile], c[kTile];
            const int64_t first = task * cut.rows_per_task, last = std::min(y.rows, first + cut.rows_per_task);
            for (int64_t row = first; row < last; ++row) {
                const T *ys = row_of<T>(y, row), *gs = row_of<T>(grad, row);
                T* to = static_cast<T*>(out) + row * n;
                double dot = 0;
                for (int64_t i = 0; i < n; i += kTile) {
                    const int count = static_cast<int>(std::min<int64_t>(kTile, n - i));
                    dot += dot_of(fetch(ys + i, count, a), fetch(gs + i, count, b), count);
                }
                const float mean = static_cast<float>(dot), scale = inverse(tau[row * tau_stride]);
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

#define ARGUMBEL_JOIN_(a, b) a##b
#define ARGUMBEL_JOIN(a, b) ARGUMBEL_JOIN_(a, b)
#define ARGUMBEL_TEXT_(a) #a
#define ARGUMBEL_TEXT(a) ARGUMBEL_TEXT_(a)
extern const Kernels ARGUMBEL_JOIN(kernels_, ARGUMBEL_ARCH) = {
    ARGUMBEL_TEXT(ARGUMBEL_ARCH),         ARGUMBEL_ARCH::noise,
    ARGUMBEL_ARCH::gumbel_max,            ARGUMBEL_ARCH::gumbel_softmax,
    ARGUMBEL_ARCH::gumbel_softmax_backward,
};

}  // namespace argumbel
