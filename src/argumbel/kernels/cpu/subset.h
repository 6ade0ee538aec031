// Sums over all sets of k of n items: log Z, how likely each item is in a set, and the derivative of that.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "tasks.h"
#include "wide.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// An item is a factor, zero + one t, and a set of j items is a term of degree j of their product. A factor may be scaled:
// one / zero is exp(x - centre), for some centre of the row. Only positive numbers are added.
//
// Where C(n, k) is in the range of float64, centre is the k-th largest score, and the larger of zero and one is 1. Then the
// set of the k best has the term 1, so nothing that underflows matters, and no coefficient exceeds C(n, k): exact for
// any scores. Elsewhere zero + one = 1, and centre is such that sum of one is near k: a coefficient is a probability, and
// that of degree k is about 1 / sqrt(n).
class Factors {
public:
    std::vector<double> zero, one;
    double scale = 0;  // log Z, less the logarithm of the coefficient of degree k
    Factors(int64_t n, int64_t k) : zero(n), one(n), n_(n), k_(k), sorted_(n) {
        const int64_t fewest = std::min(n / 2, std::min(k, n - k) + kPad);
        const auto log_factorial = [](int64_t i) { return std::lgamma(static_cast<double>(i) + 1); };
        counts_ = log_factorial(n) - log_factorial(fewest) - log_factorial(n - fewest) < 600;
    }

    // False where fewer than k items are allowed.
    bool of(const double* x) {
        for (int64_t i = 0; i < n_; ++i) sorted_[i] = x[i] == x[i] ? x[i] : -INFINITY;
        std::nth_element(sorted_.begin(), sorted_.begin() + (k_ - 1), sorted_.end(), std::greater<double>());
        const double last = sorted_[k_ - 1];
        if (!(last > kForbidden)) return false;
        const double centre = counts_ ? last : centre_of(x, last);
        int64_t above = 0;
        scale = 0;
        for (int64_t i = 0; i < n_; ++i) {
            const bool is_above = x[i] > centre;
            const double e = std::exp(is_above ? centre - x[i] : x[i] - centre);
            const double large = counts_ ? 1 : 1 / (1 + e), small = counts_ ? e : e / (1 + e);
            zero[i] = is_above ? small : large;
            one[i] = is_above ? large : small;
            if (!counts_) scale += std::log1p(e);
            if (is_above) scale += x[i], ++above;
        }
        scale += static_cast<double>(k_ - above) * centre;
        return true;
    }

    static constexpr int64_t kPad = 8;  // so many more coefficients may be made than are asked for

private:
    int64_t n_, k_;
    bool counts_;
    std::vector<double> sorted_;

    // The number c for which the sum of sigmoid(x - c) is near k, by bisection. At x_(k+1) - log k the sum is at least k, at
    // x_(k) + log(n - k) at most k. If x_(k) and x_(k+1) are far apart, every c near their middle will do.
    double centre_of(const double* x, double last) const {
        const double second = std::max(*std::max_element(sorted_.begin() + k_, sorted_.end()), last - 1500);
        const double middle = last + (second - last) / 2;
        double low = std::max(second - std::log(static_cast<double>(k_)), middle - 40);
        double high = std::min(last + std::log(static_cast<double>(n_ - k_)), middle + 40);
        for (int step = 0; step < 12; ++step) {
            const double c = (low + high) / 2;
            double sum = 0;
            for (int64_t i = 0; i < n_; ++i) sum += 1 / (1 + std::exp(c - x[i]));
            (sum > static_cast<double>(k_) ? low : high) = c;
        }
        return (low + high) / 2;
    }
};

// Rows of coefficients, each with zeros before and behind it, so that loops over them have no ends to look at.
class Polynomials {
public:
    int64_t rows, width;  // a multiple of kPad
    Polynomials(int64_t degree, int64_t count)
        : rows(count),
          width((degree + kPad) / kPad * kPad),
          stride_(width + kPad),
          numbers_(new double[static_cast<size_t>(rows * stride_ + 2 * kPad)]()) {
        const auto address = reinterpret_cast<uintptr_t>(numbers_.get());
        first_ = numbers_.get() + (64 - address % 64) / sizeof(double) % kPad + kPad;
    }
    double* operator[](int64_t row) { return first_ + row * stride_; }

private:
    static constexpr int64_t kPad = Factors::kPad;
    int64_t stride_;
    std::unique_ptr<double[]> numbers_;
    double* first_;
};

// out = in (zero + one t).
inline void multiply(const double* __restrict in, double zero, double one, int64_t width, double* __restrict out) {
    for (int64_t j = 0; j < width; ++j) out[j] = zero * in[j] + one * in[j - 1];
}

// The same, and its derivative, where that of an item is `slope` times its own.
inline void multiply(const double* __restrict in, const double* __restrict in_slope, double zero, double one,
                     double slope, int64_t width, double* __restrict out, double* __restrict out_slope) {
    for (int64_t j = 0; j < width; ++j) {
        out[j] = zero * in[j] + one * in[j - 1];
        out_slope[j] = zero * in_slope[j] + one * (in_slope[j - 1] + slope * in[j - 1]);
    }
}

inline double total(const double (&sums)[8]) {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// The coefficient of degree `degree` in the product of all factors but one, for each; with slopes also its derivative. The
// products of the factors before an item are kept, or, if they are many, those before each of some blocks of items, from
// which they are made again. The products of the factors behind an item are held in reversed order, rest[j] the coefficient
// of degree - j, so that what is asked for is a scalar product.
template <bool sloped>
class AllButOne {
public:
    AllButOne(int64_t n, int64_t degree)
        : n_(n),
          degree_(degree),
          block_(n * (degree + 1) <= kTable ? n : static_cast<int64_t>(std::sqrt(static_cast<double>(n))) + 1),
          blocks_((n + block_ - 1) / block_),
          before_(degree, block_ + 1),
          starts_(degree, blocks_),
          rest_(degree, 1),
          before_slopes_(degree, sloped ? block_ + 1 : 0),
          starts_slopes_(degree, sloped ? blocks_ : 0),
          rest_slopes_(degree, sloped ? 1 : 0) {}

    void run(const double* zero, const double* one, const double* slope, double* out, double* out_slope) {
        const int64_t width = before_.width;
        start(before_, 0), start(rest_, degree_);
        if (sloped) std::fill_n(before_slopes_[0], width, 0.0), std::fill_n(rest_slopes_[0], width, 0.0);
        for (int64_t block = 0; block < blocks_; ++block) {
            copy(before_, 0, starts_, block), copy(before_slopes_, 0, starts_slopes_, block);
            const int64_t count = fill(block, zero, one, slope);
            if (block + 1 < blocks_) copy(before_, count, before_, 0), copy(before_slopes_, count, before_slopes_, 0);
        }
        for (int64_t block = blocks_ - 1; block >= 0; --block) {
            if (block + 1 < blocks_) {
                copy(starts_, block, before_, 0), copy(starts_slopes_, block, before_slopes_, 0);
                fill(block, zero, one, slope);
            }
            for (int64_t i = std::min(n_, (block + 1) * block_) - 1; i >= block * block_; --i) {
                const int64_t row = i - block * block_;
                if constexpr (sloped)
                    back(before_[row], before_slopes_[row], zero[i], one[i], slope[i], out[i], out_slope[i]);
                else
                    back(before_[row], zero[i], one[i], out[i]);
            }
        }
    }

private:
    static constexpr int64_t kTable = 1 << 16;
    int64_t n_, degree_, block_, blocks_;
    Polynomials before_, starts_, rest_, before_slopes_, starts_slopes_, rest_slopes_;

    static void start(Polynomials& rows, int64_t degree) {
        std::fill_n(rows[0], rows.width, 0.0);
        rows[0][degree] = 1;
    }

    static void copy(Polynomials& from, int64_t row, Polynomials& to, int64_t into) {
        if (from.rows > 0) std::copy_n(from[row], from.width, to[into]);
    }

    // The products before each item of a block, from the first; how many items there are.
    int64_t fill(int64_t block, const double* zero, const double* one, const double* slope) {
        const int64_t first = block * block_, count = std::min(n_ - first, block_);
        for (int64_t i = 0; i < count; ++i) {
            if constexpr (sloped)
                multiply(before_[i], before_slopes_[i], zero[first + i], one[first + i], slope[first + i],
                         before_.width, before_[i + 1], before_slopes_[i + 1]);
            else
                multiply(before_[i], zero[first + i], one[first + i], before_.width, before_[i + 1]);
        }
        return count;
    }

    void back(const double* __restrict f, double zero, double one, double& out) {
        double* r = rest_[0];
        double sums[8] = {};
        for (int64_t j = 0; j < before_.width; j += 8)
            for (int64_t l = 0; l < 8; ++l) sums[l] += f[j + l] * r[j + l];
        for (int64_t j = 0; j < before_.width; ++j) r[j] = zero * r[j] + one * r[j + 1];
        out = total(sums);
    }

    void back(const double* __restrict f, const double* __restrict df, double zero, double one, double slope,
              double& out, double& out_slope) {
        double* __restrict r = rest_[0], * __restrict dr = rest_slopes_[0];
        double sums[8] = {}, slopes[8] = {};
        for (int64_t j = 0; j < before_.width; j += 8)
            for (int64_t l = 0; l < 8; ++l) {
                sums[l] += f[j + l] * r[j + l];
                slopes[l] += df[j + l] * r[j + l] + f[j + l] * dr[j + l];
            }
        for (int64_t j = 0; j < before_.width; ++j) {
            dr[j] = zero * dr[j] + one * (dr[j + 1] + slope * r[j + 1]);
            r[j] = zero * r[j] + one * r[j + 1];
        }
        out = total(sums), out_slope = total(slopes);
    }
};

inline int64_t subset_rows_of_task(int64_t n, int64_t k) {
    return std::max<int64_t>(1, kTask / (n * (8 + std::min(k, n - k))));
}

int64_t subset_log_partition(Matrix x, Key, int threads, int64_t k, double* out) {
    const int64_t n = x.items, degree = std::min(k, n - k);
    row_tasks(x.rows, subset_rows_of_task(n, k), threads, [&](int64_t begin, int64_t end) {
        Factors factors(n, k);
        const bool out_of_it = degree < k;  // the items outside of the set are fewer: they are counted
        const auto &zero = out_of_it ? factors.one : factors.zero, &one = out_of_it ? factors.zero : factors.one;
        Polynomials rows(degree, 2);
        for (int64_t row = begin; row < end; ++row) {
            if (!factors.of(row_of<double>(x, row))) {
                out[row] = kImpossible;
                continue;
            }
            std::fill_n(rows[0], rows.width, 0.0);
            rows[0][0] = 1;
            for (int64_t i = 0; i < n; ++i) multiply(rows[i & 1], zero[i], one[i], rows.width, rows[~i & 1]);
            out[row] = factors.scale + std::log(rows[n & 1][degree]);
        }
    });
    return -1;
}

// A direction, less its mean over items as they are likely, and its size: near 1, so that sums over sets stay small. (The
// covariance takes all that is common to items to 0.)
inline double centre_direction(const double* direction, const Factors& factors, std::vector<double>& along) {
    const int64_t n = static_cast<int64_t>(along.size());
    double mean = 0, sum = 0, size = 0;
    const auto share = [&](int64_t i) { return factors.one[i] / (factors.zero[i] + factors.one[i]); };
    for (int64_t i = 0; i < n; ++i) {
        along[i] = factors.one[i] > 0 ? direction[i] : 0;
        size = std::max(size, std::abs(along[i]));
        sum += share(i);
    }
    if (size == 0) return 0;
    for (int64_t i = 0; i < n; ++i) mean += share(i) * (along[i] / size);
    mean /= sum;
    for (int64_t i = 0; i < n; ++i) along[i] = factors.one[i] > 0 ? along[i] / size - mean : 0;
    return size;
}

// The probability of an item is one E / sum of one E times k, with the E of all items but this one.
template <bool sloped>
void subset_probabilities(const Matrix& x, int threads, int64_t k, const double* direction, double* out) {
    const int64_t n = x.items, degree = std::min(k - 1, n - k);
    row_tasks(x.rows, subset_rows_of_task(n, k), threads, [&](int64_t begin, int64_t end) {
        Factors factors(n, k);
        const bool out_of_it = degree < k - 1;
        const auto &zero = out_of_it ? factors.one : factors.zero, &one = out_of_it ? factors.zero : factors.one;
        AllButOne<sloped> solver(n, degree);
        std::vector<double> weight(n), along(sloped ? n : 0), change(sloped ? n : 0);
        for (int64_t row = begin; row < end; ++row) {
            double* to = out + row * n;
            if (!factors.of(row_of<double>(x, row))) {
                std::fill_n(to, n, 0.0);
                continue;
            }
            const double size = sloped ? centre_direction(direction + row * n, factors, along) : 1;
            solver.run(zero.data(), one.data(), along.data(), weight.data(), change.data());
            double sum = 0, sum_of_changes = 0;
            for (int64_t i = 0; i < n; ++i) {
                // With V the sum of a direction over a set, the change of a weight is the sum of V over the sets of it. If the
                // others are counted, V is less their sum by what is the same for all sets.
                if (sloped) {
                    const double c = out_of_it ? -change[i] : change[i] + along[i] * weight[i];
                    sum_of_changes += change[i] = c * factors.one[i];
                }
                sum += weight[i] *= factors.one[i];
            }
            const double factor = static_cast<double>(k) / sum, mean = sum_of_changes / sum;
            for (int64_t i = 0; i < n; ++i)
                to[i] = sloped ? size * (factor * (change[i] - mean * weight[i])) : std::min(1.0, factor * weight[i]);
        }
    });
}

int64_t subset_marginals(Matrix x, Key, int threads, int64_t k, double* out) {
    subset_probabilities<false>(x, threads, k, nullptr, out);
    return -1;
}

int64_t subset_covariance(Matrix x, Key, int threads, int64_t k, const double* direction, double* out) {
    subset_probabilities<true>(x, threads, k, direction, out);
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
