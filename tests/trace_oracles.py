"""Every way a race for a structure can go, step by step, with its probability, scores and exact variances in float64.

Item i has an arrival time E_i ~ Exp(exp(x_i)). In each step some items race, the first to arrive wins, and the wait
M_s ~ Exp(sum of exp(x) over the racing items) is taken off the times of all that raced. So the steps are choices one
after another, P = prod_s exp(x[winner]) / sum of exp(x) over the items of the step, whatever the structure.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .structure_oracles import components, edges, indicators

Winners = Sequence[int]


@dataclass(frozen=True)
class Race:
    """Which items race next, given the winners so far (none: the race is over), and the structure that the winners
    make. Items are places in the flattened event."""

    event: tuple[int, ...]
    racing: Callable[[Winners], list[int]]
    structure: Callable[[Winners], Tensor]


class Traces(NamedTuple):
    """Every run of a race: winners ``(count, steps)``, -1 after the end; items racing ``(count, steps, *event)``; and
    the structures made ``(count, *structure)``."""

    chosen: Tensor
    alive: Tensor
    structures: Tensor


@functools.cache
def topk(n: int, k: int) -> Race:
    """Plackett-Luce: k of n items, one after another, all that are left race; the structure is their set ``(n,)``."""
    return Race(
        (n,),
        lambda winners: [i for i in range(n) if i not in winners] if len(winners) < k else [],
        lambda winners: indicators([[(i,) for i in winners]], (n,))[0],
    )


@functools.cache
def plackett_luce(n: int) -> Race:
    """All n items, one after another; the structure is the number of items that each item beats ``(n,)``."""
    return Race(
        (n,),
        topk(n, n).racing,
        lambda winners: torch.tensor([n - 1 - list(winners).index(item) for item in range(n)]),
    )


@functools.cache
def kruskal(n: int) -> Race:
    """Spanning tree: the edges between different components race; the structure is ``(n (n - 1) / 2,)``."""
    all_edges = edges(n)

    def racing(winners: Winners) -> list[int]:
        label = components(n, [all_edges[e] for e in winners])
        return [e for e, (u, v) in enumerate(all_edges) if label[u] != label[v]]

    return Race((len(all_edges),), racing, lambda winners: indicators([[(e,) for e in winners]], (len(all_edges),))[0])


@functools.cache
def crossing(n: int, m: int) -> Race:
    """Greedy matching ``(n, m)``: all entries race, and the row and the column of a winner are crossed out."""

    def racing(winners: Winners) -> list[int]:
        rows, columns = {w // m for w in winners}, {w % m for w in winners}
        return [i * m + j for i, j in itertools.product(range(n), range(m)) if i not in rows and j not in columns]

    return Race((n, m), racing, lambda winners: indicators([[divmod(w, m) for w in winners]], (n, m))[0])


def among(solutions: Tensor) -> Race:
    """A pair races as long as some structure of a list ``(count, *event)``, bool, has it and the winners so far."""
    flat = solutions.flatten(1)

    def racing(winners: Winners) -> list[int]:
        left = flat[flat[:, list(winners)].all(-1)].any(0)
        return [i for i in left.nonzero().flatten().tolist() if i not in winners]

    def structure(winners: Winners) -> Tensor:
        made = torch.zeros(flat.shape[1], dtype=torch.bool)
        made[list(winners)] = True
        return made.reshape(solutions.shape[1:])

    return Race(tuple(solutions.shape[1:]), racing, structure)


@functools.cache
def splits(n: int) -> Race:
    """Binary bracketing of n leaves: the n - 1 gaps race, gap i between the leaves i and i + 1; the winner splits the
    span, then the gaps to its left race, then the gaps to its right. The structure is ``(n, n)``, entry [i, j] the span
    of the leaves i..j. This is the binary tree of Struminsky et al. (2021): one trace a tree."""

    def spans(winners: Winners) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
        """The spans split so far, and the next to split."""
        done, waiting = [], [(0, n - 1)]
        for winner in winners:
            i, j = waiting.pop()
            done.append((i, j))
            waiting += [(a, b) for a, b in ((winner + 1, j), (i, winner)) if a < b]
        return done, waiting[-1] if waiting and n > 1 else None

    def racing(winners: Winners) -> list[int]:
        following = spans(winners)[1]
        return list(range(*following)) if following else []

    return Race((n - 1,), racing, lambda winners: indicators([spans(winners)[0]], (n, n))[0])


@functools.cache
def nesting(n: int) -> Race:
    """Binary bracketing of n leaves ``(n, n)``, entry [i, j] the span of the leaves i..j: all spans race but the span
    of all leaves, and those that cross a winner leave. It has as many traces a tree as its spans have orders."""
    leaves = range(n)
    proper = [(i, j) for i, j in itertools.combinations(leaves, 2) if (i, j) != (0, n - 1)]

    def racing(winners: Winners) -> list[int]:
        done = [divmod(w, n) for w in winners]
        return [
            i * n + j
            for i, j in proper
            if all(j < a or b < i or a <= i < j <= b or i <= a < b <= j for a, b in done) and (i, j) not in done
        ]

    all_leaves = [(0, n - 1)] if n > 1 else []
    return Race(
        (n, n), racing, lambda winners: indicators([[*(divmod(w, n) for w in winners), *all_leaves]], (n, n))[0]
    )


class Block:
    """A node, or a cycle of blocks contracted to one; its edge is the (u, v) that enters it."""

    def __init__(self, nodes: Iterable[int], inside: Iterable[Block] = ()) -> None:
        self.nodes, self.inside = frozenset(nodes), list(inside)
        self.edge: tuple[int, int] | None = None

    def heads(self, entering: tuple[int, int]) -> dict[int, int]:
        """The head of each node when this edge enters: it replaces the edge of the block inside that it leads to."""
        if not self.inside:
            return {entering[1]: entering[0]}
        out: dict[int, int] = {}
        for block in self.inside:
            assert block.edge is not None
            out |= block.heads(entering if entering[1] in block.nodes else block.edge)
        return out


@functools.cache
def contraction(n: int, root: int = 0, single_root: bool = False) -> Race:
    """Arborescence ``(n, n)`` by Chu, Liu and Edmonds: the edges into a node race; a cycle of winners becomes one node,
    and the edges into it race again. The node of the lowest number without a winner goes first (any order has the same
    steps). It solves for the least total arrival time, which is not the largest total of Gumbel values. With a single
    root its edges race only where no other edge does; this solves for nothing."""

    def contract(winners: Winners) -> tuple[list[Block], Block | None]:
        """The blocks, and the next whose edges race."""
        blocks = [Block([v]) for v in range(n)]

        def following() -> Block | None:
            waiting = [b for b in blocks if not b.edge and root not in b.nodes]
            return min(waiting, key=lambda b: min(b.nodes)) if waiting else None

        for winner in winners:
            first = following()
            assert first is not None
            first.edge = (winner // n, winner % n)
            path = [first]
            while edge := path[-1].edge:
                above = next(b for b in blocks if edge[0] in b.nodes)
                if above is first:
                    whole = Block(frozenset().union(*(b.nodes for b in path)), path)
                    blocks = [*(b for b in blocks if b not in path), whole]
                    break
                path.append(above)
        return blocks, following()

    def racing(winners: Winners) -> list[int]:
        block = contract(winners)[1]
        if not block:
            return []
        pairs = [(u, v) for u in range(n) for v in range(n) if u not in block.nodes and v in block.nodes]
        if single_root and any(u != root for u, _ in pairs):
            pairs = [(u, v) for u, v in pairs if u != root]
        return [u * n + v for u, v in pairs]

    def structure(winners: Winners) -> Tensor:
        heads: dict[int, int] = {}
        for block in contract(winners)[0]:
            heads |= block.heads(block.edge) if block.edge else {}
        return indicators([[(u, v) for v, u in heads.items()]], (n, n))[0]

    return Race((n, n), racing, structure)


def runs(race: Race, winners: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """The winners of every run that starts with these winners."""
    racing = race.racing(winners)
    if not racing:
        yield winners
    for winner in racing:
        yield from runs(race, (*winners, winner))


@functools.cache
def traces(race: Race) -> Traces:
    """Every run of a race; a shorter run is filled up with steps in which nothing races."""
    all_runs = list(runs(race))
    steps = max(map(len, all_runs))
    chosen = torch.full((len(all_runs), steps), -1)
    alive = torch.zeros(len(all_runs), steps, math.prod(race.event), dtype=torch.bool)
    for run, winners in enumerate(all_runs):
        for step, winner in enumerate(winners):
            chosen[run, step] = winner
            alive[run, step, race.racing(winners[:step])] = True
    structures = torch.stack([race.structure(winners) for winners in all_runs])
    return Traces(chosen, alive.unflatten(-1, race.event), structures)


def replay(race: Race, values: Tensor) -> tuple[int, ...]:
    """The winners of the race when the perturbed values -log E are these ``event``; ties go to the lowest item."""
    times = (-values.double()).exp().flatten()
    winners: tuple[int, ...] = ()
    while racing := race.racing(winners):
        winner = min(racing, key=lambda i: (float(times[i]), i))
        assert times[winner].isfinite(), "nothing that races is allowed"
        times[racing] -= times[winner].clone()
        winners = (*winners, winner)
    return winners


def values_given(scores: Tensor, every: Traces, run: int, count: int, generator: torch.Generator) -> Tensor:
    """Perturbed values -log E given that the race went like this run ``(count, *event)``, for scores ``event``: E_i is
    the sum of the waits of its steps, and of a wait of its own if it never won."""
    weights = scores.double().flatten().exp()
    never_won = ~won(every)[run]

    def exponential(rate: Tensor) -> Tensor:
        return torch.empty(count, *rate.shape, dtype=torch.float64).exponential_(generator=generator) / rate

    times = torch.where(never_won, exponential(weights), 0.0)
    for winner, alive in zip(every.chosen[run], every.alive[run].flatten(1), strict=True):
        if winner >= 0:
            times += torch.where(alive, exponential(weights[alive].sum()).unsqueeze(-1), 0.0)
    return -times.log().unflatten(-1, every.alive.shape[2:])


def log_shares(scores: Tensor, every: Traces) -> Tensor:
    """The log of each item's chance to win each step ``(*batch, count, steps, items)``; NaN if all that race are
    forbidden, and without meaning after the end."""
    event = every.alive.dim() - 2
    x = scores.double().flatten(-event)[..., None, None, :]
    outside = ~every.alive.flatten(2) & (every.chosen >= 0).unsqueeze(-1)
    return torch.log_softmax(x.masked_fill(outside, -torch.inf), -1)


def shares(scores: Tensor, every: Traces) -> Tensor:
    """Each item's chance to win each step ``(*batch, count, steps, items)``; zero if it does not race."""
    return torch.where(every.alive.flatten(2), log_shares(scores, every).exp(), 0.0).nan_to_num(0.0)


def log_prob(scores: Tensor, every: Traces) -> Tensor:
    """log P of every trace ``(*batch, count)``, from scores ``(*batch, *event)``: -inf if it uses a forbidden item."""
    logs = log_shares(scores, every)
    chosen = every.chosen.clamp(min=0).unsqueeze(-1).expand(*logs.shape[:-1], 1)
    each = logs.gather(-1, chosen).squeeze(-1).nan_to_num(-torch.inf, neginf=-torch.inf)
    return torch.where(every.chosen >= 0, each, 0.0).sum(-1)


def law(scores: Tensor, every: Traces) -> Tensor:
    """P of every trace ``(*batch, count)``. The sum is below 1 where a race can end among forbidden items."""
    return log_prob(scores, every).exp()


def orders(scores: Tensor, every: Traces) -> dict[tuple[int, ...], float]:
    """P of the winners of every trace, in their order; scores ``event``."""
    p = law(scores, every).tolist()
    return {tuple(i for i in row if i >= 0): q for row, q in zip(every.chosen.tolist(), p, strict=True)}


def law_of_structures(scores: Tensor, every: Traces, structures: Tensor) -> Tensor:
    """P that the race makes each structure of a list ``(*batch, len(structures))``."""
    same = (every.structures.flatten(1).unsqueeze(1) == structures.flatten(1)).all(-1)
    assert (same.sum(-1) == 1).all()
    return law(scores, every) @ same.double()


def inclusion(scores: Tensor, every: Traces) -> Tensor:
    """The probability that the structure made uses a part ``(*batch, *structure)``."""
    return torch.tensordot(law(scores, every), every.structures.double(), 1)


def won(every: Traces) -> Tensor:
    """Whether an item wins a step ``(count, items)``."""
    items = torch.arange(every.alive.flatten(2).shape[-1])
    return (every.chosen.unsqueeze(-1) == items).any(-2)


def trace_score(scores: Tensor, every: Traces) -> Tensor:
    """d log P(trace) / dx ``(*batch, count, items)``: the item won, less its chance to win in each step."""
    return won(every).double() - shares(scores, every).sum(-2)


def structure_score(scores: Tensor, every: Traces) -> Tensor:
    """d log P(structure) / dx ``(*batch, count, items)``: the mean of the trace score over the orders that make
    the same structure. An impossible structure has score 0."""
    _, inverse = every.structures.flatten(1).unique(dim=0, return_inverse=True)
    same = (inverse.unsqueeze(-1) == inverse).double()
    p = law(scores, every).unsqueeze(-1)
    return (same @ (p * trace_score(scores, every)) / (same @ p)).nan_to_num(0.0)


def noise_moment(scores: Tensor, every: Traces) -> Tensor:
    """E[nu nu^T | trace] ``(*batch, count, items, items)`` of the noise score nu_i = 1 - exp(x_i) E_i.

    Given the trace, E_i = sum over its steps of M_s + [it never won] Exp(exp(x_i)), all independent: the mean of nu is
    the trace score, and its covariance is sum_s share_si share_sj + [i = j never won]. An item that is forbidden or
    never races has nu = 0.
    """
    event = every.alive.dim() - 2
    share, score = shares(scores, every), trace_score(scores, every)
    raced = every.alive.flatten(2).any(1).any(0) & (scores.flatten(-event) > -torch.inf).unsqueeze(-2)
    alone = torch.diag_embed((raced & ~won(every)).double())
    return score.unsqueeze(-1) * score.unsqueeze(-2) + share.mT @ share + alone


def noise_square(scores: Tensor, every: Traces) -> Tensor:
    """E[|nu|^2 | trace] ``(*batch, count)``."""
    return noise_moment(scores, every).diagonal(dim1=-2, dim2=-1).sum(-1)


def jacobian(p: Tensor, values: Tensor, score: Tensor) -> Tensor:
    """E[values score^T] ``(*values' event, items)`` for traces of probability p: the derivative of E values."""
    return torch.einsum("t,ta,ti->ai", p, values.double().reshape(len(values), -1), score).reshape(
        *values.shape[1:], -1
    )


def total_variance(
    p: Tensor, values: Tensor, score: Tensor, square: Tensor | None = None, baseline: Tensor | float = 0.0
) -> Tensor:
    """The variances of the entries of (values - baseline) score^T, summed, for one trace drawn with probabilities p.

    values ``(count, *any)`` are what is estimated: structures for their Jacobian, f for its gradient. score ``(count,
    items)`` is the mean of the score given the trace. square ``(count,)`` is the mean of its |score|^2: by default that
    of the mean, and ``noise_square`` for the noise score.
    """
    square = score.square().sum(-1) if square is None else square
    centred = (values.double() - baseline).reshape(len(values), -1)
    return (p * centred.square().sum(-1) * square).sum() - jacobian(p, centred, score).square().sum()


def implicit_mle(
    x: Tensor, g: Tensor, strength: float, *, symmetric: bool = False, common: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean ``(n,)`` and total variance of (z(x + G) - z(x - strength g + G')) / strength for a one-hot z = argmax and
    Gumbel noise, G' = G if common. symmetric: (z(x + strength g + G) - z(x - strength g + G')) / (2 strength)."""
    upper, lower = x + strength * g * symmetric, x - strength * g
    p, q = torch.softmax(upper, -1), torch.softmax(lower, -1)
    # Both are i with probability 1 / sum_k max(p_k / p_i, q_k / q_i) under common noise; if not, |z - z'|^2 is 2.
    both = 1 / torch.maximum(p / p[:, None], q / q[:, None]).sum(-1) if common else p * q
    scale = strength * (1 + symmetric)
    mean = (p - q) / scale
    return mean, 2 * (1 - both.sum()) / scale**2 - mean.square().sum()


def assignment_of_two(x: Tensor) -> Tensor:
    """P that the best assignment of a perturbed 2 by 2 matrix is the identity, x = x_00 + x_11 - x_01 - x_10: the sum
    of two independent logistic numbers is at most x."""
    x = x.double()
    far = x.expm1()
    return torch.where(x.abs() < 1e-3, 0.5 + x / 6, x.exp() * (far - x) / far.square())
