// posterior_gumbel: the perturbed values of a race whose winner is known. One pass for log Z, one for the noise.
#pragma once
#include <cmath>
#include <vector>

#include "law.h"
#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// -log(e exp(-x) + exp(-top)): a Gumbel at x, of exponential noise e, truncated at top; `below` where rounding led up to top.
// In two steps: the exponential number of which it is the Gumbel at x, or at top where that is lower, and the rest.
template <class Real>
ARGUMBEL_INLINE Real time_of(Real x, Real e, Real top) {
    const Real d = x - top;
    const bool lower = d <= 0;  // the exponential is of -|d| either way, so that nothing overflows
    const Real weight = exp_nonpositive(lower ? d : -d);
    return lower ? e + weight : 1 + e * weight;
}
template <class Real>
ARGUMBEL_INLINE Real value_of(Real x, Real time, Real top, Real below) {
    const Real v = (x - top <= 0 ? x : top) + gumbel_of_exponential(time);
    return v < top ? v : below;
}
template <class Real>
ARGUMBEL_INLINE Real truncated(Real x, Real e, Real top, Real below) {
    return value_of(x, time_of(x, e, top), top, below);
}

template <class Real>
Real just_below(Real top) {
    return std::nextafter(top, static_cast<Real>(-kInf));
}

template <class Real>
[[gnu::noinline]] void truncate(const Real* __restrict x, const Real* __restrict e, int count, Real top,
                                Real* __restrict out) {
    const Real below = just_below(top);
    if constexpr (sizeof(Real) == 8) {  // long steps, of which the second waits for the first: a loop for each
        for (int i = 0; i < count; ++i) out[i] = time_of(x[i], e[i], top);
        for (int i = 0; i < count; ++i) out[i] = value_of(x[i], out[i], top, below);
    } else {
        for (int i = 0; i < count; ++i) out[i] = truncated(x[i], e[i], top, below);
    }
}

// log Z of a row, a sum of two numbers: far from 0 their sum, rounded, would move what is added to it.
struct LogZ {
    double top, rest;
    float plus(float g) const {
        const double log_z = top + rest;
        return is_far(static_cast<float>(log_z)) ? static_cast<float>(log_z + g) : static_cast<float>(log_z) + g;
    }
    double plus(double g) const { return top + (rest + g); }
};
constexpr LogZ kNoLogZ{kNan, 0};

// log Z of one row in tiles, or kNoLogZ.
template <class T>
LogZ log_z_of(const Matrix& x, int64_t row, int threads, Workspace& w) {
    double log_z;
    return weigh_row<T>(x, row, threads, w.blocks, w.rows, &log_z) ? LogZ{log_z, 0} : kNoLogZ;
}
template <>
LogZ log_z_of<double>(const Matrix& x, int64_t row, int threads, Workspace&) {
    std::vector<BlockOf<double>> tiles(static_cast<size_t>(blocks_of(x.items)));
    parallel((x.items + kTask - 1) / kTask, threads, [&](int64_t part) {
        each_tile(x.items, part, [&](int64_t i, int count) {
            const double* logits = row_of<double>(x, row) + i;
            const double top = top_of(logits, count);
            tiles[static_cast<size_t>(i / kTile)] = {top, std::abs(top) < kInf ? exp_sum(logits, count, top) : 0.0};
        });
    });
    const double top = top_of_blocks(tiles);
    if (!(std::abs(top) < kInf)) return kNoLogZ;
    double total = 0;
    for (const auto& tile : tiles) total += tile.sum * std::exp(tile.top - top);
    return {top, std::log(total)};
}

// log Z of so many logits, which fill a tile at most, or kNoLogZ.
LogZ log_z_of(const float* logits, int count) {
    bool is_bad = false;
    const Block weight = weigh(logits, count, is_bad);
    return is_bad ? kNoLogZ : LogZ{weight.top, std::log(weight.sum)};
}
LogZ log_z_of(const double* logits, int count) {
    const double top = top_of(logits, count);
    return std::abs(top) < kInf ? LogZ{top, std::log(exp_sum(logits, count, top))} : kNoLogZ;
}

// The height of the winner of a row, with its noise g() if it is to be drawn; NaN if the row is bad, or cannot have been
// won by it.
template <class T, class Noise>
WorkOf<T> height_of(const Matrix& x, int64_t row, int64_t index, const WorkOf<T>* value, const LogZ& log_z, Noise&& g) {
    if (!(std::abs(log_z.top + log_z.rest) < kInf) || index < 0 || index >= x.items) return kNan;
    if (!(to_float(row_of<T>(x, row)[index]) > -kInf)) return kNan;
    if (value) return std::abs(value[row]) < kInf ? value[row] : static_cast<WorkOf<T>>(kNan);
    return log_z.plus(g());
}

// Short rows side by side: what a row costs but once, a logarithm among it, is then vectors' work too.
template <class T>
void posterior_lanes(const Matrix& x, const Key& key, int64_t row, int lanes, const int64_t* index,
                     const WorkOf<T>* value, WorkOf<T>* out, BadRow& bad) {
    using Real = WorkOf<T>;
    alignas(64) Real logits[kShort * kLanes], e[kShort * kLanes], best[kLanes], total[kLanes] = {}, top[kLanes],
                                                                                below[kLanes];
    alignas(64) double log_sum[kLanes];
    alignas(64) int32_t is_bad[kLanes] = {};
    const int n = static_cast<int>(x.items);
    load_lanes<T>(x, row, lanes, logits);
    lanes_noise<Law::exponential>(key, row, lanes, n, e);
    for (int l = 0; l < kLanes; ++l) best[l] = -kInf;
    for (int i = 0; i < n; ++i) {
        for (int l = 0; l < kLanes; ++l) {
            const Real v = logits[i * kLanes + l];
            is_bad[l] |= static_cast<int32_t>(!(v < kInf));
            best[l] = v > best[l] ? v : best[l];
        }
    }
    for (int l = 0; l < kLanes; ++l) is_bad[l] |= static_cast<int32_t>(!(best[l] > -kInf));
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l) total[l] += exp_nonpositive(logits[i * kLanes + l] - best[l]);
    for (int l = 0; l < kLanes; ++l) log_sum[l] = log64(is_bad[l] ? 1.0 : static_cast<double>(total[l]));
    for (int l = 0; l < kLanes; ++l) top[l] = below[l] = 0;
    for (int l = 0; l < lanes; ++l) {
        const int64_t won = index[row + l];
        top[l] = height_of<T>(x, row + l, won, value, is_bad[l] ? kNoLogZ : LogZ{best[l], log_sum[l]},
                              [&] { return gumbel_of_exponential(e[won * kLanes + l]); });
        below[l] = just_below(top[l]);
    }
    for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l)
            e[i * kLanes + l] = truncated(logits[i * kLanes + l], e[i * kLanes + l], top[l], below[l]);
    for (int l = 0; l < lanes; ++l)
        if (top[l] == top[l]) e[index[row + l] * kLanes + l] = top[l];
    store_lanes(e, row, lanes, n, out);
    for (int l = 0; l < lanes; ++l) {
        if (top[l] == top[l]) continue;
        bad.add(row + l);
        fill_nan(out + (row + l) * n, n);
    }
}

template <class T>
void posterior_rows(const Matrix& x, const Key& key, const int64_t* index, const WorkOf<T>* value, WorkOf<T>* out,
                    int threads, BadRow& bad) {
    using Real = WorkOf<T>;
    const int64_t n = x.items, parts = (n + kTask - 1) / kTask;
    const auto fail = [&](int64_t row) {
        bad.add(row);
        fill_nan(out + row * n, n);
    };
    const auto one = [&](int64_t row, int inner, Workspace& w) {
        const Real top = height_of<T>(x, row, index[row], value, log_z_of<T>(x, row, inner, w),
                                      [&] { return noise_at<Law::gumbel, Real>(key, row, index[row]); });
        if (!(top == top)) return fail(row);
        parallel(parts, inner, [&](int64_t part) {
            alignas(64) float logits[kTile];
            alignas(64) Real e[kTile];
            each_tile(n, part, [&](int64_t i, int count) {
                row_noise<Law::exponential>(key, row, i, count, e);
                truncate(fetch(row_of<T>(x, row) + i, count, logits), e, count, top, out + row * n + i);
            });
        });
        out[row * n + index[row]] = top;
    };
    Workspace row_space;
    const auto some = [&](int64_t first, int64_t last) {
        if (in_lanes(key, x.rows, n)) {
            for (int64_t row = first; row < last; row += kLanes)
                posterior_lanes<T>(x, key, row, static_cast<int>(std::min<int64_t>(kLanes, last - row)), index, value,
                                   out, bad);
            return;
        }
        if (!in_tiles(key, n)) {
            Workspace w;
            for (int64_t row = first; row < last; ++row) one(row, 1, w);
            return;
        }
        const int count = static_cast<int>(n);
        each_tile_of_rows<Law::exponential, Real>(key, first, last, n, [&](int64_t group, int rows, const Real* e) {
            alignas(64) float buffer[kTile];
            for (int64_t row = group; row < group + rows; ++row, e += stride_of(n)) {
                const Real* logits = fetch(row_of<T>(x, row), count, buffer);
                const Real top = height_of<T>(x, row, index[row], value, log_z_of(logits, count),
                                              [&] { return gumbel_of_exponential(e[index[row]]); });
                if (!(top == top)) {
                    fail(row);
                    continue;
                }
                truncate(logits, e, count, top, out + row * n);
                out[row * n + index[row]] = top;
            }
        });
    };
    over_rows(x.rows, n, threads, [&](int64_t row) { one(row, threads, row_space); }, some);
}

// index[row] won row; value[row] is its height, or value is null and the height drawn. Value and out are float32, or float64 if x
// is.
int64_t posterior_gumbel(Matrix x, Key key, int threads, const int64_t* index, const void* value, void* out) {
    BadRow bad;
    by_any_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using Real = WorkOf<T>;
        posterior_rows<T>(x, key, index, static_cast<const Real*>(value), static_cast<Real*>(out), threads, bad);
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
