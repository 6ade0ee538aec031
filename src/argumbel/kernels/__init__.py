"""The operations everything else is made of. Each takes any tensor, on any device, under any transform, and answers
``(*outputs, bad)``; ``README.md`` is the noise contract, and the table of operations and backends.

One file an idea (``noise``, ``race``, ``softmax``, ``sigmoid``, ``posterior``, ``law``, ``linear``, ``arrivals``,
``sums``, ``subset``, ``tree``, ``truncation``), with the same name here, where the reference in plain PyTorch is, and
in ``cpu/`` and ``triton/``.
``in_a_row.py`` goes along items one by one, in plain PyTorch alone. ``operator.py`` says how a call is made,
``dispatch.py`` which backend runs it. ``hash.py`` makes ids of strings.
"""

from .arborescence import arborescence
from .arrivals import arrivals
from .chain import chain_log_partition, chain_marginals, viterbi
from .dispatch import Key, SeedOnly, explain, use
from .gibbs import LOWEST, gibbs, is_impossible
from .hash import xxh64
from .in_a_row import best_subset, correlated_log_partition, correlated_marginals, sample_subset
from .law import LAW_RACES, categorical, sample_without_replacement
from .linear import linear_categorical, linear_gumbel_max
from .matching import assignment, greedy_matching, usable_pairs
from .noise import keyed_noise, work_dtype
from .operator import Operator
from .posterior import posterior_gumbel
from .race import gumbel_max, gumbel_topk
from .sigmoid import gumbel_sigmoid
from .sinkhorn import sinkhorn
from .softmax import gumbel_softmax
from .spans import bracketing, greedy_bracketing, projective
from .subset import subset_log_partition, subset_marginals
from .sums import exact_sums
from .tree import (
    both_ways,
    spanning_tree,
    spanning_tree_log_partition,
    spanning_tree_marginals,
    tree_log_partition,
    tree_marginals,
)
from .truncation import Limits, Terms, limited_categorical, tempered, tempered_max, truncation

__all__ = [
    "LAW_RACES",
    "LOWEST",
    "Key",
    "Limits",
    "Operator",
    "SeedOnly",
    "Terms",
    "arborescence",
    "arrivals",
    "assignment",
    "best_subset",
    "both_ways",
    "bracketing",
    "categorical",
    "chain_log_partition",
    "chain_marginals",
    "correlated_log_partition",
    "correlated_marginals",
    "exact_sums",
    "explain",
    "gibbs",
    "greedy_bracketing",
    "greedy_matching",
    "gumbel_max",
    "gumbel_sigmoid",
    "gumbel_softmax",
    "gumbel_topk",
    "is_impossible",
    "keyed_noise",
    "limited_categorical",
    "linear_categorical",
    "linear_gumbel_max",
    "posterior_gumbel",
    "projective",
    "sample_subset",
    "sample_without_replacement",
    "sinkhorn",
    "spanning_tree",
    "spanning_tree_log_partition",
    "spanning_tree_marginals",
    "subset_log_partition",
    "subset_marginals",
    "tempered",
    "tempered_max",
    "tree_log_partition",
    "tree_marginals",
    "truncation",
    "usable_pairs",
    "use",
    "viterbi",
    "work_dtype",
    "xxh64",
]
