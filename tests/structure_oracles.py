"""Every structure of a small problem, listed one by one, and the law exp(score) / Z over the list in float64.

A list is a boolean tensor ``(count, *event)``: entry True where the structure uses the part. Lists are cached: do not
write into them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

Edge = tuple[int, int]


def indicators(structures: Iterable[Iterable[tuple[int, ...]]], event: tuple[int, ...]) -> Tensor:
    """Booleans ``(count, *event)`` of structures that are given as the places of their parts."""
    rows = []
    for parts in structures:
        row = torch.zeros(event, dtype=torch.bool)
        for part in parts:
            row[part] = True
        rows.append(row)
    return torch.stack(rows) if rows else torch.zeros(0, *event, dtype=torch.bool)


def edges(n: int) -> list[Edge]:
    """The pairs u < v of n nodes, in the order of ``torch.triu_indices(n, n, 1)``."""
    return list(itertools.combinations(range(n), 2))


def components(n: int, joined: Iterable[Edge]) -> list[int]:
    """A label for each of n nodes: two nodes share it when a path of the joined edges connects them."""
    label = list(range(n))
    for u, v in joined:
        a, b = label[u], label[v]
        label = [a if x == b else x for x in label]
    return label


@functools.cache
def subsets(n: int, k: int) -> Tensor:
    """Every set of k of n items ``(count, n)``, in the order of ``itertools.combinations``."""
    return indicators(([(i,) for i in chosen] for chosen in itertools.combinations(range(n), k)), (n,))


@functools.cache
def correlated_subsets(n: int, k: int) -> Tensor:
    """Every set of k of n items ``(count, 2 n - 1)``: n entries for the items, then n - 1 for the pairs i, i + 1 of
    which both are chosen."""
    items = subsets(n, k)
    return torch.cat([items, items[:, :-1] & items[:, 1:]], -1)


@functools.cache
def spanning_trees(n: int) -> Tensor:
    """Every spanning tree of n nodes ``(count, n (n - 1) / 2)``."""
    all_edges = edges(n)
    trees = (
        chosen
        for chosen in itertools.combinations(range(len(all_edges)), n - 1)
        if len(set(components(n, [all_edges[e] for e in chosen]))) == 1
    )
    return indicators(([(e,) for e in tree] for tree in trees), (len(all_edges),))


def ancestors(heads: dict[int, int], node: int) -> list[int]:
    """The node, its head, the head of its head, and so on; the list stops at a node without a head or in a cycle."""
    path = [node]
    while path[-1] in heads and heads[path[-1]] not in path:
        path.append(heads[path[-1]])
    return path


def head_choices(n: int, root: int, single_root: bool) -> Iterator[dict[int, int]]:
    """The head of each node but the root, for every arborescence."""
    others = [v for v in range(n) if v != root]
    for chosen in itertools.product(range(n), repeat=n - 1):
        heads = dict(zip(others, chosen, strict=True))
        if all(ancestors(heads, v)[-1] == root for v in others) and (chosen.count(root) == 1 or not single_root):
            yield heads


@functools.cache
def arborescences(n: int, root: int = 0, single_root: bool = False) -> Tensor:
    """Every arborescence ``(count, n, n)``, entry [u, v] the edge u -> v; single_root: one edge leaves the root."""
    return indicators(
        ([(u, v) for v, u in heads.items()] for heads in head_choices(n, root, single_root)),
        (n, n),
    )


@functools.cache
def projective_trees(n: int, single_root: bool = False) -> Tensor:
    """Every arborescence from node 0 ``(count, n, n)`` where a head is above all nodes between itself and its child."""
    return indicators(
        (
            [(u, v) for v, u in heads.items()]
            for heads in head_choices(n, 0, single_root)
            if all(
                u in ancestors(heads, between) for v, u in heads.items() for between in range(min(u, v) + 1, max(u, v))
            )
        ),
        (n, n),
    )


@functools.cache
def sequences(length: int, classes: int) -> Tensor:
    """Every sequence of classes ``(count, length - 1, classes, classes)``, entry [t, a, b]: class a at t, b at t + 1;
    the order is that of ``itertools.product``."""
    return indicators(
        (
            [(t, a, b) for t, (a, b) in enumerate(itertools.pairwise(states))]
            for states in itertools.product(range(classes), repeat=length)
        ),
        (length - 1, classes, classes),
    )


def chain_scores(unary: Tensor, transition: Tensor) -> Tensor:
    """Scores ``(length - 1, classes, classes)`` from unary scores ``(length, classes)`` and transitions ``(classes,
    classes)``: the first pair takes both unary scores, each later pair takes that of its end."""
    scores = transition + unary[1:, None, :]
    return torch.cat([scores[:1] + unary[0, :, None], scores[1:]])


@functools.cache
def matchings(n: int, m: int) -> Tensor:
    """Every way to give each of n rows a column of its own ``(count, n, m)``, n <= m, in the order of
    ``itertools.permutations(range(m), n)``."""
    return indicators((enumerate(columns) for columns in itertools.permutations(range(m), n)), (n, m))


@functools.cache
def rankings(n: int) -> tuple[Tensor, Tensor]:
    """Orders ``(count, n)``, the best item first, and matrices ``(count, n, n)``, entry [place, item]."""
    return torch.tensor(list(itertools.permutations(range(n)))), matchings(n, n)


@functools.cache
def beaten(n: int) -> Tensor:
    """The number of items that each item beats, for every ranking, int64 ``(count, n)``, in the order of
    :func:`rankings`."""
    orders = itertools.permutations(range(n))
    return torch.tensor([[n - 1 - order.index(item) for item in range(n)] for order in orders])


def spans(i: int, j: int) -> Iterator[list[Edge]]:
    """The spans of every binary bracketing of the leaves i..j, as pairs (first leaf, last leaf), one leaf left out."""
    if i == j:
        yield []
    for last in range(i, j):
        for left, right in itertools.product(spans(i, last), spans(last + 1, j)):
            yield [(i, j), *left, *right]


@functools.cache
def bracketings(n: int) -> Tensor:
    """Every binary bracketing of n leaves ``(count, n, n)``, entry [i, j] the span of the leaves i..j, i < j; the span
    of all leaves is there."""
    return indicators(spans(0, n - 1), (n, n))


def totals(scores: Tensor, structures: Tensor) -> Tensor:
    """The score of every structure ``(*batch, count)``, from scores ``(*batch, *event)``: parts that it does not use
    do not count, not even at -inf."""
    event = structures.dim() - 1
    x = scores.double().unsqueeze(-event - 1)
    return torch.where(structures != 0, structures * x, 0.0).flatten(-event).sum(-1)


def law(scores: Tensor, structures: Tensor) -> Tensor:
    """The probability of every structure ``(*batch, count)``: exp(score) / Z; NaN where all are forbidden."""
    return torch.softmax(totals(scores, structures), -1)


def log_partition(scores: Tensor, structures: Tensor) -> Tensor:
    """log Z ``(*batch,)``: the log of the sum of exp(score) over the structures."""
    return torch.logsumexp(totals(scores, structures), -1)


def mean(probabilities: Tensor, structures: Tensor) -> Tensor:
    """The probability that a structure uses a part ``(*batch, *event)``, under probabilities ``(*batch, count)``."""
    return torch.tensordot(probabilities, structures.to(probabilities.dtype), 1)


def marginals(scores: Tensor, structures: Tensor) -> Tensor:
    """The probability that a structure uses a part ``(*batch, *event)``: the gradient of log Z."""
    return mean(law(scores, structures), structures)


def covariance(scores: Tensor, structures: Tensor) -> Tensor:
    """Cov(y, y) ``(*batch, *event, *event)``: the Jacobian of the marginals."""
    p, y = law(scores, structures), structures.flatten(1).double()
    centred = y - mean(p, y).unsqueeze(-2)
    out = (centred * p.unsqueeze(-1)).mT @ centred
    return out.reshape(*p.shape[:-1], *structures.shape[1:], *structures.shape[1:])


def entropy(scores: Tensor, structures: Tensor) -> Tensor:
    """-sum p log p ``(*batch,)``; a structure of probability zero adds zero."""
    return torch.special.entr(law(scores, structures)).sum(-1)


def best(scores: Tensor, structures: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score ``(*batch,)`` and its structure ``(*batch, *event)``, the first in the list among equals."""
    values = totals(scores, structures)
    largest = values.amax(-1)
    first = (values == largest.unsqueeze(-1)).byte().argmax(-1)
    return largest, structures[first]


def sinkhorn(scores: Tensor, tau: float, steps: int = 10_000) -> Tensor:
    """The matrix exp(scores / tau + a row's number + a column's number) whose rows and columns sum to 1 ``(n, n)``: the
    logs of the sums are taken off in turn, until no entry moves."""
    x = scores.double() / tau
    for _ in range(steps):
        before = x
        x = x - x.logsumexp(0, keepdim=True)
        x = x - x.logsumexp(1, keepdim=True)
        if (x - before).abs().max() < 1e-14:
            break
    return x.exp()


def neural_sort(scores: Tensor, tau: float) -> Tensor:
    """Row i is softmax(((n - 1 - 2 i) scores_j - sum_k |scores_j - scores_k|) / tau) over j ``(n, n)``, i from 0."""
    s = scores.double().tolist()
    spread = [math.fsum(abs(a - b) for b in s) for a in s]
    rows = [[((len(s) - 1 - 2 * i) * a - d) / tau for a, d in zip(s, spread, strict=True)] for i in range(len(s))]
    return torch.softmax(torch.tensor(rows, dtype=torch.float64), -1)


def soft_sort(scores: Tensor, tau: float) -> Tensor:
    """Row i is softmax(-|the i-th largest score - scores_j| / tau) over j ``(n, n)``."""
    s = scores.double().tolist()
    rows = [[-abs(a - b) / tau for b in s] for a in sorted(s, reverse=True)]
    return torch.softmax(torch.tensor(rows, dtype=torch.float64), -1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half of sum |p - q| over the last dimension."""
    return (p - q).abs().sum(-1) / 2


def catalan(n: int) -> int:
    return math.comb(2 * n, n) // (n + 1)


def place(structure: Sequence[tuple[int, ...]], structures: Tensor) -> int:
    """Where a structure, given as the places of its parts, stands in a list."""
    wanted = indicators([structure], tuple(structures.shape[1:]))
    found = (structures == wanted).flatten(1).all(-1).nonzero()
    assert found.numel() == 1
    return int(found)
