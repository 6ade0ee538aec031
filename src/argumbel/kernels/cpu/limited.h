// Draws under a temperature and limits: categorical of what top_k, top_p and min_p leave, and gumbel_max of the same.
//
// Whether one item is left is a question of one pass over the row, which weighs (or counts) what lies above it. Where the row
// is cut is a question of several. So a draw is proposed first, from the envelope of the whole row, and asked for after.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "envelope.h"
#include "race.h"
#include "truncation.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

[[gnu::noinline]] int count_above(const float* __restrict x, int count, float pivot) {
    int found = 0;
    for (int i = 0; i < count; ++i) found += static_cast<int>(x[i] > pivot);
    return found;
}

// Which items of a row are left. The first few are looked at one by one; after these the row is cut.
template <class T>
class Left {
public:
    void begin(const Matrix& matrix, int64_t its_row, float its_top, const RowLimits& its_limits, bool one_by_one) {
        x = &matrix, row = its_row, top = its_top, limits = its_limits;
        by_count = limits.top_k < x->items, by_mass = limits.top_p < 1;
        passes = one_by_one && !(by_count && by_mass) ? kPasses : 0;
        lowest = limits.lowest(top), left = kInf, gone = -kInf;
        is_cut = false;
    }

    bool operator()(int64_t place) {
        const float value = to_float(row_of<T>(*x, row)[place]);
        if (!is_cut) {
            if (value < lowest || value <= gone) return false;
            if (value >= left || !(by_count || by_mass)) return true;
            if (passes > 0) {
                --passes;
                look_at(value);
                if (value >= left) return true;
                if (value <= gone) return false;
            }
        }
        return cut_now().leaves(value, place);
    }

    const Kept& cut_now() {
        if (!is_cut) cut = truncate(whole_row<T>(*x, row, space), x->items, top, limits);
        is_cut = true;
        return cut;
    }

private:
    static constexpr int kPasses = 3;
    const Matrix* x = nullptr;
    int64_t row = 0;
    RowLimits limits;
    bool by_count = false, by_mass = false, is_cut = false;
    int passes = 0;
    float top = 0, lowest = -kInf, left = kInf, gone = -kInf;  // from `left` on all items are left, up to `gone` none
    Kept cut;
    Truncate truncate;
    std::vector<float> space;

    // Moves `left` or `gone` to the value; neither where some items that equal it are left and others are not.
    void look_at(float value) {
        alignas(64) float buffer[kTile];
        const Weights weights{false, top, inverse(limits.temperature)};
        const float pivots[] = {value, std::nextafter(value, -kInf)};
        double sums[3] = {};  // of all items, of those above the value, of those that are at least the value
        int64_t count = 0;
        for (int64_t i = 0; i < x->items; i += kTile) {
            const int part = static_cast<int>(std::min<int64_t>(kTile, x->items - i));
            const float* items = fetch(row_of<T>(*x, row) + i, part, buffer);
            if (by_count) {
                count += count_above(items, part, value);
            } else {
                weigh_tile<2>(items, part, weights, pivots, sums);
            }
        }
        const double wanted = limits.top_p * sums[0];
        if (by_count ? count >= limits.top_k : sums[1] >= wanted) {
            gone = value;
        } else if (by_count || sums[2] - static_cast<double>(weights.of(value)) < wanted) {
            left = value;
        }
    }
};

// Draws of a row: proposals of the envelope of the whole row, until one is left; or, where few are, an inversion over those.
template <class T>
struct LimitedDraw {
    Envelope envelope;
    Left<T> left;
    std::vector<int64_t> places;
    std::vector<double> sums;

    // False if the row is bad.
    bool draw(const Matrix& x, uint64_t seed, int64_t row, const RowLimits& limits, int threads, int64_t draws,
              int64_t* out, int64_t stride) {
        constexpr int64_t kTries = 64, kFewDraws = 4;
        const bool is_argmax = limits.temperature == 0;
        envelope.scale = is_argmax ? 1.0f : inverse(limits.temperature);
        if (!envelope.template build<T>(x, row, threads)) return false;
        left.begin(x, row, envelope.top(), limits, draws <= kFewDraws);
        if (is_argmax) {
            for (int64_t i = 0; i < draws; ++i) out[i * stride] = left.cut_now().last;
            return true;
        }
        const auto is_left = [&](int64_t place) { return left(place); };
        const int64_t drawn = envelope.draw_some<T>(x, seed, row, draws, out, stride, is_left, kTries);
        if (drawn == draws) return true;
        gather(x, row);
        double u[kBlocks], unused[kBlocks];
        for (int64_t first = drawn; first < draws; first += kBlocks) {
            const int count = static_cast<int>(std::min<int64_t>(kBlocks, draws - first));
            draw_uniforms(seed, row, kAfterProposals + first, count, u, unused);
            for (int i = 0; i < count; ++i) {
                auto at = std::upper_bound(sums.begin(), sums.end(), u[i] * sums.back());
                if (at == sums.end()) at = std::lower_bound(sums.begin(), sums.end(), sums.back());
                out[(first + i) * stride] = places[static_cast<size_t>(at - sums.begin())];
            }
        }
        return true;
    }

private:
    static constexpr int64_t kAfterProposals = int64_t{1} << 53;  // numbers of the stream that no proposal reaches

    void gather(const Matrix& x, int64_t row) {
        places.clear(), sums.clear();
        const T* items = row_of<T>(x, row);
        const Kept cut = left.cut_now();
        double total = 0;
        for (int64_t i = 0; i < x.items; ++i) {
            const float value = to_float(items[i]);
            if (!(value > -kInf) || !cut.leaves(value, i)) continue;
            places.push_back(i);
            sums.push_back(total += static_cast<double>(exp_nonpositive((value - envelope.top()) * envelope.scale)));
        }
    }
};

// out[draw][row]: categorical at a temperature, of what the limits leave of each row.
int64_t limited_categorical(Matrix x, Key key, int threads, Limits limits, int64_t draws, int64_t* out) {
    BadRow bad;
    by_dtype(x.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto one = [&](int64_t row, LimitedDraw<T>& limited, int inner) {
            if (limited.draw(x, key.seed, row, RowLimits(limits, row), inner, draws, out + row, x.rows)) return;
            bad.add(row);
            for (int64_t i = 0; i < draws; ++i) out[i * x.rows + row] = -1;
        };
        if (few_and_long(x.rows, x.items, threads)) {
            LimitedDraw<T> limited;
            for (int64_t row = 0; row < x.rows; ++row) one(row, limited, threads);
            return;
        }
        row_tasks(x.rows, std::max<int64_t>(1, kTask / (x.items + draws)), threads, [&](int64_t first, int64_t end) {
            LimitedDraw<T> limited;
            for (int64_t row = first; row < end; ++row) one(row, limited, 1);
        });
    });
    return bad.result();
}

// gumbel_max of x / temperature, of what is left of each row.
int64_t tempered_max(Matrix x, Key key, int threads, Terms terms, void* values, int64_t* indices) {
    x.terms = terms;
    return gumbel_max(x, key, threads, values, indices);
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
