"""Matchings: the best one, the greedy one, and which pairs some matching has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .concrete import concrete

__all__ = ["assignment", "greedy_matching", "usable_pairs"]

# --- the best matching -----------------------------------------------------------------------------------------------


def _solver() -> Callable[..., Any]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError(
            "the best matching needs SciPy, which is not installed: pip install 'argumbel[structures]'"
        ) from error
    return linear_sum_assignment


def _assignment(x: Tensor) -> tuple[Tensor]:
    solve = _solver()
    matrices = x.detach().cpu().reshape(x.shape[:-2].numel(), *x.shape[-2:])
    found = torch.zeros(matrices.shape, dtype=torch.bool)
    for scores, matching in zip(matrices.numpy(), found.numpy(), strict=True):
        try:
            rows, columns = solve(scores, maximize=True)
        except ValueError:  # no matching is left, so any one uses a forbidden pair
            rows = columns = range(min(scores.shape))
        matching[rows, columns] = True
    return (found.reshape(x.shape).to(x.device),)


_assignments = concrete("assignment(Tensor x) -> Tensor", _assignment, lambda x: x.new_empty(x.shape, dtype=torch.bool))


def assignment(x: Tensor) -> Tensor:
    """The matching with the largest sum of x, float64 ``(*batch, n, m)`` without NaN and +inf: bool, in the shape of x.
    Where -inf leaves no matching, one that uses a pair of -inf."""
    return _assignments(x)[0]


# --- one matrix, its rows as the bits of integers --------------------------------------------------------------------


class _Pairs:
    """The pairs that are left of a matrix with no more rows than columns, and a matching that has a column for each
    row.

    Attributes:
        left: of each row, the columns that it may have, as bits.
        column: of each row, its column; -1 for none.
        owner: of each column, its row; -1 for none.
    """

    def __init__(self, allowed: list[list[bool]]) -> None:
        self.left = [sum(1 << j for j, a in enumerate(row) if a) for row in allowed]
        self.column = [-1] * len(allowed)
        self.owner = [-1] * len(allowed[0])
        self.is_feasible = all(self._find_column(i) for i in range(len(allowed)))

    def _find_column(self, start: int) -> bool:
        """Give a row a column, for which other rows may have to take another one."""
        seen, taker, queue = 0, {}, [start]
        for i in queue:
            new = self.left[i] & ~seen
            seen |= new
            for j in _bits(new):
                taker[j] = i
                if self.owner[j] >= 0:
                    queue.append(self.owner[j])
                    continue
                while True:
                    i = taker[j]
                    self.owner[j], self.column[i], j = i, j, self.column[i]
                    if i == start:
                        return True
        return False

    def take(self, i: int, j: int) -> None:
        """Row i and column j leave, as a pair that :meth:`usable` has. The other rows go on having columns."""
        other, freed = self.owner[j], self.column[i]
        self.owner[freed] = self.column[i] = -1
        self.owner[j] = -1
        self.left = [0 if k == i else row & ~(1 << j) for k, row in enumerate(self.left)]
        if other != i and other >= 0:
            self.column[other] = -1
            self._find_column(other)

    def usable(self) -> list[int]:
        """Of each row, the columns that it has in some matching of the rows that are left; and one number more, the
        columns that some matching leaves free.

        Another matching differs by cycles, in each of which rows hand on their columns: row i may take the column of a
        row k if k can get the column of i in the end. Columns without a row belong to one node more, which takes any.
        """
        n = len(self.left)
        free = sum(1 << j for j, i in enumerate(self.owner) if i < 0)
        owned = [0 if j < 0 else 1 << j for j in self.column]
        reach = [sum(1 << k for k in range(n) if row & owned[k]) | (1 << n if row & free else 0) for row in self.left]
        reach.append((1 << n + 1) - 1)
        for k in range(n + 1):
            through = reach[k]
            reach = [r | through if r >> k & 1 else r for r in reach]
        found = []
        for i, row in enumerate([*self.left, -1]):
            columns = free
            for k in range(n):
                if k == i or reach[k] >> i & 1:
                    columns |= owned[k]
            found.append(row & columns)
        return found


def _bits(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


# --- pairs that some matching has ------------------------------------------------------------------------------------


def _usable(allowed: Tensor) -> tuple[Tensor, Tensor]:
    n, m = allowed.shape[-2:]
    flat = allowed.reshape(allowed.shape[:-2].numel(), n, m)
    found, spare = flat.clone(), flat.new_full((len(flat), m), n < m)
    for row in (~flat.flatten(1).all(-1)).nonzero().squeeze(-1).tolist():
        pairs = _Pairs(flat[row].tolist())
        columns = pairs.usable() if pairs.is_feasible else [0] * (n + 1)
        usable = torch.tensor([[bool(bits >> j & 1) for j in range(m)] for bits in columns], device=flat.device)
        found[row], spare[row] = usable[:-1], usable[-1]
    return found.reshape(allowed.shape), spare.reshape(*allowed.shape[:-2], m)


_usable_pairs = concrete(
    "usable_pairs(Tensor allowed) -> (Tensor, Tensor)",
    _usable,
    lambda allowed: (allowed.new_empty(allowed.shape), allowed.new_empty((*allowed.shape[:-2], allowed.shape[-1]))),
)


def usable_pairs(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs some matching of allowed pairs has, bool ``(*batch, n, m)``, n <= m; and which columns some matching
    leaves free, ``(*batch, m)``. All False where there is no matching."""
    usable, spare = _usable_pairs(allowed)
    return usable, spare


# --- the greedy matching ---------------------------------------------------------------------------------------------


def _greedy(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, m = x.shape[-2:]
    flat = x.reshape(x.shape[:-2].numel(), n * m)
    order = flat.sort(dim=-1, descending=True, stable=True).indices
    rank = order.argsort(-1).reshape(-1, n, m)
    step_of_row, step_of_column = rank.new_full((len(rank), n), n + m), rank.new_full((len(rank), m), n + m)
    winners = []
    for step in range(min(n, m)):
        winner = rank.flatten(1).argmin(-1, keepdim=True)
        i, j = winner // m, winner % m
        step_of_row, step_of_column = step_of_row.scatter(-1, i, step), step_of_column.scatter(-1, j, step)
        crossed = (step_of_row <= step).unsqueeze(-1) | (step_of_column <= step).unsqueeze(-2)
        rank = rank.masked_fill(crossed, n * m)
        winners.append(winner)
    chosen = torch.cat(winners, -1)
    rounds = (torch.minimum(step_of_row.unsqueeze(-1), step_of_column.unsqueeze(-2)) + 1).clamp(max=min(n, m))
    for row in (flat == -torch.inf).any(-1).nonzero().squeeze(-1).tolist():
        found = _greedy_with_foresight(flat[row].reshape(n, m), order[row].tolist())
        if found is not None:
            chosen[row], rounds[row] = (part.to(x.device) for part in found)
    made = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, chosen, True)
    return made.reshape(x.shape), chosen.reshape(*x.shape[:-2], -1), rounds.reshape(x.shape)


def _greedy_with_foresight(x: Tensor, order: list[int]) -> tuple[Tensor, Tensor] | None:
    """The winners of one matrix, and in how many steps each pair could win; None: there is no matching."""
    n, m = x.shape
    tall = n > m
    pairs = _Pairs(((x.T if tall else x) > -torch.inf).tolist())
    if not pairs.is_feasible:
        return None
    chosen: list[int] = []
    rounds = torch.zeros(n, m, dtype=torch.int64)
    usable = pairs.usable()
    for number in order:
        i, j = divmod(number, m)[:: -1 if tall else 1]
        if not usable[i] >> j & 1:  # from now on it never is
            continue
        chosen.append(number)
        pairs.take(i, j)
        before, usable = usable, pairs.usable()
        for row in range(len(pairs.left)):
            for column in _bits(before[row] & ~usable[row]):
                rounds[(column, row) if tall else (row, column)] = len(chosen)
    return torch.tensor(chosen), rounds


def _greedy_outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = x.new_empty((*x.shape[:-2], min(x.shape[-2:])), dtype=torch.int64)
    return x.new_empty(x.shape, dtype=torch.bool), chosen, x.new_empty(x.shape, dtype=torch.int64)


#: ``greedy_matching(x) -> (matching, chosen, rounds)``, x float64 ``(*batch, n, m)`` without NaN: the largest pair that
#: some matching has wins, its row and its column leave, and so on. ``chosen`` are the numbers of the pairs in this
#: order; ``rounds`` is in how many steps a pair could have won. Of equal pairs the first counts as the larger one.
#: Where -inf leaves no matching, one that uses a pair of -inf.
greedy_matching = concrete("greedy_matching(Tensor x) -> (Tensor, Tensor, Tensor)", _greedy, _greedy_outputs)
