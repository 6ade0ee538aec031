// How work on a matrix is cut into tasks, and how its bad rows are reported.
#pragma once
#include <algorithm>
#include <atomic>
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

// Calls some(first row, end of rows) for stretches of `together` rows, in parallel.
template <class Some>
void row_tasks(int64_t rows, int64_t together, int threads, Some&& some) {
    parallel((rows + together - 1) / together, threads,
             [&](int64_t task) { some(task * together, std::min(rows, (task + 1) * together)); });
}

// Rows so few and so long that all threads had better work on one at a time.
bool few_and_long(int64_t rows, int64_t items, int threads) { return rows < 2 * threads && items >= 2 * kTask; }

// Calls whole(row) for a few long rows, one after another (all threads work on each), else some(first row, end of rows)
// in parallel.
template <class Whole, class Some>
void over_rows(int64_t rows, int64_t items, int threads, Whole&& whole, Some&& some) {
    if (few_and_long(rows, items, threads)) {
        for (int64_t row = 0; row < rows; ++row) whole(row);
    } else {
        row_tasks(rows, Cut(rows, items).rows_per_task, threads, some);
    }
}

// std::sort in pieces: a sort of many millions must listen to who wants to end it.
template <class Iterator>
void sort_in_pieces(Iterator first, Iterator last) {
    constexpr int64_t kPiece = 1 << 20;
    const int64_t n = last - first;
    for (int64_t i = 0; i < n; i += kPiece) {
        if (i) ask_whether_to_end();
        std::sort(first + i, first + std::min(n, i + kPiece));
    }
    for (int64_t width = kPiece; width < n; width *= 2) {
        for (int64_t i = 0; i + width < n; i += 2 * width) {
            ask_whether_to_end();
            std::inplace_merge(first + i, first + i + width, first + std::min(n, i + 2 * width));
        }
    }
}

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

// Logits become those of a row's terms: forbidden beyond its cut, divided by its temperature. NaN stays.
[[gnu::noinline]] void temper(const float* __restrict x, int count, float temperature, float cut, int64_t last,
                              float* __restrict out) {
    const int32_t after = static_cast<int32_t>(std::clamp<int64_t>(last, -1, count));
    for (int32_t j = 0; j < count; ++j) {
        const bool gone = (x[j] < cut) | ((x[j] == cut) & (j > after));
        out[j] = gone ? -kInf : x[j] / temperature;
    }
}

// `count` logits of a row from `begin` on in float32, under the terms of the matrix; in the buffer, or where they are.
// float64 ones stay what they are; they have no terms.
template <class T>
const WorkOf<T>* items_of(const Matrix& x, int64_t row, int64_t begin, int count, float* buffer) {
    const WorkOf<T>* from = fetch(row_of<T>(x, row) + begin, count, buffer);
    if constexpr (std::is_same_v<T, double>) {
        return from;
    } else {
        if (!x.terms.temperature) return from;
        alignas(64) float copy[kTile];
        if (from == buffer) {
            std::copy(from, from + count, copy);
            from = copy;
        }
        temper(from, count, x.terms.temperature_of(row), x.terms.cut ? x.terms.cut[row] : -kInf,
               x.terms.cut ? x.terms.last[row] - begin : count, buffer);
        return buffer;
    }
}

template <class T>
void fill_nan(T* out, int64_t items) {
    for (int64_t i = 0; i < items; ++i) from_float(kNan, out + i);
}

// Calls body(first item, number of items) for the tiles of one stretch of kTask items.
template <class F>
void each_tile(int64_t items, int64_t part, F&& body) {
    const int64_t end = std::min(items, (part + 1) * kTask);
    for (int64_t i = part * kTask; i < end; i += kTile) body(i, static_cast<int>(std::min<int64_t>(kTile, end - i)));
}

// The same of short rows side by side: apart, so that rows without terms pay for one look.
template <class T>
[[gnu::noinline]] void temper_lanes(const Matrix& x, int64_t row, int lanes, WorkOf<T>* logits) {
    alignas(64) float buffer[kTile];
    const int n = static_cast<int>(x.items);
    for (int l = 0; l < lanes; ++l) {
        const WorkOf<T>* items = items_of<T>(x, row + l, 0, n, buffer);
        for (int i = 0; i < n; ++i) logits[i * kLanes + l] = items[i];
    }
}

// Short rows side by side, logits[item][lane]; lanes beyond the last row hold zeros.
template <class T>
void load_lanes(const Matrix& x, int64_t row, int lanes, WorkOf<T>* __restrict logits) {
    const int n = static_cast<int>(x.items);
    if (lanes < kLanes) std::fill_n(logits, n * kLanes, WorkOf<T>{0});
    for (int l = 0; l < lanes; ++l) {
        const T* from = row_of<T>(x, row + l);
        for (int i = 0; i < n; ++i) logits[i * kLanes + l] = to_float(from[i]);
    }
    if (x.terms.temperature) temper_lanes<T>(x, row, lanes, logits);
}

template <class T>
void store_lanes(const WorkOf<T>* __restrict values, int64_t row, int lanes, int items, T* __restrict out) {
    for (int l = 0; l < lanes; ++l)
        for (int i = 0; i < items; ++i) from_float(values[i * kLanes + l], out + (row + l) * items + i);
}

// Rows of float64 side by side, measured from the top of each, in float32; -inf where a row allows nothing or is bad (an item
// is NaN or +inf).
[[gnu::noinline]] void load_lanes_near(const Matrix& x, int64_t row, int lanes, float* __restrict near, double* top,
                                       int32_t* bad) {
    const int n = static_cast<int>(x.items);
    if (lanes < kLanes) std::fill_n(near, n * kLanes, 0.0f);
    for (int l = 0; l < kLanes; ++l) top[l] = -kInf, bad[l] = 0;
    for (int l = 0; l < lanes; ++l) {
        const double* from = row_of<double>(x, row + l);
        double most = -kInf;
        int32_t is_bad = 0;
        for (int i = 0; i < n; ++i) {
            is_bad |= static_cast<int32_t>(!(from[i] < kInf));
            most = larger(most, from[i]);
        }
        bad[l] = is_bad, top[l] = most;
        const bool is_open = most > -kInf && !is_bad;
        for (int i = 0; i < n; ++i) near[i * kLanes + l] = is_open ? static_cast<float>(from[i] - most) : -kInf;
    }
}

// Items of a tile as weights are made of them: e^(item - top). float64 ones are measured from their top beforehand.
struct Measured {
    const float* items;
    float top;
};
inline Measured measured(const float* items, int, double top, float*) { return {items, static_cast<float>(top)}; }
inline Measured measured(const double* items, int count, double top, float* buffer) {
    measure_from(top, items, count, buffer);
    return {buffer, 0.0f};
}

// A tile of a row, weighed: sum of e^(x - top). `top` is -inf where nothing is allowed.
template <class Real>
struct BlockOf {
    double top;  // one of the logits
    Real sum;
};
using Block = BlockOf<float>;
template <class Real>
double top_of_blocks(const std::vector<BlockOf<Real>>& blocks) {
    double top = -kInf;
    for (const auto& block : blocks) top = std::max(top, block.top);
    return top;
}
int64_t blocks_of(int64_t items) { return (items + kTile - 1) / kTile; }
int block_size(int64_t items, int64_t block) {
    return static_cast<int>(std::min<int64_t>(kTile, items - block * kTile));
}

// Rows of middling length: several whole ones in a tile.
bool in_tiles(const Key& key, int64_t items) { return items <= kTile / 2 && !key.items; }

// Calls body(first row, number of rows, noise), row r of it from noise + r * stride_of(items).
template <Law law, class Real = float, class F>
void each_tile_of_rows(const Key& key, int64_t first, int64_t last, int64_t items, F&& body) {
    alignas(64) Real noise[kTile];
    const int64_t together = kTile / stride_of(items);
    for (int64_t row = first; row < last; row += together) {
        const int rows = static_cast<int>(std::min(together, last - row));
        rows_noise<law>(key, row, rows, static_cast<int>(items), noise);
        body(row, rows, noise);
    }
}

// Below so many rows most lanes would be idle; the noise is the same either way.
constexpr int64_t kFewRows = 8;
constexpr int64_t kBestInLanes = 48;  // measured: longer rows are faster in tiles
bool in_lanes(const Key& key, int64_t rows, int64_t items) {
    return items <= kBestInLanes && rows >= kFewRows && !key.items;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
