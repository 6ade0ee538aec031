"""Random discrete choices in PyTorch: the Gumbel tricks. A choice is the argmax of logits plus Gumbel noise; every
function answers a question about that race.

Sample: who wins? who are the first k?
    categorical, gumbel_max, gumbel_topk, sample_without_replacement; linear_categorical, linear_gumbel_max and
    merge_winners of a linear layer; topk_log_prob, inclusion_probs and threshold_weights of what was drawn.
    Modules: choice, linear, subsets, lazy; data, for the order of a training set.

Relax: what if the winner may be soft?
    gumbel_softmax, gumbel_sigmoid, relaxed_topk, straight_through.
    Modules: relax, distributions, schedules, nn.

Differentiate: how does the expected loss move with the logits?
    Module: estimators.

Structures: trees, chains, subsets, matchings, rankings. The same questions: which one wins, what if it may be soft, how
does a loss move with the scores, what was the noise?
    perturbed_argmax, stochastic_softmax, trace_log_prob, posterior_gumbel_trace; perturbed and fenchel_young_loss of
    any solver.
    Modules: structures, perturbation.

Reverse: the winner is known; what was the noise? what would have won instead? what is Z?
    posterior_gumbel, posterior_gumbel_topk, counterfactual, log_partition, perturb_and_map, astar_sample.
    Modules: reverse, coupling, partition, astar.

Texts of language models, token by token: beams without replacement, watermarks, drafts, counterfactual texts.
    Module: sequences.

Rows of tables and streams, drawn by weight: the same race, in time.
    Module: tables.

Noise, the randomness of every race, is a pure function of a key:
    KeyedNoise, gumbel, truncated_gumbel.
    Modules: noise, kernels; plots draws pictures.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from torch.fx import wrap as _wrap

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

# structures: the solution of a discrete problem as a smooth function of its scores
from .perturbation import fenchel_young_loss, perturbed

# relax, differentiate: what if the winner may be soft
from .relax import gumbel_sigmoid, gumbel_softmax, relaxed_topk, straight_through

# reverse: the winner is known, what was the noise
from .reverse import posterior_gumbel, posterior_gumbel_topk

# structures: the best under noise, the relaxed one, and the race behind it
from .structures import perturbed_argmax, posterior_gumbel_trace, stochastic_softmax, trace_log_prob

# sample: how likely were the first k, and what do they stand for
from .subsets import inclusion_probs, threshold_weights, topk_log_prob

if _TYPE_CHECKING:
    from . import data, distributions, estimators, kernels, lazy, nn, plots, schedules, sequences, tables

__version__ = "0.1.0"

# In the order of the verbs, as above.
__all__ = [  # noqa: RUF022
    "categorical",
    "gumbel_max",
    "gumbel_topk",
    "sample_without_replacement",
    "linear_categorical",
    "linear_gumbel_max",
    "merge_winners",
    "topk_log_prob",
    "inclusion_probs",
    "threshold_weights",
    "gumbel_softmax",
    "gumbel_sigmoid",
    "relaxed_topk",
    "straight_through",
    "posterior_gumbel",
    "posterior_gumbel_topk",
    "counterfactual",
    "log_partition",
    "perturb_and_map",
    "astar_sample",
    "perturbed_argmax",
    "stochastic_softmax",
    "perturbed",
    "fenchel_young_loss",
    "trace_log_prob",
    "posterior_gumbel_trace",
    "KeyedNoise",
    "gumbel",
    "truncated_gumbel",
    "choice",
    "linear",
    "subsets",
    "lazy",
    "data",
    "relax",
    "distributions",
    "schedules",
    "nn",
    "estimators",
    "reverse",
    "coupling",
    "partition",
    "astar",
    "noise",
    "kernels",
    "plots",
    "structures",
    "perturbation",
    "sequences",
    "tables",
]


# torch.fx.symbolic_trace records a call of any of these as one node, as it does for PyTorch's own functions.
for _name in __all__[: __all__.index("KeyedNoise")]:
    _wrap(_name)


def __getattr__(name: str) -> _Any:
    """Submodules are imported when they are first asked for."""
    if name in __all__:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
