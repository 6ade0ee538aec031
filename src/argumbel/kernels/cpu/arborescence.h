// Arborescences by the algorithm of Chu, Liu and Edmonds, and its race.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "arithmetic.h"
#include "tasks.h"

namespace argumbel {
namespace ARGUMBEL_ARCH {
namespace {

constexpr double kNoEdge = INFINITY;

// log(e^a - e^b) for a >= b, -inf where they are equal. Its operations are those of the reference.
ARGUMBEL_INLINE double log_difference(double a, double b) {
    const bool some = a - b > 0;  // two times of -inf differ by nothing, too
    const double d = some ? (a - b < 40 ? a - b : 40) : 1;
    const double shifted = d * -1.4426950408889634 + 0x1.8p52;  // the low bits now hold k = round(-d / log 2)
    const double k = shifted - 0x1.8p52;
    const double r = (-d - k * kLn2High64) - k * kLn2Low64;
    double p = 1.0 / 14;
    for (int i = 13; i > 0; --i) p = (p * r + 1) * (1.0 / i);  // e^r - 1 is r p
    int64_t bits;
    std::memcpy(&bits, &shifted, 8);
    bits = static_cast<int64_t>((static_cast<uint64_t>(bits) << 52) + (uint64_t{1023} << 52));
    double power;  // 2^k
    std::memcpy(&power, &bits, 8);
    const double q = (1 - power) - power * (r * p);
    const double log_q = log64(q > 0x1p-1022 ? q : 0x1p-1022);
    return some ? a + log_q : -INFINITY;
}

// A block is a node, or a circle that became one; it has the number of one of its nodes. Table entry [b * n + u] is about
// the best edge from node u into block b.
struct Arborescence {
    const int64_t n, root;
    const bool single, race;
    std::vector<double> cost, paid, left;
    std::vector<int64_t> end, block, from, taken, head;
    std::vector<char> entered, inside, steps;  // steps: the nodes of the block of each step

    Arborescence(int64_t nodes, int64_t root_node, bool single_root, bool is_race)
        : n(nodes),
          root(root_node),
          single(single_root),
          race(is_race),
          cost(n * n),
          paid(n),
          left(n),
          end(n * n),
          block(n),
          from(n),
          taken(2 * n),
          head(n),
          entered(n),
          inside(n),
          steps(2 * n * n) {}

    void start(const double* x) {
        for (int64_t v = 0; v < n; ++v) {
            for (int64_t u = 0; u < n; ++u) cost[v * n + u] = -x[u * n + v];
            cost[v * n + v] = kNoEdge;
            std::fill_n(&end[v * n], n, v);
            block[v] = v;
            entered[v] = v == root;
        }
    }

    // The node from which the cheapest edge enters the block, the first of equals; -1 where no edge is allowed.
    int64_t cheapest(int64_t b) {
        double* costs = &cost[b * n];
        const double of_root = costs[root];
        if (single) costs[root] = kNoEdge;
        double least = kNoEdge;
        for (int64_t u = 0; u < n; ++u) least = costs[u] < least ? costs[u] : least;
        costs[root] = of_root;
        if (least < kNoEdge) {
            for (int64_t u = 0;; ++u)
                if (costs[u] == least && !(single && u == root)) return u;
        }
        return of_root < kNoEdge ? root : -1;
    }

    // Whether b leads to the block `at`.
    bool leads_to(int64_t b, int64_t at) const {
        while (entered[at] && at != root) at = block[from[at]];
        return at == b;
    }

    // The blocks from `at` up to b become the block b.
    void contract(int64_t b, int64_t at) {
        std::fill(inside.begin(), inside.end(), 0);
        double* to = &cost[b * n];
        int64_t* ends = &end[b * n];
        take_off(b);
        std::copy(left.begin(), left.end(), to);
        inside[b] = 1;
        for (; at != b; at = block[from[at]]) {
            inside[at] = 1;
            take_off(at);
            const int64_t* others = &end[at * n];
            for (int64_t u = 0; u < n; ++u) {
                const bool better = (left[u] < to[u]) | ((left[u] == to[u]) & (others[u] < ends[u]));
                to[u] = better ? left[u] : to[u];
                ends[u] = better ? others[u] : ends[u];
            }
        }
        for (int64_t u = 0; u < n; ++u) {
            if (!inside[block[u]]) continue;
            block[u] = b;
            to[u] = kNoEdge;
        }
    }

    // What is left of the costs of the edges into a block, after the one that it has.
    void take_off(int64_t b) {
        const double* costs = &cost[b * n];
        const double less = paid[b];
        double* to = left.data();
        if (race) {
            for (int64_t u = 0; u < n; ++u) to[u] = log_difference(costs[u], less);
            if (single) to[root] = costs[root];  // edges of the root have not raced yet
        } else {
            for (int64_t u = 0; u < n; ++u) to[u] = costs[u] - less;
        }
    }

    // The number of steps; -1 where no arborescence is left.
    int64_t run() {
        int64_t step = 0;
        for (int64_t b = 0; b < n; ++b) {
            while (!entered[b]) {
                const int64_t u = cheapest(b);
                if (u < 0) return -1;
                for (int64_t i = 0; i < n; ++i) steps[step * n + i] = block[i] == b;
                taken[step++] = u * n + end[b * n + u];
                from[b] = u;
                paid[b] = cost[b * n + u];
                if (leads_to(b, block[u]))
                    contract(b, block[u]);
                else
                    entered[b] = 1;
            }
        }
        // From the last edge to the first: an edge stays, unless a later one enters its block.
        std::fill(head.begin(), head.end(), -1);
        for (int64_t s = step - 1; s >= 0; --s) {
            bool stays = true;
            for (int64_t v = 0; v < n; ++v) stays &= !steps[s * n + v] | (head[v] < 0);
            if (stays) head[taken[s] % n] = taken[s] / n;
        }
        return single && std::count(head.begin(), head.end(), root) != 1 ? -1 : step;
    }

    void write_tree(const double* x, bool possible, bool* tree) const {
        for (int64_t u = 0; u < n; ++u)
            for (int64_t v = 0; v < n; ++v) tree[u * n + v] = possible ? head[v] == u : x[u * n + v] == -INFINITY;
    }

    void write_race(int64_t made, int64_t* chosen, bool* alive) const {
        for (int64_t s = 0; s < 2 * n - 2; ++s, alive += n * n) {
            chosen[s] = s < made ? taken[s] : -1;
            std::fill_n(alive, n * n, false);
            if (s >= made) continue;
            const bool of_root = single && taken[s] / n == root;
            for (int64_t u = 0; u < n; ++u) {
                if (steps[s * n + u] || (single && (u == root) != of_root)) continue;
                std::memcpy(alive + u * n, &steps[s * n], n);
            }
        }
    }
};

int64_t arborescence(Matrix x, Key, int threads, int64_t n, int64_t root, bool single, bool race, bool* tree,
                     int64_t* chosen, bool* alive) {
    static_assert(sizeof(bool) == 1);
    const int64_t steps = 2 * n - 2;
    row_tasks(x.rows, std::max<int64_t>(1, kTask / (8 * n * n)), threads, [&](int64_t first, int64_t last) {
        Arborescence solver(n, root, single, race);
        for (int64_t row = first; row < last; ++row) {
            const double* scores = row_of<double>(x, row);
            solver.start(scores);
            const int64_t made = solver.run();
            solver.write_tree(scores, made >= 0, tree + row * n * n);
            if (race) solver.write_race(made, chosen + row * steps, alive + row * steps * n * n);
        }
    });
    return -1;
}

}  // namespace
}  // namespace ARGUMBEL_ARCH
}  // namespace argumbel
