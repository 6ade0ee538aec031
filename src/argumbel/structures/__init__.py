"""Structured choices: trees, chains, subsets, matchings, rankings. Their parts have scores, noise is added to the
scores, and the best structure wins the race."""

from ._arborescence import Arborescence
from ._base import Prepared, Structure, check_structure, detached, prepare
from ._binary_tree import BinaryTree
from ._chain import BestSequence, Chain, chain_scores
from ._correlated_subset import CorrelatedSubset
from ._matching import Matching
from ._noise import flat, part_noise
from ._one_hot import OneHot
from ._projective_tree import ProjectiveTree
from ._ranking import Ranking, neural_sort, soft_sort
from ._subset import Subset
from ._trace import Trace, posterior_gumbel_trace, trace_log_prob
from ._tree import SpanningTree
from ._verbs import PerturbedArgmax, perturbed_argmax, stochastic_softmax

__all__ = [
    "Arborescence",
    "BestSequence",
    "BinaryTree",
    "Chain",
    "CorrelatedSubset",
    "Matching",
    "OneHot",
    "PerturbedArgmax",
    "ProjectiveTree",
    "Ranking",
    "SpanningTree",
    "Structure",
    "Subset",
    "Trace",
    "chain_scores",
    "neural_sort",
    "perturbed_argmax",
    "posterior_gumbel_trace",
    "soft_sort",
    "stochastic_softmax",
    "trace_log_prob",
]
