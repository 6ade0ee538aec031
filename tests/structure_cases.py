"""Small problems of every structure, with all their solutions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from argumbel.structures import (
    Arborescence,
    BinaryTree,
    Chain,
    CorrelatedSubset,
    Matching,
    OneHot,
    ProjectiveTree,
    Ranking,
    SpanningTree,
    Structure,
    Subset,
)

from . import structure_oracles as oracles
from . import trace_oracles
from .trace_oracles import Race

__all__ = ["CASES", "RACES", "SUMS", "Case"]


class Case(NamedTuple):
    """A structure, all its solutions ``(count, *event)``, bool or int64, and its race, if it has one."""

    structure: Structure
    solutions: Tensor
    race: Race | None = None

    @property
    def event(self) -> tuple[int, ...]:
        return tuple(self.solutions.shape[1:])

    @property
    def parts(self) -> Tensor:
        """Where a solution may have a part."""
        return self.solutions.any(0)

    def scores(self, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*batch, *self.event, dtype=torch.float64).to(dtype)


CASES = {
    "one hot": Case(OneHot(), oracles.subsets(5, 1), trace_oracles.topk(5, 1)),
    "spanning tree, 4": Case(SpanningTree(4), oracles.spanning_trees(4), trace_oracles.kruskal(4)),
    "spanning tree, 5": Case(SpanningTree(5), oracles.spanning_trees(5)),
    "subset, 2 of 5": Case(Subset(2), oracles.subsets(5, 2), trace_oracles.topk(5, 2)),
    "correlated subset, 2 of 4": Case(CorrelatedSubset(2), oracles.correlated_subsets(4, 2)),
    "chain": Case(Chain(), oracles.sequences(4, 3)),
    "arborescence, 3": Case(Arborescence(3), oracles.arborescences(3), trace_oracles.contraction(3)),
    "arborescence, 4": Case(Arborescence(4, 2), oracles.arborescences(4, 2), trace_oracles.contraction(4, 2)),
    "arborescence, single root": Case(
        Arborescence(4, 1, True), oracles.arborescences(4, 1, True), trace_oracles.contraction(4, 1, True)
    ),
    "matching, 3 by 3": Case(Matching(), oracles.matchings(3, 3), trace_oracles.crossing(3, 3)),
    "matching, 2 by 4": Case(Matching(), oracles.matchings(2, 4), trace_oracles.crossing(2, 4)),
    "matching, 4 by 3": Case(Matching(), oracles.matchings(3, 4).mT),
    "ranking": Case(Ranking(), oracles.beaten(4), trace_oracles.plackett_luce(4)),
    "projective tree": Case(ProjectiveTree(), oracles.projective_trees(5)),
    "projective tree, single root": Case(ProjectiveTree(single_root=True), oracles.projective_trees(5, True)),
    "binary tree": Case(BinaryTree(), oracles.bracketings(5), trace_oracles.nesting(5)),
}

RACES = {name: case for name, case in CASES.items() if case.race is not None}
# Those whose sum over all solutions is known.
SUMS = {name: case for name, case in CASES.items() if case.structure.has_partition}
