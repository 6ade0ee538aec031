// gumbel_topk: the first k under keyed noise, which is never stored.
#pragma once
#include <algorithm>
#include <vector>

#include "law.h"
#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

struct Runner {
    float key;
    int64_t index;
    bool operator<(const Runner& other) const {  // who comes first: the higher key, of equal ones the earlier item
        return key > other.key || (key == other.key && index < other.index);
    }
};

// The best k so far of a growing field: runners above the bar are collected, and cut back to k when there are too many.
struct Podium {
    int64_t k;
    float bar = -kInf;  // the k-th key when last cut back: who is not above it cannot be among the first k
    bool bad = false;
    std::vector<Runner> runners;

    explicit Podium(int64_t places) : k(places) { runners.reserve(static_cast<size_t>(2 * k + kTile)); }
    void add(float key, int64_t index) {
        if (key > bar) runners.push_back({key, index});
    }
    void cut() {
        if (static_cast<int64_t>(runners.size()) <= k) return;
        std::nth_element(runners.begin(), runners.begin() + (k - 1), runners.end());
        runners.resize(static_cast<size_t>(k));
        bar = runners.back().key;
    }
    void cut_if_full() {
        if (static_cast<int64_t>(runners.size()) >= 2 * k + kTile / 2) cut();
    }
};

template <class T>
void race_for_podium(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, Podium& podium) {
    alignas(64) float buffer[kTile], noise[kTile];
    alignas(64) uint32_t words[kTile];
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        const float* logits = fetch(row_of<T>(x, row) + i, count, buffer);
        podium.bad |= any_bad(logits, count);
        const double needed = static_cast<double>(podium.bar) - max_of(logits, count);
        if (needed > 1.0) {
            candidates(key, row, i, count, word_limit(needed), words,
                       [&](int j, float g) { podium.add(logits[j] + g, i + j); });
        } else {
            row_noise<Law::gumbel>(key, row, i, count, noise);
            for (int j = 0; j < count; ++j) podium.add(logits[j] + noise[j], i + j);
        }
        podium.cut_if_full();
    }
    podium.cut();
}

// A bar that about k runners clear, for k large enough to be worth a pass over the logits: at height h there arrive
// Z e^-h of them, counted with repeats. A guess too high leaves fewer than k, and the race is run again without it.
template <class T>
float guess_bar(const Matrix& x, int64_t row, int64_t k, int threads) {
    if (k < 2 * kTile || x.items < 16 * k) return -kInf;
    Workspace w;
    double log_z;
    if (!weigh_row<T>(x, row, threads, w.blocks, w.rows, &log_z)) return -kInf;
    const double wanted = static_cast<double>(k);
    return static_cast<float>(log_z - std::log(1.1 * wanted + 10 * std::sqrt(wanted)));
}

// values[row][place], indices[row][place]; places beyond the allowed items hold NaN and -1, as do all of a bad row.
int64_t gumbel_topk(Matrix x, Key key, int64_t k, void* values, int64_t* indices, int threads) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto done = [&](int64_t row, Podium& podium) {
            std::sort(podium.runners.begin(), podium.runners.end());
            const int64_t places = podium.bad ? 0 : static_cast<int64_t>(podium.runners.size());
            if (places < k) bad.add(row);
            for (int64_t p = 0; p < k; ++p) {
                const bool taken = p < places;
                from_float(taken ? podium.runners[static_cast<size_t>(p)].key : kNan, static_cast<T*>(values) + row * k + p);
                indices[row * k + p] = taken ? podium.runners[static_cast<size_t>(p)].index : -1;
            }
        };
        if (x.rows < threads && x.items >= 2 * kTask) {
            const int64_t stretch = ((x.items + threads - 1) / threads + kTile - 1) / kTile * kTile;
            const auto run = [&](int64_t row, float bar) {
                Podium all(k);
                std::vector<Podium> parts(static_cast<size_t>(threads), all);
                parallel(threads, threads, [&](int64_t part) {
                    Podium& mine = parts[static_cast<size_t>(part)];
                    mine.bar = bar;
                    const int64_t from = std::min(x.items, part * stretch);
                    race_for_podium<T>(x, key, row, from, std::min(x.items, from + stretch), mine);
                });
                for (const Podium& part : parts) {
                    all.bad |= part.bad;
                    all.runners.insert(all.runners.end(), part.runners.begin(), part.runners.end());
                }
                all.cut();
                return all;
            };
            for (int64_t row = 0; row < x.rows; ++row) {
                const float bar = guess_bar<T>(x, row, k, threads);
                Podium podium = run(row, bar);
                if (static_cast<int64_t>(podium.runners.size()) < k && bar > -kInf) podium = run(row, -kInf);
                done(row, podium);
            }
            return;
        }
        const Cut cut(x.rows, x.items);
        parallel((x.rows + cut.rows_per_task - 1) / cut.rows_per_task, threads, [&](int64_t task) {
            const int64_t first = task * cut.rows_per_task, last = std::min(x.rows, first + cut.rows_per_task);
            Podium podium(k);
            for (int64_t row = first; row < last; ++row) {
                podium.runners.clear();
                podium.bar = -kInf, podium.bad = false;
                race_for_podium<T>(x, key, row, 0, x.items, podium);
                done(row, podium);
            }
        });
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
