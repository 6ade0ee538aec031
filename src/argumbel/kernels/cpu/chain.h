// Linear chains: the best sequence of classes, and sums over all sequences. A row holds x[t][a][b], the score of class a at
// place t followed by class b at t + 1. All go from the front to the end, and back: first what can lead to each class b,
// many b side by side.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "doubles.h"
#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// A step of a chain, and room for whole vectors of classes.
struct Classes {
    int64_t n, wide;
    explicit Classes(int64_t classes) : n(classes), wide((classes + kDoubles - 1) / kDoubles * kDoubles) {}
    // Calls body(first class, number of vectors, a constant) for stretches of the classes.
    template <class Body>
    void each_stretch(Body&& body) const {
        int64_t b = 0;
        for (; b + 4 * kDoubles <= wide; b += 4 * kDoubles) body(b, std::integral_constant<int, 4>());
        if (b + 2 * kDoubles <= wide) body(b, std::integral_constant<int, 2>()), b += 2 * kDoubles;
        if (b < wide) body(b, std::integral_constant<int, 1>());
    }
};

template <class Body>
void each_chain(const Matrix& x, int threads, Body&& body) {
    row_tasks(x.rows, std::max<int64_t>(1, kTask / x.items), threads, body);
}

// --- the best sequence ----------------------------------------------------------------------------------------------

// Of equal sequences the one with the lowest last class; of these the one with the lowest class before it, and so on.
struct Viterbi {
    int64_t steps;
    Classes classes;
    std::vector<double> here, next;  // the best that can lead to each class
    std::vector<int64_t> before;     // [t][b]: the class at t that it has before b
    Viterbi(int64_t s, int64_t n)
        : steps(s), classes(n), here(classes.wide), next(classes.wide), before(s * classes.wide) {}

    template <int vectors, class T>
    void one_stretch(const T* x, const T* end, double* best, int64_t* from) const {
        Doubles top[vectors];
        Integers who[vectors];
        for (int k = 0; k < vectors; ++k) top[k] = Doubles{} - INFINITY, who[k] = Integers{};
        for (int64_t a = 0; a < classes.n; ++a, x += classes.n)
            for (int k = 0; k < vectors; ++k) {
                const Doubles score = load_before(x + k * kDoubles, end) + here[a];
                const auto better = score > top[k];
                top[k] = better ? score : top[k];
                who[k] = better ? Integers{} + a : who[k];
            }
        for (int k = 0; k < vectors; ++k) put(top[k], best + k * kDoubles), put(who[k], from + k * kDoubles);
    }

    template <class T>
    double run(const T* x, int64_t* path) {
        const int64_t n = classes.n;
        const T* end = x + steps * n * n;
        std::fill(here.begin(), here.end(), 0.0);
        for (int64_t t = 0; t < steps; ++t) {
            classes.each_stretch([&](int64_t b, auto vectors) {
                one_stretch<vectors()>(x + t * n * n + b, end, &next[b], &before[t * classes.wide + b]);
            });
            here.swap(next);
        }
        path[steps] = std::max_element(here.begin(), here.begin() + n) - here.begin();
        for (int64_t t = steps - 1; t >= 0; --t) path[t] = before[t * classes.wide + path[t + 1]];
        return here[path[steps]];
    }
};

int64_t viterbi(Matrix x, Key, int threads, int64_t n, int64_t* path, double* best) {
    const int64_t steps = x.items / (n * n);
    each_chain(x, threads, [&](int64_t first, int64_t last) {
        Viterbi solver(steps, n);
        for (int64_t row = first; row < last; ++row) {
            int64_t* to = path + row * (steps + 1);
            best[row] =
                x.dtype == Dtype::f64 ? solver.run(row_of<double>(x, row), to) : solver.run(row_of<float>(x, row), to);
        }
    });
    return -1;
}

// --- sums over all sequences ----------------------------------------------------------------------------------------

// The law of a chain as a Markov chain that runs from the end to the front: how likely each class a is before a class b.
// The weights of these are measured from the largest of each b, so no scores are too far apart; all else is sums of
// positive numbers.
struct MarkovChain {
    int64_t steps;
    Classes classes;
    std::vector<double> here, next;  // the log of the sum of all that can lead to each class, less a common number
    std::vector<double> weights;     // [t][a][b]
    std::vector<double> sums;        // [t][b], by which they are to be divided
    std::vector<double> last;        // how likely each class is at the end
    MarkovChain(int64_t s, int64_t n, bool keep)
        : steps(s),
          classes(n),
          here(classes.wide),
          next(classes.wide),
          weights((keep ? s : 1) * n * classes.wide),
          sums(s * classes.wide),
          last(classes.wide) {}

    double* weights_of(int64_t t, int64_t a) {
        const int64_t step = classes.n * classes.wide;
        return &weights[t * step < static_cast<int64_t>(weights.size()) ? t * step + a * classes.wide
                                                                        : a * classes.wide];
    }

    template <int vectors>
    void one_stretch(const double* x, const double* end, double* w, double* sum, double* rest) const {
        Doubles top[vectors], total[vectors];
        for (int k = 0; k < vectors; ++k) top[k] = Doubles{} - INFINITY, total[k] = Doubles{};
        for (int64_t a = 0; a < classes.n; ++a)
            for (int k = 0; k < vectors; ++k) {
                const Doubles score = load_before(x + a * classes.n + k * kDoubles, end) + here[a];
                top[k] = score > top[k] ? score : top[k];
                put(score, w + a * classes.wide + k * kDoubles);
            }
        for (int64_t a = 0; a < classes.n; ++a)
            for (int k = 0; k < vectors; ++k) {
                double* at = w + a * classes.wide + k * kDoubles;
                const Doubles weight = exp_nonpositive(load(at) - top[k]);
                total[k] += weight;
                put(weight, at);
            }
        for (int k = 0; k < vectors; ++k) put(total[k], sum + k * kDoubles), put(top[k], rest + k * kDoubles);
    }

    // log Z.
    double forward(const double* x) {
        const int64_t n = classes.n;
        const double* end = x + steps * n * n;
        double total = 0;
        std::fill(here.begin(), here.end(), 0.0);
        for (int64_t t = 0; t < steps; ++t) {
            double* sum = &sums[t * classes.wide];
            classes.each_stretch([&](int64_t b, auto vectors) {
                one_stretch<vectors()>(x + t * n * n + b, end, weights_of(t, 0) + b, sum + b, &next[b]);
            });
            for (int64_t b = 0; b < n; ++b) next[b] += log64(sum[b]);
            here.swap(next);
            // Long chains are to round no more than short ones.
            const double top = *std::max_element(here.begin(), here.begin() + n);
            total += top;
            for (int64_t b = 0; b < n; ++b) here[b] -= top;
        }
        double sum = 0;
        for (int64_t b = 0; b < n; ++b) sum += last[b] = std::exp(here[b]);
        for (int64_t b = 0; b < n; ++b) last[b] /= sum;
        return total + std::log(sum);
    }

    void marginals(double* out) {
        const int64_t n = classes.n;
        std::vector<double> after(last), scale(n);
        for (int64_t t = steps - 1; t >= 0; --t) {
            for (int64_t b = 0; b < n; ++b) scale[b] = after[b] / sums[t * classes.wide + b];
            for (int64_t a = 0; a < n; ++a) {
                const double* __restrict w = weights_of(t, a), * __restrict c = scale.data();
                double* __restrict to = out + (t * n + a) * n;
                for (int64_t b = 0; b < n; ++b) to[b] = w[b] * c[b];
                after[a] = sum_of(to, n);
            }
        }
    }

    // The derivative of the marginals, as the scores move along a direction.
    void marginals_along(const double* direction, double* out) {
        const int64_t n = classes.n;
        std::vector<double> slope((steps + 1) * n);  // of what leads to each class
        for (int64_t t = 0; t < steps; ++t) {
            double* __restrict to = &slope[(t + 1) * n];
            for (int64_t a = 0; a < n; ++a) {
                const double* __restrict w = weights_of(t, a), * __restrict along = direction + (t * n + a) * n;
                const double before = slope[t * n + a];
                for (int64_t b = 0; b < n; ++b) to[b] += w[b] * (along[b] + before);
            }
            for (int64_t b = 0; b < n; ++b) to[b] /= sums[t * classes.wide + b];
        }
        const double* at_end = &slope[steps * n];
        double mean = 0;
        for (int64_t b = 0; b < n; ++b) mean += last[b] * at_end[b];
        std::vector<double> after(last), moved(n), one(n), row(n);
        for (int64_t b = 0; b < n; ++b) moved[b] = last[b] * (at_end[b] - mean);
        for (int64_t t = steps - 1; t >= 0; --t) {
            const double* centre = &slope[(t + 1) * n];
            for (int64_t b = 0; b < n; ++b) {
                one[b] = 1 / sums[t * classes.wide + b];
                moved[b] -= after[b] * centre[b];
            }
            std::vector<double> earlier(n), earlier_moved(n);
            for (int64_t a = 0; a < n; ++a) {
                const double* __restrict w = weights_of(t, a), * __restrict along = direction + (t * n + a) * n;
                const double before = slope[t * n + a];
                double* __restrict to = out + (t * n + a) * n, * __restrict p = row.data();
                for (int64_t b = 0; b < n; ++b) {
                    const double given = w[b] * one[b];
                    p[b] = given * after[b];
                    to[b] = given * moved[b] + p[b] * (along[b] + before);
                }
                earlier[a] = sum_of(p, n), earlier_moved[a] = sum_of(to, n);
            }
            after.swap(earlier), moved.swap(earlier_moved);
        }
    }

    static double sum_of(const double* x, int64_t count) {
        Doubles sums[2] = {};
        int64_t i = 0;
        for (; i + 2 * kDoubles <= count; i += 2 * kDoubles) sums[0] += load(x + i), sums[1] += load(x + i + kDoubles);
        sums[0] += sums[1];
        double total = 0;
        for (; i < count; ++i) total += x[i];
        for (int k = 0; k < kDoubles; ++k) total += sums[0][k];
        return total;
    }
};

int64_t chain_log_partition(Matrix x, Key, int threads, int64_t n, double* out) {
    each_chain(x, threads, [&](int64_t first, int64_t last) {
        MarkovChain chain(x.items / (n * n), n, false);
        for (int64_t row = first; row < last; ++row) out[row] = chain.forward(row_of<double>(x, row));
    });
    return -1;
}

int64_t chain_marginals(Matrix x, Key, int threads, int64_t n, double* out) {
    each_chain(x, threads, [&](int64_t first, int64_t last) {
        MarkovChain chain(x.items / (n * n), n, true);
        for (int64_t row = first; row < last; ++row) {
            chain.forward(row_of<double>(x, row));
            chain.marginals(out + row * x.items);
        }
    });
    return -1;
}

int64_t chain_covariance(Matrix x, Key, int threads, int64_t n, const double* direction, double* out) {
    each_chain(x, threads, [&](int64_t first, int64_t last) {
        MarkovChain chain(x.items / (n * n), n, true);
        for (int64_t row = first; row < last; ++row) {
            chain.forward(row_of<double>(x, row));
            chain.marginals_along(direction + row * x.items, out + row * x.items);
        }
    });
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
