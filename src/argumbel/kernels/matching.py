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
            "SciPy must be installed for the best matching, but it is not; pip install 'argumbel[structures]'"
        ) from error
    return linear_sum_assignment


def _assignment(x: Tensor) -> tuple[Tensor]:
    solve = _solver()
    matrices = x.detach().cpu().reshape(x.shape[:-2].numel(), *x.shape[-2:])
    found = torch.zeros(matrices.shape, dtype=torch.bool, device="cpu")
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
        takers: of each column, the rows that may have it, as bits.
        column: of each row, its column; -1 for none.
        owner: of each column, its row; -1 for none.
    """

    def __init__(self, allowed: list[list[bool]]) -> None:
        self.left = [sum(1 << j for j, a in enumerate(row) if a) for row in allowed]
        self.takers = [sum(1 << i for i, a in enumerate(column) if a) for column in zip(*allowed, strict=True)]
        self.column = [-1] * len(self.left)
        self.owner = [-1] * len(self.takers)
        self.is_feasible = all(self._find_column(i) for i in range(len(self.left)))

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
        for k in _bits(self.takers[j]):
            self.left[k] &= ~(1 << j)
        for k in _bits(self.left[i]):
            self.takers[k] &= ~(1 << i)
        self.takers[j] = self.left[i] = 0
        if other != i and other >= 0:
            self.column[other] = -1
            self._find_column(other)

    def usable(self) -> list[int]:
        """Of each row, the columns that it has in some matching of the rows that are left; and one number more, the
        columns that some matching leaves free.

        Another matching differs by circles of rows that hand on their columns. So a row may have the columns of its
        block: of the rows that can get its column in the end, and whose columns it can get. Columns without a row
        belong to a row more, which may have any.
        """
        n = len(self.left)
        free = sum(1 << j for j, i in enumerate(self.owner) if i < 0)
        waiting = sum(1 << i for i, j in enumerate(self.column) if j >= 0) | (1 << n if free else 0)
        found = [0] * (n + 1)
        while waiting:
            first = next(_bits(waiting))
            block = self._whose_columns(first, waiting, free) & self._who_gets_the_column(first, waiting, free)
            columns = free if block >> n else 0
            for i in _bits(block & (1 << n) - 1):
                columns |= 1 << self.column[i]
            for i in _bits(block):
                found[i] = columns & (self.left[i] if i < n else -1)
            waiting &= ~block
        return found

    def _whose_columns(self, first: int, waiting: int, free: int) -> int:
        """The rows whose columns this row can get, if rows hand on their columns."""
        reached, queue, seen = 1 << first, [first], 0
        for i in queue:
            new = self.left[i] & ~seen if i < len(self.left) else free
            if new & free:
                return waiting
            seen |= new
            for j in _bits(new):
                k = self.owner[j]
                if waiting & ~reached & 1 << k:
                    reached |= 1 << k
                    queue.append(k)
        return reached

    def _who_gets_the_column(self, first: int, waiting: int, free: int) -> int:
        """The rows that can get the column of this row, if rows hand on their columns."""
        n = len(self.left)
        reached, queue = 1 << first, [first]
        for i in queue:
            if i < n:
                takers = self.takers[self.column[i]] | 1 << n
            else:
                takers = 0
                for j in _bits(free):
                    takers |= self.takers[j]
            new = takers & waiting & ~reached
            reached |= new
            queue.extend(_bits(new))
        return reached


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
    left = flat.clone()
    rows = torch.arange(len(flat), device=x.device)
    row_gone, column_gone = (rows.new_full((len(flat), size), n + m) for size in (n, m))  # in which step
    winners = []
    for step in range(min(n, m)):
        winner = left.argmax(-1)
        i, j = winner // m, winner % m
        row_gone[rows, i], column_gone[rows, j] = step, step
        left.view(-1, n, m)[rows, i] = -torch.inf
        left.view(-1, n, m)[rows, :, j] = -torch.inf
        winners.append(winner)
    chosen = torch.stack(winners, -1)
    rounds = (torch.minimum(row_gone.unsqueeze(-1), column_gone.unsqueeze(-2)) + 1).clamp(max=min(n, m))
    for row in (flat == -torch.inf).any(-1).nonzero().squeeze(-1).tolist():
        found = _greedy_with_foresight(flat[row].reshape(n, m)) or _any_matching(n, m)
        chosen[row], rounds[row] = (part.to(x.device) for part in found)
    made = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, chosen, True)
    return made.reshape(x.shape), chosen.reshape(*x.shape[:-2], min(n, m)), rounds.reshape(x.shape)


def _any_matching(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.arange(min(n, m), device="cpu") * (m + 1), torch.ones(n, m, dtype=torch.int64, device="cpu")


def _greedy_with_foresight(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The winners of one matrix, and in how many steps each pair could win; None: there is no matching."""
    n, m = x.shape
    tall = n > m
    pairs = _Pairs(((x.T if tall else x) > -torch.inf).tolist())
    if not pairs.is_feasible:
        return None
    chosen: list[int] = []
    rounds = torch.zeros(n, m, dtype=torch.int64, device="cpu")
    usable = pairs.usable()
    for number in x.flatten().sort(descending=True, stable=True).indices.tolist():
        i, j = divmod(number, m)[:: -1 if tall else 1]
        if not usable[i] >> j & 1:  # from now on it never is
            continue
        chosen.append(number)
        pairs.take(i, j)
        before, usable = usable, pairs.usable()
        for row in range(len(pairs.left)):
            for column in _bits(before[row] & ~usable[row]):
                rounds[(column, row) if tall else (row, column)] = len(chosen)
    return torch.tensor(chosen, device="cpu"), rounds


def _greedy_outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = x.new_empty((*x.shape[:-2], min(x.shape[-2:])), dtype=torch.int64)
    return x.new_empty(x.shape, dtype=torch.bool), chosen, x.new_empty(x.shape, dtype=torch.int64)


#: ``greedy_matching(x) -> (matching, chosen, rounds)``, x float64 ``(*batch, n, m)`` without NaN: the largest pair that
#: some matching has wins, its row and its column leave, and so on. ``chosen`` are the numbers of the pairs in this
#: order; ``rounds`` is in how many steps a pair could have won. Of equal pairs the first counts as the larger one.
#: Where -inf leaves no matching, one that uses a pair of -inf.
greedy_matching = concrete("greedy_matching(Tensor x) -> (Tensor, Tensor, Tensor)", _greedy, _greedy_outputs)
