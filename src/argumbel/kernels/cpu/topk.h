// gumbel_topk: the first k under keyed noise, which is never stored.
#pragma once
#include <algorithm>
#include <vector>

#include "law.h"
#include "race.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

template <class Real>
struct EntryOf {
    Real key;
    Real rest;  // where the key is far from 0, and ties are settled: what rounding took off it
    int64_t index;
    bool operator<(const EntryOf& other) const {  // who comes first: the higher key, of equal ones the earlier item
        if (key != other.key) return key > other.key;
        return rest != other.rest ? rest > other.rest : index < other.index;
    }
};

// The first k of the entries, in no order; returns the last of them.
template <class Real>
EntryOf<Real> cut_to(std::vector<EntryOf<Real>>& entries, int64_t k) {
    std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end());
    entries.resize(static_cast<size_t>(k));
    return entries.back();
}

// Entries are cut when there are so many more than wanted: soon, since a high threshold spares logarithms.
template <class Real>
bool are_full(const std::vector<EntryOf<Real>>& entries, int64_t k) {
    return static_cast<int64_t>(entries.size()) >= 2 * k + 16;
}

// A row in so many stretches of whole tiles: the length of one.
int64_t stretch_of(int64_t items, int64_t parts) { return ((items + parts - 1) / parts + kTile - 1) / kTile * kTile; }

// The best k entries so far: those above the threshold are collected, and cut back to k when there are too many.
template <class Real>
struct BestOf {
    int64_t k;
    Real threshold = -kInf;  // the k-th key when last cut back: who is not above it cannot be among the first k
    bool bad = false;
    std::vector<EntryOf<Real>> entries;

    explicit BestOf(int64_t places) : k(places) { entries.reserve(static_cast<size_t>(2 * k + kTile)); }
    void add(Real key, int64_t index) {
        if (key > threshold) entries.push_back({key, Real{0}, index});
    }
    void cut() {
        if (static_cast<int64_t>(entries.size()) > k) threshold = cut_to(entries, k).key;
    }
    void cut_if_full() {
        if (are_full(entries, k)) cut();
    }
};
using Best = BestOf<float>;

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
    each_where(
        count, [=](int j) { return keys[j] > bar; },
        [&](int j) { best.entries.push_back({keys[j], 0.0f, begin + j}); });
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

// Sums of float32 noise and float64 logits, measured from the largest of these, tell who may come as far as the bar. Beside
// the noise (kMargin) they err by their rounding, far below the largest logit.
ARGUMBEL_INLINE float with_margin(float bar) { return bar - (kMargin + std::abs(bar) * 0x1p-21f); }

// The places of the items that may be among the first k and clear the threshold, `needed` above the largest logit. Noise
// becomes sums.
int places_of_best(const double* logits, double top, int count, int64_t k, double needed, float* sums, int32_t* place) {
    add_near(sums, logits, top, count);
    const float bar = with_margin(std::max(reached_by(sums, count, k), static_cast<float>(needed)));
    int found = 0;
    each_where(count, [=](int j) { return sums[j] >= bar; }, [&](int j) { place[found++] = j; });
    return found;
}

// The same for float64, whose noise takes twice the words and long logarithms: only who may be among the first k gets it.
void race_for_best64(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, BestOf<double>& best) {
    alignas(64) float noise[kTile];
    alignas(64) uint32_t words[kTile];
    alignas(64) double exact[kTile];
    int32_t place[kTile];
    each_sound_tile(x, row, from, to, best.bad, [&](int64_t i, int count, const double* logits, double top) {
        const double needed = best.threshold - top;
        int found = 0;
        if (needed > 1.0) {
            const uint32_t limit = word_limit(needed);
            row_words(key, row, i, count, 0, words);
            each_where(count, [&](int j) { return words[j] < limit; }, [&](int j) { place[found++] = j; });
        } else {
            row_noise<Law::gumbel>(key, row, i, count, noise);
            found = places_of_best(logits, top, count, best.k, needed, noise, place);
        }
        scattered_noise<Law::gumbel>(key, found, [&](int) { return row; }, [&](int p) { return i + place[p]; }, exact);
        for (int p = 0; p < found; ++p) best.add(logits[place[p]] + exact[p], i + place[p]);
        best.cut_if_full();
    });
    best.cut();
}

// float64 logits have no race in float32: there it only tells who comes near.
template <class T>
constexpr bool is_near = std::is_same_v<T, double>;

template <class T>
void race_stretch(const Matrix& x, const Key& key, int64_t row, int64_t from, int64_t to, BestOf<WorkOf<T>>& best) {
    if constexpr (is_near<T>)
        race_for_best64(x, key, row, from, to, best);
    else
        race_for_best<T>(x, key, row, from, to, best);
}

// Rows of float64 in one tile: the items of all that may be among the first k of their row, whose noise is made together.
struct NearInTile {
    alignas(64) double exact[kTile];
    int32_t place[kTile], whose[kTile], begin[kBlocks + 1];
    bool bad[kBlocks];

    // `sums` holds the noise of the rows.
    NearInTile(const Matrix& x, const Key& key, int64_t row, int rows, int64_t k, float* sums) {
        const int n = static_cast<int>(x.items);
        begin[0] = 0;
        for (int r = 0; r < rows; ++r, sums += stride_of(n)) {
            const double* logits = row_of<double>(x, row + r);
            const double top = top_of(logits, n);
            int found = 0;
            bad[r] = !(top < kInf);
            if (!bad[r] && top > -kInf) found = places_of_best(logits, top, n, k, -kInf, sums, place + begin[r]);
            begin[r + 1] = begin[r] + found;
            std::fill(whose + begin[r], whose + begin[r + 1], r);
        }
        scattered_noise<Law::gumbel>(
            key, begin[rows], [&](int p) { return row + whose[p]; }, [&](int p) { return place[p]; }, exact);
    }
    void add(const Matrix& x, int64_t row, int r, BestOf<double>& best) const {
        const double* logits = row_of<double>(x, row + r);
        best.bad = bad[r];
        for (int p = begin[r]; p < begin[r + 1]; ++p) best.add(logits[place[p]] + exact[p], place[p]);
        best.cut();
    }
};

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
        find_among(keys, static_cast<int>(x.items), k);
    }
    // float64 logits are measured from the largest of their row, and their noise is that of float32.
    void find_near(const Matrix& x, const Key& from, int64_t row, int lanes, int k) {
        alignas(64) float near[kShort * kLanes], keys[kShort * kLanes];
        alignas(64) double top[kLanes];
        const int n = static_cast<int>(x.items);
        load_lanes_near(x, row, lanes, near, top, bad);
        lanes_noise<Law::gumbel>(from, row, lanes, n, keys);
        for (int j = 0; j < n * kLanes; ++j) keys[j] += near[j];
        find_among(keys, n, k);
    }
    void find_among(const float* keys, int n, int k) {
        std::fill_n(key, k * kLanes, -kInf);
        std::fill_n(item, k * kLanes, -1);
        for (int i = 0; i < n; ++i)
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

// The first k of short rows side by side; alone(row) where they do not settle it.
template <class T, class Alone>
void first_of_lanes(const Matrix& x, const Key& key, int64_t row, int lanes, int k, T* values, int64_t* indices,
                    Alone&& alone) {
    Places places;
    places.find<T>(x, key, row, lanes, k);
    const int last = (k - 1) * kLanes;
    for (int l = 0; l < lanes; ++l) {
        const int64_t to = (row + l) * k;
        if (places.bad[l] || places.item[last + l] < 0 || is_far(places.key[l]) || is_far(places.key[last + l])) {
            alone(row + l);
            continue;
        }
        for (int p = 0; p < k; ++p) {
            from_float(places.key[p * kLanes + l], values + to + p);
            indices[to + p] = places.item[p * kLanes + l];
        }
    }
}

// The same of float64 logits. Who is among the first k is settled where the next one, if there is one, is not near.
template <class Alone>
void first_of_lanes64(const Matrix& x, const Key& key, int64_t row, int lanes, int k, double* values, int64_t* indices,
                      Alone&& alone) {
    Places places;
    alignas(64) double noise[kInLanes * kLanes];
    places.find_near(x, key, row, lanes, k + 1);
    for (int p = 0; p < k; ++p)
        scattered_noise<Law::gumbel>(
            key, lanes, [&](int l) { return row + l; }, [&](int l) { return std::max(places.item[p * kLanes + l], 0); },
            noise + p * kLanes);
    const int last = (k - 1) * kLanes, next = k * kLanes;
    for (int l = 0; l < lanes; ++l) {
        if (places.bad[l] || places.item[last + l] < 0 || places.key[next + l] >= with_margin(places.key[last + l])) {
            alone(row + l);
            continue;
        }
        EntryOf<double> entries[kInLanes];
        for (int p = 0; p < k; ++p) {
            const int item = places.item[p * kLanes + l];
            const EntryOf<double> entry{row_of<double>(x, row + l)[item] + noise[p * kLanes + l], 0.0, item};
            int at = p;
            for (; at > 0 && entry < entries[at - 1]; --at) entries[at] = entries[at - 1];
            entries[at] = entry;
        }
        if (is_far(entries[0].key) || is_far(entries[k - 1].key)) {
            alone(row + l);
            continue;
        }
        for (int p = 0; p < k; ++p) {
            values[(row + l) * k + p] = entries[p].key;
            indices[(row + l) * k + p] = entries[p].index;
        }
    }
}

// Whether the first or the last of the first k, which are sorted, is far from 0.
template <class Real>
bool any_far(const BestOf<Real>& best) {
    return !best.bad && !best.entries.empty() && (is_far(best.entries.front().key) || is_far(best.entries.back().key));
}

// The first k again, since one of them is far from 0, by what rounding took off their keys too. `best` is sorted.
template <class T>
void settle(const Matrix& x, const Key& key, int64_t row, int threads, BestOf<WorkOf<T>>& best) {
    using Real = WorkOf<T>;
    using Entry = EntryOf<Real>;
    const int64_t k = static_cast<int64_t>(best.entries.size());
    const Entry floor{best.entries.back().key, -kInf, 0};  // comes after all whose key is as high
    const int64_t parts = x.items >= 2 * kTask ? threads : 1, stretch = stretch_of(x.items, parts);
    std::vector<std::vector<Entry>> found(static_cast<size_t>(parts));
    parallel(parts, threads, [&](int64_t part) {
        alignas(64) float buffer[kTile];
        alignas(64) Real noise[kTile];
        std::vector<Entry>& entries = found[static_cast<size_t>(part)];
        Entry last = floor;
        const int64_t to = std::min(x.items, (part + 1) * stretch);
        for (int64_t i = part * stretch; i < to; i += kTile) {
            const int count = static_cast<int>(std::min<int64_t>(kTile, to - i));
            const Real* logits = fetch(row_of<T>(x, row) + i, count, buffer);
            row_noise<Law::gumbel>(key, row, i, count, noise);
            for (int j = 0; j < count; ++j) {
                const Real sum = logits[j] + noise[j];
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
WorkOf<T> guess_threshold(const Matrix& x, int64_t row, int64_t k, int threads) {
    if (k < 2 * kTile || x.items < 16 * k) return -kInf;
    Workspace w;
    double log_z;
    if (!weigh_row<T>(x, row, threads, w.blocks, w.rows, &log_z)) return -kInf;
    const double wanted = static_cast<double>(k);
    return static_cast<WorkOf<T>>(log_z - std::log(1.1 * wanted + 10 * std::sqrt(wanted)));
}

// values[row][place], indices[row][place]; places beyond the allowed items hold NaN and -1, as do all of a bad row.
int64_t gumbel_topk(Matrix x, Key key, int threads, int64_t k, void* values, int64_t* indices) {
    BadRow bad;
    by_any_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using Real = WorkOf<T>;
        T* const to = static_cast<T*>(values);
        const auto done = [&](int64_t row, BestOf<Real>& best, int inner) {
            sort_in_pieces(best.entries.begin(), best.entries.end());
            if (any_far(best)) settle<T>(x, key, row, inner, best);
            const int64_t places = best.bad ? 0 : static_cast<int64_t>(best.entries.size());
            if (best.bad || places < k) bad.add(row);
            for (int64_t p = 0; p < k; ++p) {
                const bool taken = p < places;
                from_float(taken ? best.entries[static_cast<size_t>(p)].key : static_cast<Real>(kNan),
                           to + row * k + p);
                indices[row * k + p] = taken ? best.entries[static_cast<size_t>(p)].index : -1;
            }
        };
        if (x.rows < threads && x.items >= 2 * kTask) {
            const int64_t stretch = stretch_of(x.items, threads);
            const auto run = [&](int64_t row, Real threshold) {
                BestOf<Real> all(k);
                std::vector<BestOf<Real>> parts(static_cast<size_t>(threads), all);
                parallel(threads, threads, [&](int64_t part) {
                    BestOf<Real>& mine = parts[static_cast<size_t>(part)];
                    mine.threshold = threshold;
                    const int64_t from = std::min(x.items, part * stretch);
                    race_stretch<T>(x, key, row, from, std::min(x.items, from + stretch), mine);
                });
                for (const BestOf<Real>& part : parts) {
                    all.bad |= part.bad;
                    all.entries.insert(all.entries.end(), part.entries.begin(), part.entries.end());
                }
                all.cut();
                return all;
            };
            for (int64_t row = 0; row < x.rows; ++row) {
                const Real threshold = guess_threshold<T>(x, row, k, threads);
                BestOf<Real> best = run(row, threshold);
                if (static_cast<int64_t>(best.entries.size()) < k && threshold > -kInf) best = run(row, -kInf);
                done(row, best, threads);
            }
            return;
        }
        row_tasks(x.rows, Cut(x.rows, x.items).rows_per_task, threads, [&](int64_t first, int64_t last) {
            BestOf<Real> best(k);
            const auto one = [&](int64_t row, auto&& race) {
                best.entries.clear();
                best.threshold = -kInf, best.bad = false;
                race();
                done(row, best, 1);
            };
            const auto alone = [&](int64_t row) { one(row, [&] { race_stretch<T>(x, key, row, 0, x.items, best); }); };
            if (in_lanes(key, x.rows, x.items) && k + is_near<T> <= kInLanes) {
                for (int64_t row = first; row < last; row += kLanes) {
                    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
                    if constexpr (is_near<T>)
                        first_of_lanes64(x, key, row, lanes, static_cast<int>(k), to, indices, alone);
                    else
                        first_of_lanes<T>(x, key, row, lanes, static_cast<int>(k), to, indices, alone);
                }
                return;
            }
            if (in_tiles(key, x.items)) {
                const int n = static_cast<int>(x.items);
                each_tile_of_rows<Law::gumbel>(key, first, last, n, [&](int64_t row, int rows, float* keys) {
                    if constexpr (is_near<T>) {
                        const NearInTile near(x, key, row, rows, k, keys);
                        for (int r = 0; r < rows; ++r) one(row + r, [&] { near.add(x, row, r, best); });
                    } else {
                        alignas(64) float buffer[kTile];
                        for (int r = 0; r < rows; ++r, keys += stride_of(n)) {
                            one(row + r, [&] {
                                best.bad = add_and_max(keys, fetch(row_of<T>(x, row + r), n, buffer), n) == kInf;
                                add_all(keys, n, 0, best);
                                best.cut();
                            });
                        }
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
