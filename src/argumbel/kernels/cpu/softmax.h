// gumbel_softmax and its gradient.
#pragma once
#include <vector>

#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// The factor of the gradient: zero at tau = 0, where the sample is exact and does not move.
template <class Real>
Real slope(Real tau) {
    return tau > 0 ? inverse(tau) : Real{0};
}

// A sum for each stretch of a row; of a row of one stretch, without memory from elsewhere.
struct Dots {
    double one = 0;
    std::vector<double> many;
    explicit Dots(int64_t parts) : many(parts > 1 ? static_cast<size_t>(parts) : 0) {}
    double& of(int64_t part) { return many.empty() ? one : many[static_cast<size_t>(part)]; }
    double sum() const {
        double total = one;
        for (double d : many) total += d;
        return total;
    }
};

// Noise becomes its exact sums with the logits, measured from the winner's: nothing is lost far from 0.
template <class Real>
void measure(const Real* __restrict logits, Real* __restrict noise, int count, const WinnerOf<Real>& winner) {
    for (int j = 0; j < count; ++j) {
        const Real sum = logits[j] + noise[j];
        const Real from_top = (sum - winner.value) + (rest_of(logits[j], noise[j], sum) - winner.rest);
        noise[j] = sum > -kInf ? from_top : static_cast<Real>(-kInf);
    }
}

// out[j] = value(j), by way of y where out is of half precision.
template <class Real, class T, class Value>
void write(int count, Real* y, T* out, Value&& value) {
    if constexpr (std::is_same_v<Real, T>) y = out;
    for (int j = 0; j < count; ++j) y[j] = value(j);
    if constexpr (!std::is_same_v<Real, T>) store(y, count, out);
}

// One row of softmax((x + noise) / tau), or, given the gradient of a loss with respect to it, of the gradient with respect
// to x. `keys` has room for the row (it may be `out`). Two passes over memory forward: each tile is softened on its own
// scale while it is in the cache, and brought to the scale of the row when that is known. A row that turns out to have
// its maximum far from 0 is made again, by way of its settled winner.
template <class T>
void soft_row(const Matrix& x, const Key& key, int64_t row, WorkOf<T> tau, const Matrix* grad, WorkOf<T>* keys,
              std::vector<BlockOf<WorkOf<T>>>& tiles, T* out, int threads, BadRow& bad,
              const WinnerOf<WorkOf<T>>* far_winner = nullptr) {
    using Real = WorkOf<T>;
    const int64_t n = x.items, parts = (n + kTask - 1) / kTask;
    const Real scale = inverse(tau);
    tiles.resize(static_cast<size_t>(blocks_of(n)));
    std::atomic<bool> is_bad{false};
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile];
        each_tile(n, part, [&](int64_t i, int count) {
            const Real* logits = fetch(row_of<T>(x, row) + i, count, buffer);
            Real* k = keys + i;
            row_noise<Law::gumbel>(key, row, i, count, k);
            if (far_winner) measure(logits, k, count, *far_winner);
            const Real top = far_winner ? max_of(k, count) : add_and_max(k, logits, count);
            if (top == kInf) is_bad = true;
            if (!(top > -kInf)) std::fill(k, k + count, Real{0});
            tiles[static_cast<size_t>(i / kTile)] = {top, top > -kInf ? soften(k, count, top, scale) : Real{0}};
        });
    });
    const Real top = static_cast<Real>(top_of_blocks(tiles));
    if (is_bad || !(top > -kInf)) {
        bad.add(row);
        fill_nan(out, n);
        return;
    }
    if (!far_winner && is_far(top)) {
        WinnerOf<Real> winner{top};
        settle<T>(x, key, row, threads, winner);
        soft_row(x, key, row, tau, grad, keys, tiles, out, threads, bad, &winner);
        return;
    }
    double total = 0;
    for (auto& tile : tiles) {
        const double factor = tile.top > -kInf ? std::exp((tile.top - top) * scale) : 0.0;
        total += tile.sum * factor;
        tile.sum = static_cast<Real>(factor);
    }
    for (auto& tile : tiles) tile.sum = static_cast<Real>(tile.sum / total);
    const auto factor_of = [&](int64_t i) { return tiles[static_cast<size_t>(i / kTile)].sum; };
    if (!grad) {
        parallel(parts, threads, [&](int64_t part) {
            alignas(64) Real y[kTile];
            each_tile(n, part, [&](int64_t i, int count) {
                const Real factor = factor_of(i);
                write(count, y, out + i, [&](int j) { return keys[i + j] * factor; });
            });
        });
        return;
    }
    Dots dots(parts);
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile];
        each_tile(n, part, [&](int64_t i, int count) {
            const Real* g = fetch(row_of<T>(*grad, row) + i, count, buffer);
            dots.of(part) += static_cast<double>(factor_of(i)) * dot_of(keys + i, g, count);
        });
    });
    const Real mean = static_cast<Real>(dots.sum()), rate = slope(tau);
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile];
        alignas(64) Real y[kTile];
        each_tile(n, part, [&](int64_t i, int count) {
            const Real* g = fetch(row_of<T>(*grad, row) + i, count, buffer);
            const Real factor = factor_of(i) * rate;
            write(count, y, out + i, [&](int j) { return keys[i + j] * (g[j] - mean) * factor; });
        });
    });
}

// ys becomes ys (gs - <gs, ys>) rate, lane by lane. In this order: a huge gradient over a tiny temperature overflows, and
// an overflow times a sample of 0 would be NaN.
template <class Real>
void lanes_gradient(Real* __restrict ys, const Real* __restrict gs, int n, const Real* __restrict rate) {
    alignas(64) Real mean[kLanes] = {};
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) mean[l] += ys[i * kLanes + l] * gs[i * kLanes + l];
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l)
            ys[i * kLanes + l] = ys[i * kLanes + l] * (gs[i * kLanes + l] - mean[l]) * rate[l];
}

template <class Real>
void lanes_rates(const Real* tau, int64_t tau_stride, int64_t row, int lanes, Real (*rate_of)(Real), Real* rate) {
    for (int l = 0; l < kLanes; ++l) rate[l] = rate_of(tau[(row + (l < lanes ? l : 0)) * tau_stride]);
}

template <class T>
void soft_lanes(const Matrix& x, const Key& key, int64_t row, int lanes, const WorkOf<T>* tau, int64_t tau_stride,
                const Matrix* grad, T* out, BadRow& bad) {
    using Real = WorkOf<T>;
    alignas(64) Real keys[kShort * kLanes], best[kLanes], total[kLanes], rate[kLanes];
    alignas(64) int32_t is_bad[kLanes];
    const int n = static_cast<int>(x.items);
    lanes_keys<T>(x, key, row, lanes, keys, is_bad);
    lanes_rates(tau, tau_stride, row, lanes, inverse<Real>, rate);
    for (int l = 0; l < kLanes; ++l) best[l] = -kInf, total[l] = 0;
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) best[l] = keys[i * kLanes + l] > best[l] ? keys[i * kLanes + l] : best[l];
    for (int i = 0; i < n; ++i) {
        Real* k = keys + i * kLanes;
        for (int l = 0; l < kLanes; ++l) {
            k[l] = exp_nonpositive((k[l] - best[l]) * rate[l]);
            total[l] += k[l];
        }
    }
    for (int l = 0; l < kLanes; ++l) total[l] = 1 / total[l];
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) keys[i * kLanes + l] *= total[l];
    if (grad) {
        alignas(64) Real gs[kShort * kLanes];
        load_lanes<T>(*grad, row, lanes, gs);
        lanes_rates(tau, tau_stride, row, lanes, slope<Real>, rate);
        lanes_gradient(keys, gs, n, rate);
    }
    store_lanes(keys, row, lanes, n, out);
    for (int l = 0; l < lanes; ++l) {
        if (is_bad[l] || best[l] == -kInf) {
            bad.add(row + l);
            fill_nan(out + (row + l) * n, n);
        } else if (is_far(best[l])) {
            std::vector<BlockOf<Real>> tiles;
            soft_row(x, key, row + l, tau[(row + l) * tau_stride], grad, keys, tiles, out + (row + l) * n, 1, bad);
        }
    }
}

// Rows of middling length, several to a tile of noise.
template <class T>
void soft_tiles(const Matrix& x, const Key& key, int64_t first, int64_t last, const WorkOf<T>* tau, int64_t tau_stride,
                const Matrix* grad, T* out, BadRow& bad) {
    using Real = WorkOf<T>;
    const int n = static_cast<int>(x.items);
    each_tile_of_rows<Law::gumbel, Real>(key, first, last, n, [&](int64_t group, int rows, Real* keys) {
        alignas(64) float logits[kTile], gradient[kTile];
        for (int64_t row = group; row < group + rows; ++row, keys += stride_of(n)) {
            const Real top = add_and_max(keys, fetch(row_of<T>(x, row), n, logits), n);
            if (!(top > -kInf && top < kInf)) {
                bad.add(row);
                fill_nan(out + row * n, n);
                continue;
            }
            if (is_far(top)) {
                std::vector<BlockOf<Real>> tiles;
                soft_row(x, key, row, tau[row * tau_stride], grad, keys, tiles, out + row * n, 1, bad);
                continue;
            }
            const Real at = tau[row * tau_stride], share = 1 / soften(keys, n, top, inverse(at));
            if (grad) {
                const Real* g = fetch(row_of<T>(*grad, row), n, gradient);
                const Real mean = dot_of(keys, g, n) * share, rate = share * slope(at);
                write(n, keys, out + row * n, [&](int j) { return keys[j] * (g[j] - mean) * rate; });
            } else {
                write(n, keys, out + row * n, [&](int j) { return keys[j] * share; });
            }
        }
    });
}

template <class T>
void soft_rows(const Matrix& x, const Key& key, const WorkOf<T>* tau, int64_t tau_stride, const Matrix* grad, T* out,
               int threads, BadRow& bad) {
    using Real = WorkOf<T>;
    const int64_t n = x.items;
    const auto one = [&](int64_t row, std::vector<BlockOf<Real>>& tiles, int inner) {
        T* to = out + row * n;
        const auto soften = [&](Real* keys) {
            soft_row(x, key, row, tau[row * tau_stride], grad, keys, tiles, to, inner, bad);
        };
        if constexpr (std::is_same_v<T, Real>) {
            soften(to);
        } else {  // half precision cannot hold the keys: a row of float32 for each thread, which keeps it if it is not large
            constexpr int64_t kKept = 1 << 24;
            static thread_local std::vector<float> kept;
            std::vector<float> once;
            std::vector<float>& scratch = n <= kKept ? kept : once;
            scratch.resize(static_cast<size_t>(n));
            soften(scratch.data());
        }
    };
    std::vector<BlockOf<Real>> row_tiles;
    over_rows(
        x.rows, n, threads, [&](int64_t row) { one(row, row_tiles, threads); },
        [&](int64_t first, int64_t last) {
            if (in_lanes(key, x.rows, n)) {
                for (int64_t row = first; row < last; row += kLanes) {
                    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                    soft_lanes(x, key, row, lanes, tau, tau_stride, grad, out, bad);
                }
                return;
            }
            if (in_tiles(key, n)) {
                soft_tiles(x, key, first, last, tau, tau_stride, grad, out, bad);
                return;
            }
            std::vector<BlockOf<Real>> tiles;
            for (int64_t row = first; row < last; ++row) one(row, tiles, 1);
        });
}

int64_t gumbel_softmax(Matrix x, Key key, int threads, const void* tau, int64_t tau_stride, bool hard, void* out) {
    BadRow bad;
    by_any_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* to = static_cast<T*>(out);
        if (!hard) {
            soft_rows<T>(x, key, static_cast<const WorkOf<T>*>(tau), tau_stride, nullptr, to, threads, bad);
            return;
        }
        // Rows of middling length become 0 one by one, and are in the cache when their 1 is written; others at once.
        const bool one_by_one = x.items > kShort && x.items <= kTile / 2;
        const int64_t stretch = 1 << 20, bytes = one_by_one ? 0 : x.rows * x.items * static_cast<int64_t>(sizeof(T));
        parallel((bytes + stretch - 1) / stretch, threads, [&](int64_t task) {
            std::memset(static_cast<char*>(out) + task * stretch, 0,
                        static_cast<size_t>(std::min(stretch, bytes - task * stretch)));
        });
        race_rows<T>(x, key, threads, [&](int64_t row, const WinnerOf<WorkOf<T>>& winner) {
            if (winner.bad || winner.index < 0) {
                bad.add(row);
                fill_nan(to + row * x.items, x.items);
            } else {
                T* y = to + row * x.items;
                if (one_by_one) std::memset(y, 0, sizeof(T) * static_cast<size_t>(x.items));
                from_float(1.0f, y + winner.index);
            }
        });
    });
    return bad.result();
}

// The gradient with respect to x of a loss, given that with respect to the soft sample, which is made again from its key.
int64_t gumbel_softmax_backward_keyed(Matrix x, Key key, int threads, const void* grad, int64_t grad_stride,
                                      const void* tau, int64_t tau_stride, void* out) {
    const Matrix upstream{grad, x.rows, x.items, grad_stride, x.dtype};
    BadRow bad;
    by_any_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        soft_rows<T>(x, key, static_cast<const WorkOf<T>*>(tau), tau_stride, &upstream, static_cast<T*>(out), threads,
                     bad);
    });
    return bad.result();
}

// out = y (grad - <grad, y>) / tau, for one row.
template <class T>
void backward_row(const Matrix& y, const Matrix& grad, int64_t row, WorkOf<T> rate, T* out, int threads) {
    using Real = WorkOf<T>;
    const int64_t n = y.items, parts = (n + kTask - 1) / kTask;
    const T *ys = row_of<T>(y, row), *gs = row_of<T>(grad, row);
    Dots dots(parts);
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float a[kTile], b[kTile];
        each_tile(n, part, [&](int64_t i, int count) {
            dots.of(part) += dot_of(fetch(ys + i, count, a), fetch(gs + i, count, b), count);
        });
    });
    const Real mean = static_cast<Real>(dots.sum());
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float a[kTile], b[kTile];
        alignas(64) Real c[kTile];
        each_tile(n, part, [&](int64_t i, int count) {
            const Real *yt = fetch(ys + i, count, a), *gt = fetch(gs + i, count, b);
            write(count, c, out + i, [&](int j) { return yt[j] * (gt[j] - mean) * rate; });
        });
    });
}

int64_t gumbel_softmax_backward(Matrix y, Key, int threads, const void* grad_data, int64_t grad_stride,
                                const void* taus, int64_t tau_stride, void* out) {
    const Matrix grad{grad_data, y.rows, y.items, grad_stride, y.dtype};
    by_any_dtype(y.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using Real = WorkOf<T>;
        const Real* tau = static_cast<const Real*>(taus);
        T* to = static_cast<T*>(out);
        const int64_t n = y.items;
        const auto one = [&](int64_t row, int inner) {
            backward_row(y, grad, row, slope(tau[row * tau_stride]), to + row * n, inner);
        };
        const auto some = [&](int64_t first, int64_t last) {
            if (n > kShort || y.rows < kFewRows) {
                for (int64_t row = first; row < last; ++row) one(row, 1);
                return;
            }
            alignas(64) Real ys[kShort * kLanes], gs[kShort * kLanes], rate[kLanes];
            for (int64_t row = first; row < last; row += kLanes) {
                const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                load_lanes<T>(y, row, lanes, ys);
                load_lanes<T>(grad, row, lanes, gs);
                lanes_rates(tau, tau_stride, row, lanes, slope<Real>, rate);
                lanes_gradient(ys, gs, static_cast<int>(n), rate);
                store_lanes(ys, row, lanes, static_cast<int>(n), to);
            }
        };
        over_rows(y.rows, n, threads, [&](int64_t row) { one(row, threads); }, some);
    });
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
