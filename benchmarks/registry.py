"""What is measured: operations at sizes, and the ratios wanted. To add a benchmark, add a line here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from . import diffusion, sequences, structures, tables, tokens
from .ops import OPS, Op
from .peers import (
    ALIAS,
    ARGPARTITION,
    CATEGORICAL,
    F_GUMBEL_SOFTMAX,
    LOG_EXPONENTIAL,
    LOGSUMEXP,
    MULTINOMIAL_MANY,
    OUR_MAX,
    OUR_NOISE,
    OURS_IN_FLOAT32,
    PEERS,
    RACE,
    SEARCHSORTED,
    SEARCHSORTED_MANY,
    SEARCHSORTED_SORTED,
    Peer,
)
from .problem import Size


@dataclass(frozen=True)
class Target:
    """The fastest of the peers ``against`` (empty: of all that can be had) should take at least ``at_least`` times as
    long as we do, with these ``kernels`` (empty: with all)."""

    against: tuple[str, ...]
    at_least: float
    kernels: tuple[str, ...] = ()

    def holds(self, kernels: str) -> bool:
        return not self.kernels or kernels in self.kernels

    def __str__(self) -> str:
        if len(self.against) == 1:
            return self.against[0]
        return f"the fastest of {', '.join(self.against) or 'all others'}"


@dataclass(frozen=True)
class Case:
    """One line of the results: an operation at a size, its peers, the ratios wanted."""

    op: Op
    size: Size
    targets: tuple[Target, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.op.name}, {self.size}"

    @property
    def peers(self) -> list[Peer]:
        return PEERS[self.op.name]


LONG = [Size((64, 32_000)), Size((8, 128_256)), Size((1, 4_000_000))]
SHORT = [Size((4096, 128)), Size((30_000, 10))]
SMALL = [Size((100, 30, 10)), Size((10,))]
HALF = Size((64, 32_000), dtype=torch.bfloat16)
DOUBLE = [Size((64, 32_000), dtype=torch.float64), Size((30_000, 10), dtype=torch.float64)]
HALF_LONG = Size((8, 128_256), dtype=torch.bfloat16)
LLADA = Size((16, 126_464), dtype=torch.bfloat16)
REQUESTS = Size((64, 128_256))
POPULATION = 10_000_000


Wanted = dict[str | tuple[str, ...], float | dict[str, float]]


def _cases(op: str, sizes: Iterable[Size], wanted: Wanted | None = None) -> list[Case]:
    """``wanted``: of a peer, or of the fastest of some, the ratio; or the ratio for each of some instruction sets."""
    targets: list[Target] = []
    for names, ratios in (wanted or {}).items():
        against = (names,) if isinstance(names, str) else names
        if isinstance(ratios, dict):
            targets += [Target(against, ratio, (kernels,)) for kernels, ratio in ratios.items()]
        else:
            targets.append(Target(against, ratios))
    return [Case(OPS[op], size, tuple(targets)) for size in sizes]


CASES: list[Case] = [
    *_cases("noise", [Size((4_000_000,))], {LOG_EXPONENTIAL: 15}),
    *_cases("noise", [Size((4_000_000,), dtype=torch.bfloat16)]),
    *_cases("categorical", LONG, {CATEGORICAL: 80, LOGSUMEXP: 1, SEARCHSORTED: 10}),
    *_cases("categorical", SHORT, {CATEGORICAL: 20}),
    *_cases("categorical", [HALF, HALF_LONG]),
    *_cases(
        "categorical, many draws",
        [Size((1_000_000,), draws=1_000_000), Size((1_000,), draws=100_000)],
        {(ALIAS, SEARCHSORTED_MANY, SEARCHSORTED_SORTED, MULTINOMIAL_MANY): 2},
    ),
    *_cases("gumbel_max", [*LONG, *SHORT], {RACE: 15}),
    *_cases("gumbel_max", [HALF]),
    *_cases("categorical, float64", DOUBLE, {OURS_IN_FLOAT32: 0.25}),
    *_cases("gumbel_max, float64", DOUBLE, {OURS_IN_FLOAT32: 0.25}),
    *_cases("gumbel_topk", [Size((64, 32_000), k=50), Size((1, 4_000_000), k=1000)]),
    *_cases("gumbel_topk", [Size((30_000, 10), k=3)], {OUR_MAX: 0.333}),
    *_cases(
        "gumbel_topk, float64",
        [Size((64, 32_000), k=50, dtype=torch.float64), Size((30_000, 10), k=3, dtype=torch.float64)],
        {OURS_IN_FLOAT32: 0.25},
    ),
    *_cases("sample_without_replacement", [Size((POPULATION,), k=k) for k in (10, 1000)], {ARGPARTITION: 20}),
    *_cases("sample_without_replacement", [Size((POPULATION,), k=100_000)], {ARGPARTITION: 3}),
    *_cases("gumbel_softmax", LONG[:1], {F_GUMBEL_SOFTMAX: 15}),
    *_cases("gumbel_softmax", LONG[1:2], {F_GUMBEL_SOFTMAX: {"v4": 15}}),
    *_cases("gumbel_softmax", LONG[2:], {F_GUMBEL_SOFTMAX: {"v4": 15, "v3": 12}}),
    *_cases("gumbel_softmax", SHORT[:1], {F_GUMBEL_SOFTMAX: 15}),
    *_cases("gumbel_softmax", SHORT[1:], {F_GUMBEL_SOFTMAX: {"v4": 15, "v3": 12}}),
    *_cases("gumbel_softmax", SMALL, {F_GUMBEL_SOFTMAX: 1}),
    *_cases("gumbel_softmax", [HALF]),
    *_cases("gumbel_softmax + backward", [*LONG, *SHORT]),
    *_cases("gumbel_softmax + backward", SMALL, {F_GUMBEL_SOFTMAX: 1}),
    *_cases("gumbel_softmax hard + backward", [*LONG, *SHORT], {F_GUMBEL_SOFTMAX: 8}),
    *_cases("gumbel_softmax hard + backward", SMALL, {F_GUMBEL_SOFTMAX: 1}),
    *_cases("gumbel_softmax hard + backward", [HALF]),
    *_cases("posterior_gumbel", [LONG[0]], {OUR_NOISE: 0.5}),
    *_cases("posterior_gumbel", SHORT[:1]),
    *_cases("posterior_gumbel", SHORT[1:], {OUR_MAX: 0.333}),
    *_cases("posterior_gumbel, float64", DOUBLE, {OURS_IN_FLOAT32: 0.25}),
    *_cases(sequences.SCORES, [Size((126_464,), k=1000)], {sequences.WHOLE_VOCABULARY: 1000}),
    *_cases(sequences.BEAMS, [Size((50_257,), k=k) for k in (10, 50)], {sequences.FORMULA: 2}),
    *_cases(tokens.PEAKED, [REQUESTS], {tokens.WARPERS: 20, tokens.SORTED: 20, tokens.PLAIN: 0.2}),
    *_cases(tokens.FLAT, [REQUESTS], {tokens.WARPERS: 20, tokens.PLAIN: 0.2}),
    *_cases(tokens.KEYED, [REQUESTS], {tokens.HASHED: 20}),
    *_cases(tokens.KEYED_LIMITS, [REQUESTS]),
    *_cases(diffusion.DRAW, [LLADA], {diffusion.LLADA: 20}),
    *_cases(diffusion.STEP, [LLADA], {diffusion.LLADA: 10}),
    *_cases(structures.TREE, [Size((128, 45))], {structures.NETWORKX: 80, structures.SCIPY: 80}),
    *_cases(structures.TREE, [Size((128, 435)), Size((16, 4950))]),
    *_cases(structures.MATRIX_TREE, [Size((128, 45)), Size((1024, 45)), Size((128, 435))], {structures.SLOGDET: 6}),
    *_cases(structures.ARBORESCENCE, [Size((128, 10, 10))]),
    *_cases(structures.ARBORESCENCE, [Size((128, n, n)) for n in (20, 40)], {structures.UFAL: 5}),
    *_cases(
        structures.VITERBI,
        [Size((32, 39, 20, 20)), Size((256, 19, 5, 5)), Size((32, 99, 50, 50))],
        {structures.TORCH_VITERBI: 8},
    ),
    *_cases(
        structures.SUBSET,
        [Size((128, 45), k=9), Size((128, 400), k=10), Size((16, 1000), k=50)],
        {structures.NUMPY_SUBSET: 5},
    ),
    *_cases(tables.RESERVOIR, [Size((POPULATION,), k=k) for k in (1000, 100_000)], {tables.DUCKDB: 1.5}),
    *_cases(tables.SCATTERED, [Size((POPULATION,), k=k) for k in (1000, 100_000)], {tables.DUCKDB: 1.5}),
    *_cases(tables.FILE, [Size((POPULATION,), k=1000)], {tables.READ: 0.834, tables.DUCKDB: 1.5}),
    *_cases(tables.WHOLE_FILE, [Size((POPULATION,), k=1000)]),
    *_cases(tables.ORDER, [Size((POPULATION,), k=1_000_000)], {tables.MULTINOMIAL: 1.5}),
    *_cases(tables.BUCKET, [Size((POPULATION,), k=1_000_000)], {tables.MULTINOMIAL: 1.5}),
]


def select(only: Iterable[str]) -> list[Case]:
    """The cases whose name contains one of the words; all of them where there are no words."""
    words = list(only)
    return [case for case in CASES if not words or any(word in case.name for word in words)]
