"""Differentiate: how does the expected loss move with the logits?

Every estimator is one function with one signature, ``est(f, logits, *, num_samples, generator, noise, ...)``. What it
returns has the batch shape of f's losses; its value is the loss at discrete samples, its gradient the estimate.
"""

from collections.abc import Callable

from torch import Tensor

# antithetic pairs of two items, and swaps of many
from .binary import arm, arsm, disarm

# all outcomes
from .enumeration import exact

# the score function: f may be a black box
from .score_function import reinforce, reinforce_loo, stratified, vimco

# choices of k items
from .subset import subset_reinforce

# the score function without drawing an outcome twice
from .without_replacement import sum_and_sample, unordered_set

ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "exact": exact,
    "reinforce": reinforce,
    "reinforce_loo": reinforce_loo,
    "stratified": stratified,
    "sum_and_sample": sum_and_sample,
    "unordered_set": unordered_set,
    "arm": arm,
    "disarm": disarm,
    "arsm": arsm,
}
"""Every estimator of the gradient of ``E f(z)``, z one-hot, by its name. Missing are those of another quantity: `vimco`
(an importance-weighted bound), `subset_reinforce` (z is k-hot)."""

__all__ = [
    "ESTIMATORS",
    "arm",
    "arsm",
    "disarm",
    "exact",
    "reinforce",
    "reinforce_loo",
    "stratified",
    "subset_reinforce",
    "sum_and_sample",
    "unordered_set",
    "vimco",
]
