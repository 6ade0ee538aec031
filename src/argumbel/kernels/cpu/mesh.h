// Sums over all spanning trees of undirected graphs: star-mesh elimination, of several graphs side by side.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "doubles.h"
#include "tasks.h"
#include "wide.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// A number of each of kDoubles graphs.
struct Lanes {
    Doubles each{};
    Lanes() = default;
    Lanes(Doubles numbers) : each(numbers) {}
    Lanes(double number) : each(Doubles{} + number) {}
};
inline Lanes operator+(Lanes a, Lanes b) { return a.each + b.each; }
inline Lanes operator-(Lanes a, Lanes b) { return a.each - b.each; }
inline Lanes operator*(Lanes a, Lanes b) { return a.each * b.each; }
inline Lanes operator/(Lanes a, Lanes b) { return a.each / b.each; }

// a b + c.
template <class N>
inline N multiply_add(N a, N b, N c) {
    return a * b + c;
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return fma(a.each, b.each, c.each); }

// With w = exp(x): a node u passes its edges on to the nodes after it and goes. With d = sum of w(u, b), w(a, b) grows by
// w(u, a) w(u, b) / d, and Z is the product of the d. Tables hold the edges in the order of scores, so that those from a
// node to the nodes after it lie together.
template <class N>
struct Mesh {
    int64_t n;
    std::vector<N> first, w, g, d, t;  // weights before and after the elimination; slopes; sums of nodes
    explicit Mesh(int64_t nodes)
        : n(nodes), first(nodes * (nodes - 1) / 2), w(first.size()), g(first.size()), d(nodes), t(nodes) {}

    // So that table[after(a) + b] is the number of the edge from a to b > a.
    int64_t after(int64_t a) const { return a * (2 * n - a - 1) / 2 - a - 1; }

    void forward() {
        w = first;
        for (int64_t u = 0; u + 1 < n; ++u) {
            const N* __restrict own = w.data() + after(u);
            N sum = 0.0;
            for (int64_t b = u + 1; b < n; ++b) sum = sum + own[b];
            d[u] = sum;
            const N one = N(1.0) / sum;
            for (int64_t a = u + 1; a + 1 < n; ++a) {
                const N c = own[a] * one;
                N* __restrict to = w.data() + after(a);
                for (int64_t b = a + 1; b < n; ++b) to[b] = multiply_add(c, own[b], to[b]);
            }
        }
    }

    // g(a, b) = d log Z / d w(a, b).
    void backward() {
        for (int64_t u = n - 2; u >= 0; --u) {
            const N* __restrict own = w.data() + after(u);
            std::fill(t.begin(), t.end(), N(0.0));
            for (int64_t a = u + 1; a + 1 < n; ++a) {
                const N* __restrict from = g.data() + after(a);
                const N mine = own[a];
                N sum = t[a];
                for (int64_t b = a + 1; b < n; ++b) {
                    sum = multiply_add(from[b], own[b], sum);
                    t[b] = multiply_add(from[b], mine, t[b]);
                }
                t[a] = sum;
            }
            const N one = N(1.0) / d[u];
            N sum = 0.0;
            for (int64_t b = u + 1; b < n; ++b) sum = multiply_add(t[b], own[b], sum);
            const N rest = (N(1.0) - N(0.5) * sum * one) * one;
            N* __restrict to = g.data() + after(u);
            for (int64_t b = u + 1; b < n; ++b) to[b] = multiply_add(t[b], one, rest);
        }
    }

    // How likely each edge is, in g.
    void marginals() {
        forward();
        backward();
        for (size_t e = 0; e < g.size(); ++e) g[e] = first[e] * g[e];
    }
};

inline double number(const Lanes& x, int lane) { return x.each[lane]; }
inline double number(const Wide& x, int) { return plain(x); }
template <class N>
inline double number(const Dual<N>& x, int lane) {
    return number(x.slope, lane);
}
template <class N>
inline bool is_positive(const Dual<N>& x, int lane) {
    return is_positive(x.value, lane);
}
inline bool is_positive(const Lanes& x, int lane) { return x.each[lane] > 0; }
inline bool is_positive(const Wide& x, int) { return x.m > 0; }
inline void add_logarithm(const Lanes& x, double* to) {
    for (int l = 0; l < kDoubles; ++l) to[l] += x.each[l] > 0 ? log64(x.each[l]) : -INFINITY;
}
inline void add_logarithm(const Wide& x, double* to) { *to += x.m > 0 ? logarithm(x) : -INFINITY; }

template <class N>
bool is_possible(const Mesh<N>& mesh, int lane) {
    bool all = true;
    for (int64_t u = 0; u + 1 < mesh.n; ++u) all &= is_positive(mesh.d[u], lane);
    return all;
}

// Rows of scores side by side, from the one at `row` on: the largest score of each, and whether all numbers of its
// elimination are in the range of float64, for the steps of it multiply at most n of them.
struct Scores {
    std::vector<Lanes> x;
    alignas(64) double top[kDoubles];
    bool is_narrow[kDoubles];

    // Reads `count` rows; the other lanes are 0.
    static void read(const double* from, int64_t stride, int count, std::vector<Lanes>& to) {
        for (size_t e = 0; e < to.size(); ++e)
            for (int l = 0; l < kDoubles; ++l)
                to[e].each[l] = l < count ? from[l * stride + static_cast<int64_t>(e)] : 0;
    }

    void read(const Matrix& from, int64_t row, int count, int64_t n) {
        x.resize(from.items);
        read(row_of<double>(from, row), from.row_stride, count, x);
        Doubles most = Doubles{} - INFINITY, least = Doubles{} + INFINITY;
        Integers some_forbidden{};
        for (const Lanes& scores : x) {
            const auto forbidden = scores.each < kForbidden;
            most = scores.each > most ? scores.each : most;
            least = ~forbidden & (scores.each < least) ? scores.each : least;
            some_forbidden |= forbidden;
        }
        for (int l = 0; l < kDoubles; ++l) {
            top[l] = most[l] < kForbidden ? 0 : most[l];
            is_narrow[l] = !((top[l] - least[l]) * static_cast<double>(some_forbidden[l] ? n : 1) >= 300);
        }
    }

    Lanes weight(size_t e) const { return x[e].each < kForbidden ? Doubles{} : exp_nonpositive(x[e].each - load(top)); }
    Wide weight_alone(size_t e, int lane) const { return exponential<Wide>(x[e].each[lane] - top[lane]); }
};

template <class N>
using Plain = N;
template <class N>
inline void set(N& to, N weight, N) {
    to = weight;
}
template <class N>
inline void set(Dual<N>& to, N weight, N along) {
    to = {weight, weight * along};
}

// Calls solve(mesh, row, count, top) for all rows of x: for kDoubles graphs at a time, and again for each graph that needs
// numbers with an unlimited exponent. Of is what a number is: Plain, or Dual with its derivative along a direction.
template <template <class> class Of, class Solve>
void each_mesh(const Matrix& x, int threads, int64_t n, const double* direction, Solve&& solve) {
    const int64_t groups = std::max<int64_t>(1, kTask / (n * n * n * kDoubles));
    row_tasks(x.rows, groups * kDoubles, threads, [&](int64_t first, int64_t last) {
        Scores scores;
        std::vector<Lanes> along(x.items);
        Mesh<Of<Lanes>> mesh(n);
        for (int64_t row = first; row < last; row += kDoubles) {
            const int count = static_cast<int>(std::min<int64_t>(kDoubles, last - row));
            scores.read(x, row, count, n);
            if (direction) Scores::read(direction + row * x.items, x.items, count, along);
            for (int64_t e = 0; e < x.items; ++e) set(mesh.first[e], scores.weight(e), along[e]);
            solve(mesh, row, count, scores.top);
            for (int l = 0; l < count; ++l) {
                if (scores.is_narrow[l]) continue;
                Mesh<Of<Wide>> alone(n);
                for (int64_t e = 0; e < x.items; ++e)
                    set(alone.first[e], scores.weight_alone(e, l), Wide(along[e].each[l]));
                solve(alone, row + l, 1, scores.top + l);
            }
        }
    });
}

int64_t spanning_tree_log_partition(Matrix x, Key, int threads, int64_t n, double* out) {
    each_mesh<Plain>(x, threads, n, nullptr, [&](auto& mesh, int64_t row, int count, const double* top) {
        mesh.forward();
        double total[kDoubles];
        for (int l = 0; l < count; ++l) total[l] = static_cast<double>(n - 1) * top[l];
        for (int64_t u = 0; u + 1 < n; ++u) add_logarithm(mesh.d[u], total);
        for (int l = 0; l < count; ++l) out[row + l] = total[l] > -INFINITY ? total[l] : kImpossible;
    });
    return -1;
}

int64_t spanning_tree_marginals(Matrix x, Key, int threads, int64_t n, double* out) {
    each_mesh<Plain>(x, threads, n, nullptr, [&](auto& mesh, int64_t row, int count, const double*) {
        mesh.marginals();
        for (int l = 0; l < count; ++l) {
            double* to = out + (row + l) * x.items;
            const bool possible = is_possible(mesh, l);
            for (int64_t e = 0; e < x.items; ++e) to[e] = possible ? std::clamp(number(mesh.g[e], l), 0.0, 1.0) : 0;
        }
    });
    return -1;
}

// The derivative of the marginals in a direction.
int64_t spanning_tree_covariance(Matrix x, Key, int threads, int64_t n, const double* direction, double* out) {
    each_mesh<Dual>(x, threads, n, direction, [&](auto& mesh, int64_t row, int count, const double*) {
        mesh.marginals();
        for (int l = 0; l < count; ++l) {
            double* to = out + (row + l) * x.items;
            const bool possible = is_possible(mesh, l);
            for (int64_t e = 0; e < x.items; ++e) to[e] = possible ? number(mesh.g[e], l) : 0;
        }
    });
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
