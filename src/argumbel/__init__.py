"""argumbel: random discrete choices. A choice is the argmax of logits plus Gumbel noise; everything here is a question
about that race."""

# relax: the relaxations as distributions. differentiate: how the expected loss moves with the logits
from . import distributions, estimators

# reverse: what is the integral of a density, and how to draw from it exactly
from .astar import astar_sample

# sample: who wins, who are the first k
from .choice import categorical, gumbel_max, gumbel_topk, sample_without_replacement

# reverse: what would have won under other logits
from .coupling import counterfactual

# sample: the same from a linear layer, its logits never written
from .linear import linear_categorical, linear_gumbel_max, merge_winners

# noise: the race's randomness, as a pure function of a key
from .noise import KeyedNoise, gumbel, truncated_gumbel

# reverse: what is Z
from .partition import log_partition, perturb_and_map

# relax, differentiate: what if the winner may be soft
from .relax import gumbel_sigmoid, gumbel_softmax, relaxed_topk, straight_through

# reverse: the winner is known, what was the noise
from .reverse import posterior_gumbel, posterior_gumbel_topk

# sample: how likely were the first k, and what do they stand for
from .subsets import inclusion_probs, threshold_weights, topk_log_prob

__version__ = "0.1.0"

__all__ = [
    "KeyedNoise",
    "astar_sample",
    "categorical",
    "counterfactual",
    "distributions",
    "estimators",
    "gumbel",
    "gumbel_max",
    "gumbel_sigmoid",
    "gumbel_softmax",
    "gumbel_topk",
    "inclusion_probs",
    "linear_categorical",
    "linear_gumbel_max",
    "log_partition",
    "merge_winners",
    "perturb_and_map",
    "posterior_gumbel",
    "posterior_gumbel_topk",
    "relaxed_topk",
    "sample_without_replacement",
    "straight_through",
    "threshold_weights",
    "topk_log_prob",
    "truncated_gumbel",
]
