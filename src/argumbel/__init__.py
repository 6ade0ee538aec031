"""argumbel: random discrete choices. A choice is the argmax of logits plus Gumbel noise; everything here is a question
about that race."""

# noise: the race's randomness, as a pure function of a key
# sample: who wins, who are the first k
from .choice import categorical, gumbel_max, gumbel_topk, sample_without_replacement
from .noise import KeyedNoise, gumbel, truncated_gumbel

# relax, differentiate: what if the winner may be soft
from .relax import gumbel_sigmoid, gumbel_softmax, relaxed_topk, straight_through

__version__ = "0.1.0"

__all__ = [
    "KeyedNoise",
    "categorical",
    "gumbel",
    "gumbel_max",
    "gumbel_sigmoid",
    "gumbel_softmax",
    "gumbel_topk",
    "relaxed_topk",
    "sample_without_replacement",
    "straight_through",
    "truncated_gumbel",
]
