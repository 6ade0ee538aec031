// gumbel_topk: the first k under keyed noise, which is never stored.
#pragma once
#include <algorithm>
#include <vector>

#include "law.h"
#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

struct Entry {
    float key;
    float rest;  // where the key is far from 0, and ties are settled: what rounding took off it
    int64_t index;
    bool operator<(const Entry& other) const {  // who comes first: the higher key, of equal ones the earlier item
        if (key != other.key) return key > other.key;
        return rest != other.rest ? rest > other.rest : index < other.index;
    }
};

// The first k of the entries, in no order; returns the last of them.
Entry cut_to(std::vector<Entry>& entries, int64_t k) {
    std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end());
    entries.resize(static_cast<size_t>(k));
    return entries.back();
}

// Entries are cut when there are so many more than wanted: soon, since a high threshold spares logarithms.
bool are_full(const std::vector<Entry>& entries, int64_t k) {
    return static_cast<int64_t>(entries.size()) >= 2 * k + 16;
}

// A row in so many stretches of whole tiles: the length of one.
int64_t stretch_of(int64_t items, int64_t parts) { return ((items + parts - 1) / parts + kTile - 1) / kTile * kTile; }

// The best k entries so far: those above the threshold are collected, and cut back to k when there are too many.
struct Best {
    int64_t k;
    float threshold = -kInf;  // the k-th key when last cut back: who is not above it cannot be among the first k
    bool bad = false;
    std::vector<Entry> entries;

    explicit Best(int64_t places) : k(places) { entries.reserve(static_cast<size_t>(2 * k + kTile)); }
    void add(float key, int64_t index) {
        if (key > threshold) entries.push_back({key, 0.0f, index});
    }
    void cut() {
        if (static_cast<int64_t>(entries.size()) > k) threshold = cut_to(entries, k).key;
    }
    void cut_if_full() {
        if (are_full(entries, k)) cut();
    }
};

// The k-th largest of `width` numbers, k <= width, by the count of those above each: no branch, and no order is made.
template <int width>
float kth_of(const float* __restrict x, int k) {
    alignas(64) int32_t above[width] = {};
    for (int i = 0; i < width; ++i)
        for (int l = 0; l < width; ++l) above[l] += static_cast<int32_t>(x[i] > x[l]);
    float found = kInf;
    for (int l = 0; l < width; ++l) found = above[l] < k && x[l] < found ? x[l] : found;
    return found;
}

// A key that at least k of `count` keys reach: the k-th largest of the maxima of their columns. -inf where columns are too few.
float reached_by(const float* keys, int count, int64_t k) {
    if (k > kWide) return -kInf;
    alignas(64) float column[kWide];
    column_maxima(keys, count, column);
    if (2 * k > kWidth) return kth_of<kWide>(column, static_cast<int>(k));
    for (int l = 0; l < kWidth; ++l)
        column[l] =
            larger(larger(column[l], column[l + kWidth]), larger(column[l + 2 * kWidth], column[l + 3 * kWidth]));
    return kth_of<kWidth>(column, static_cast<int>(k));
}

// Keys that may be among the first k, of a stretch of a row from its place `begin` on.
void add_all(const float* keys, int count, int64_t begin, Best& best) {
    const float bar = std::max(best.threshold, std::nextafterf(reached_by(keys, count, best.k), -kInf));
    for (int i = 0; i < count; i += kWidth) {
        const int end = std::min(count, i + kWidth);
        uint32_t any = 0;
        for (int j = i; j < end; ++j) any |= static_cast<uint32_t>(keys[j] > bar);
        for (int j = i; any && j < end; ++j)
            if (keys[j] > bar) best.entries.push_back({keys[j], 0.0f, begin + j});
    }
}

template <class T>
void race_for_best(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, Best& best) {
    alignas(64) float buffer[kTile], keys[kTile];
    alignas(64) uint32_t words[kTile];
    for (int64_t i = from; i < to; i += kTile) {
        const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
        const float* logits = fetch(row_of<T>(x, row) + i, count, buffer);
        best.bad |= any_bad(logits, count);
        const double needed = static_cast<double>(best.threshold) - max_of(logits, count);
        if (needed > 1.0) {
            candidates(key, row, i, count, word_limit(needed), words,
                       [&](int j, float g) { best.add(logits[j] + g, i + j); });
        } else {
            row_noise<Law::gumbel>(key, row, i, count, keys);
            for (int j = 0; j < count; ++j) keys[j] += logits[j];
            add_all(keys, count, i, best);
        }
        best.cut_if_full();
    }
    best.cut();
}

// Short rows side by side: the first k of each lane, places[place][lane], by insertion of one item after another.
constexpr int kInLanes = 16;  // more places than these are found sooner a row at a time
struct Places {
    alignas(64) float key[kInLanes * kLanes];
    alignas(64) int32_t item[kInLanes * kLanes];  // -1: none
    alignas(64) int32_t bad[kLanes];

    template <class T>
    void find(const Matrix& x, const Key& from, int64_t row, int lanes, int k) {
        alignas(64) float keys[kShort * kLanes];
        lanes_keys<T>(x, from, row, lanes, keys, bad);
        std::fill_n(key, k * kLanes, -kInf);
        std::fill_n(item, k * kLanes, -1);
        for (int i = 0; i < static_cast<int>(x.items); ++i)
            for (int place = std::min(i, k - 1); place >= 0; --place) insert(keys + i * kLanes, i, place);
    }
    // The place takes what stood before it where the newcomer comes still earlier, and the newcomer where that comes here.
    // An equal key comes later, as its item does.
    void insert(const float* __restrict keys, int32_t newcomer, int place) {
        float* __restrict at = key + place * kLanes;
        int32_t* __restrict whose = item + place * kLanes;
        if (place == 0) {
            for (int l = 0; l < kLanes; ++l) whose[l] = keys[l] > at[l] ? newcomer : whose[l];
            for (int l = 0; l < kLanes; ++l) at[l] = larger(at[l], keys[l]);
            return;
        }
        const float* __restrict before = at - kLanes;
        const int32_t* __restrict owner = whose - kLanes;
        alignas(64) int32_t comes[kLanes];
        alignas(64) float with[kLanes];
        for (int l = 0; l < kLanes; ++l) comes[l] = keys[l] > before[l] ? owner[l] : newcomer;
        for (int l = 0; l < kLanes; ++l) with[l] = keys[l] > before[l] ? before[l] : keys[l];
        for (int l = 0; l < kLanes; ++l) whose[l] = keys[l] > at[l] ? comes[l] : whose[l];
        for (int l = 0; l < kLanes; ++l) at[l] = larger(at[l], with[l]);
    }
};

// Whether the first or the last of the first k, which are sorted, is far from 0.
bool any_far(const Best& best) {
    return !best.bad && !best.entries.empty() && (is_far(best.entries.front().key) || is_far(best.entries.back().key));
}

// The first k again, since one of them is far from 0, by what rounding took off their keys too. `best` is sorted.
template <class T>
void settle(const Matrix& x, const Key& key, int64_t row, int threads, Best& best) {
    const int64_t k = static_cast<int64_t>(best.entries.size());
    const Entry floor{best.entries.back().key, -kInf, 0};  // comes after all whose key is as high
    const int64_t parts = x.items >= 2 * kTask ? threads : 1, stretch = stretch_of(x.items, parts);
    std::vector<std::vector<Entry>> found(static_cast<size_t>(parts));
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile], noise[kTile];
        std::vector<Entry>& entries = found[static_cast<size_t>(part)];
        Entry last = floor;
        const int64_t to = std::min(x.items, (part + 1) * stretch);
        for (int64_t i = part * stretch; i < to; i += kTile) {
            const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
            const float* logits = fetch(row_of<T>(x, row) + i, count, buffer);
            row_noise<Law::gumbel>(key, row, i, count, noise);
            for (int j = 0; j < count; ++j) {
                const float sum = logits[j] + noise[j];
                const Entry entry{sum, rest_of(logits[j], noise[j], sum), i + j};
                if (entry < last) entries.push_back(entry);
            }
            if (are_full(entries, k)) last = cut_to(entries, k);
        }
    });
    best.entries.clear();
    for (const auto& entries : found) best.entries.insert(best.entries.end(), entries.begin(), entries.end());
    cut_to(best.entries, k);
    sort_in_pieces(best.entries.begin(), best.entries.end());
}

// A threshold that about k entries clear, for k large enough to be worth a pass over the logits: at height h there arrive
// Z e^-h of them, counted with repeats. A guess too high leaves fewer than k, and the race is run again without it.
template <class T>
float guess_threshold(const Matrix& x, int64_t row, int64_t k, int threads) {
    if (k < 2 * kTile || x.items < 16 * k) return -kInf;
    Workspace w;
    double log_z;
    if (!weigh_row<T>(x, row, threads, w.blocks, w.rows, &log_z)) return -kInf;
    const double wanted = static_cast<double>(k);
    return static_cast<float>(log_z - std::log(1.1 * wanted + 10 * std::sqrt(wanted)));
}

// values[row][place], indices[row][place]; places beyond the allowed items hold NaN and -1, as do all of a bad row.
int64_t gumbel_topk(Matrix x, Key key, int threads, int64_t k, void* values, int64_t* indices) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto done = [&](int64_t row, Best& best, int inner) {
            sort_in_pieces(best.entries.begin(), best.entries.end());
            if (any_far(best)) settle<T>(x, key, row, inner, best);
            const int64_t places = best.bad ? 0 : static_cast<int64_t>(best.entries.size());
            if (best.bad || places < k) bad.add(row);
            for (int64_t p = 0; p < k; ++p) {
                const bool taken = p < places;
                from_float(taken ? best.entries[static_cast<size_t>(p)].key : kNan,
                           static_cast<T*>(values) + row * k + p);
                indices[row * k + p] = taken ? best.entries[static_cast<size_t>(p)].index : -1;
            }
        };
        if (x.rows < threads && x.items >= 2 * kTask) {
            const int64_t stretch = stretch_of(x.items, threads);
            const auto run = [&](int64_t row, float threshold) {
                Best all(k);
                std::vector<Best> parts(static_cast<size_t>(threads), all);
                parallel(threads, threads, [&](int64_t part) {
                    Best& mine = parts[static_cast<size_t>(part)];
                    mine.threshold = threshold;
                    const int64_t from = std::min(x.items, part * stretch);
                    race_for_best<T>(x, key, row, from, std::min(x.items, from + stretch), mine);
                });
                for (const Best& part : parts) {
                    all.bad |= part.bad;
                    all.entries.insert(all.entries.end(), part.entries.begin(), part.entries.end());
                }
                all.cut();
                return all;
            };
            for (int64_t row = 0; row < x.rows; ++row) {
                const float threshold = guess_threshold<T>(x, row, k, threads);
                Best best = run(row, threshold);
                if (static_cast<int64_t>(best.entries.size()) < k && threshold > -kInf) best = run(row, -kInf);
                done(row, best, threads);
            }
            return;
        }
        row_tasks(x.rows, Cut(x.rows, x.items).rows_per_task, threads, [&](int64_t first, int64_t last) {
            Best best(k);
            const auto one = [&](int64_t row, auto&& race) {
                best.entries.clear();
                best.threshold = -kInf, best.bad = false;
                race();
                done(row, best, 1);
            };
            const auto alone = [&](int64_t row) { one(row, [&] { race_for_best<T>(x, key, row, 0, x.items, best); }); };
            if (in_lanes(key, x.rows, x.items) && k <= kInLanes) {
                Places places;
                const int last_place = static_cast<int>(k - 1) * kLanes;
                for (int64_t row = first; row < last; row += kLanes) {
                    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                    places.find<T>(x, key, row, lanes, static_cast<int>(k));
                    for (int l = 0; l < lanes; ++l) {
                        const int64_t to = (row + l) * k;
                        if (places.bad[l] || places.item[last_place + l] < 0 || is_far(places.key[l]) ||
                            is_far(places.key[last_place + l])) {
                            alone(row + l);
                            continue;
                        }
                        for (int p = 0; p < static_cast<int>(k); ++p) {
                            from_float(places.key[p * kLanes + l], static_cast<T*>(values) + to + p);
                            indices[to + p] = places.item[p * kLanes + l];
                        }
                    }
                }
                return;
            }
            if (in_tiles(key, x.items)) {
                const int n = static_cast<int>(x.items);
                each_tile_of_rows<Law::gumbel>(key, first, last, n, [&](int64_t row, int rows, float* keys) {
                    alignas(64) float buffer[kTile];
                    for (int r = 0; r < rows; ++r, keys += stride_of(n)) {
                        one(row + r, [&] {
                            best.bad = add_and_max(keys, fetch(row_of<T>(x, row + r), n, buffer), n) == kInf;
                            add_all(keys, n, 0, best);
                            best.cut();
                        });
                    }
                });
                return;
            }
            for (int64_t row = first; row < last; ++row) alone(row);
        });
    });
    return bad.result();
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
