// Trees: the best spanning tree with its race, and sums over all arborescences by elimination.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "tasks.h"
#include "wide.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

// --- the best tree --------------------------------------------------------------------------------------------------

// Prim's algorithm. The worst edge on the way between two nodes tells when Kruskal's algorithm would have joined them.
struct SpanningTree {
    int64_t n;
    bool race;
    std::vector<double> top;  // of each node that is not in the tree yet, the best edge to a node of the tree
    std::vector<int64_t> best, via, left, worst, inside;  // left: those nodes; worst: of pairs; inside: the other nodes
    SpanningTree(int64_t nodes, bool is_race)
        : n(nodes), race(is_race), top(n), best(n), via(n), left(n), worst(is_race ? n * n : 0), inside(n) {}

    // The edge from u to v > u is this + v.
    int64_t after(int64_t u) const { return u * (2 * n - u - 1) / 2 - u - 1; }

    void run(const double* x, bool* tree, int64_t* chosen, int64_t* rounds) {
        const auto better = [x](int64_t a, int64_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
        std::fill_n(tree, n * (n - 1) / 2, false);
        int64_t v = 0;
        inside[0] = 0;
        for (int64_t u = 1; u < n; ++u) top[u] = -INFINITY, best[u] = INT64_MAX, left[u - 1] = u;
        for (int64_t size = 1; size < n; ++size) {
            // v has come; which of the nodes that are left is the next?
            double most = -INFINITY;
            int64_t first = INT64_MAX, place = 0;
            const int64_t row = after(v);
            for (int64_t i = 0; i < n - size; ++i) {
                const int64_t u = left[i], e = u > v ? row + u : after(u) + v;
                if ((x[e] > top[u]) | ((x[e] == top[u]) & (e < best[u]))) top[u] = x[e], best[u] = e, via[u] = v;
                if ((top[u] > most) | ((top[u] == most) & (best[u] < first))) most = top[u], first = best[u], place = i;
            }
            v = left[place];
            left[place] = left[n - size - 1];
            tree[first] = true;
            if (!race) continue;
            chosen[size - 1] = first;
            for (int64_t i = 0; i < size; ++i) {
                const int64_t u = inside[i], from = via[v];
                const int64_t way = u == from ? first : worst[u * n + from];
                worst[u * n + v] = worst[v * n + u] = better(first, way) ? way : first;
            }
            inside[size] = v;
        }
        if (!race) return;
        std::sort(chosen, chosen + n - 1, better);
        for (int64_t i = 0; i + 1 < n; ++i) rounds[chosen[i]] = i + 1;
        int64_t e = 0;
        for (int64_t u = 0; u < n; ++u)
            for (int64_t w = u + 1; w < n; ++w, ++e)
                if (!tree[e]) rounds[e] = rounds[worst[u * n + w]];
    }
};

int64_t spanning_tree(Matrix x, Key, int threads, int64_t n, bool race, bool* tree, int64_t* chosen, int64_t* rounds) {
    row_tasks(x.rows, std::max<int64_t>(1, kTask / (n * n)), threads, [&](int64_t first, int64_t last) {
        SpanningTree solver(n, race);
        for (int64_t row = first; row < last; ++row)
            solver.run(row_of<double>(x, row), tree + row * x.items, chosen + row * (n - 1), rounds + row * x.items);
    });
    return -1;
}

// --- sums over all arborescences ------------------------------------------------------------------------------------

// Star-mesh elimination, with w = exp(x) and node 0 as the root. A node k passes its edges on to the others and goes: with
// d = sum of w(u, k), w(u, v) grows by w(u, k) w(k, v) / d, and Z is the product of the d. Where the root has a single
// child, the edges of the root are of another order: they do not count in any d but the last.
template <class N>
struct Elimination {
    int64_t n;
    bool single;
    std::vector<N> w, g, d;
    std::vector<int64_t> order;  // of the nodes, the root first; the last goes first
    Elimination(int64_t nodes, bool single_root)
        : n(nodes), single(single_root), w(nodes * nodes), g(nodes * nodes), d(nodes), order(nodes) {}

    N& at(std::vector<N>& table, int64_t u, int64_t v) { return table[order[u] * n + order[v]]; }

    // log Z is the sum of the logarithms of d; false where there is no arborescence.
    bool forward() {
        for (int64_t i = 0; i < n; ++i) order[i] = i;
        for (int64_t k = n - 1; k > 0; --k) {
            const int64_t least = single && k > 1 ? 1 : 0;
            // A node that only the root leads to must be the root's child: it waits.
            for (int64_t waiting = 0;; ++waiting) {
                N sum = 0.0;
                for (int64_t u = least; u < k; ++u) sum = sum + at(w, u, k);
                d[k] = sum;
                if (!is_zero(sum)) break;
                if (k <= 1 || waiting == 1) return false;
                std::swap(order[k], order[1]);
            }
            if (k == 1) break;
            for (int64_t u = 0; u < k; ++u) {
                const N c = at(w, u, k) / d[k];
                if (is_zero(c)) continue;
                for (int64_t v = 1; v < k; ++v)
                    if (u != v) at(w, u, v) = at(w, u, v) + c * at(w, k, v);
            }
        }
        return true;
    }

    // g(u, v) = d log Z / d w(u, v).
    void backward() {
        std::fill(g.begin(), g.end(), N(0.0));
        for (int64_t k = 1; k < n; ++k) {
            const int64_t least = single && k > 1 ? 1 : 0;
            const N one = N(1.0) / d[k];
            N rest = 1.0;
            for (int64_t v = 1; v < k; ++v) {
                N t = 0.0;
                for (int64_t u = 0; u < k; ++u)
                    if (u != v) t = t + at(g, u, v) * at(w, u, k);
                t = t * one;
                at(g, k, v) = t;
                rest = rest - t * at(w, k, v);
            }
            for (int64_t u = 0; u < k; ++u) {
                N s = u >= least ? rest : N(0.0);
                for (int64_t v = 1; v < k; ++v)
                    if (u != v) s = s + at(g, u, v) * at(w, k, v);
                at(g, u, k) = s * one;
            }
        }
    }
};

// The largest of the scores, and the distance to the smallest that is allowed.
struct Span {
    double top = -INFINITY, range = 0;
    bool some_forbidden = false;
    Span(const double* x, int64_t n) {
        double least = INFINITY;
        for (int64_t u = 0; u < n; ++u)
            for (int64_t v = 1; v < n; ++v) {
                if (u == v) continue;
                const double score = x[u * n + v];
                if (score < kForbidden) {
                    some_forbidden = true;
                } else {
                    top = std::max(top, score), least = std::min(least, score);
                }
            }
        if (top > -INFINITY) range = top - least;
        if (top == -INFINITY) top = 0;
    }
    // Whether all numbers of an elimination are in the range of float64: the steps of it multiply at most n of them.
    bool is_narrow(int64_t n) const { return range * static_cast<double>(some_forbidden ? n : 1) < 300; }
};

// Calls body(number, row) for each row, with the kind of number that its range needs.
template <class Body>
void each_tree(const Matrix& x, int threads, int64_t n, Body&& body) {
    row_tasks(x.rows, std::max<int64_t>(1, kTask / (n * n * n)), threads, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const Span span(row_of<double>(x, row), n);
            if (span.is_narrow(n))
                body(static_cast<double*>(nullptr), row, span);
            else
                body(static_cast<Wide*>(nullptr), row, span);
        }
    });
}

int64_t tree_log_partition(Matrix x, Key, int threads, int64_t n, bool single, double* out) {
    each_tree(x, threads, n, [&](auto* type, int64_t row, const Span& span) {
        using N = std::remove_pointer_t<decltype(type)>;
        Elimination<N> e(n, single);
        const double* scores = row_of<double>(x, row);
        for (int64_t i = 0; i < n * n; ++i)
            e.w[i] = scores[i] < kForbidden ? N(0.0) : exponential<N>(scores[i] - span.top);
        if (!e.forward()) {
            out[row] = kImpossible;
            return;
        }
        double total = static_cast<double>(n - 1) * span.top;
        for (int64_t k = 1; k < n; ++k) total += logarithm(e.d[k]);
        out[row] = total;
    });
    return -1;
}

int64_t tree_marginals(Matrix x, Key, int threads, int64_t n, bool single, double* out) {
    each_tree(x, threads, n, [&](auto* type, int64_t row, const Span& span) {
        using N = std::remove_pointer_t<decltype(type)>;
        Elimination<N> e(n, single);
        const double* scores = row_of<double>(x, row);
        double* to = out + row * n * n;
        std::vector<N> w(n * n);
        for (int64_t i = 0; i < n * n; ++i)
            w[i] = scores[i] < kForbidden ? N(0.0) : exponential<N>(scores[i] - span.top);
        e.w = w;
        std::fill_n(to, n * n, 0.0);
        if (!e.forward()) return;
        e.backward();
        for (int64_t u = 0; u < n; ++u)
            for (int64_t v = 1; v < n; ++v)
                if (u != v) to[u * n + v] = std::clamp(plain(w[u * n + v] * e.g[u * n + v]), 0.0, 1.0);
    });
    return -1;
}

// The derivative of the marginals in a direction: the same steps on numbers with a derivative.
int64_t tree_covariance(Matrix x, Key, int threads, int64_t n, bool single, const double* direction, double* out) {
    each_tree(x, threads, n, [&](auto* type, int64_t row, const Span& span) {
        using N = std::remove_pointer_t<decltype(type)>;
        Elimination<Dual<N>> e(n, single);
        const double *scores = row_of<double>(x, row), *along = direction + row * n * n;
        double* to = out + row * n * n;
        std::vector<Dual<N>> w(n * n);
        for (int64_t i = 0; i < n * n; ++i) {
            if (scores[i] < kForbidden) continue;
            const N weight = exponential<N>(scores[i] - span.top);
            w[i] = {weight, weight * N(along[i])};
        }
        e.w = w;
        std::fill_n(to, n * n, 0.0);
        if (!e.forward()) return;
        e.backward();
        for (int64_t u = 0; u < n; ++u)
            for (int64_t v = 1; v < n; ++v)
                if (u != v) to[u * n + v] = plain((w[u * n + v] * e.g[u * n + v]).slope);
    });
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
