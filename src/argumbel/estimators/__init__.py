"""Differentiate: how does the expected loss move with the logits?

Every estimator is one function with one signature: ``est(f, logits, *, num_samples, ..., noise, generator)``. The
result has the batch shape of f's losses. Its value is the loss at discrete samples; its gradient is the estimate.
"""

from collections.abc import Callable

from torch import Tensor

# antithetic pairs of two items, and swaps of many
from ._binary import arm, arsm, disarm

# relaxed control variates of the score function
from ._control_variates import rebar, relax

# all outcomes
from ._enumeration import exact

# how good is each estimator on a problem of yours
from ._quality import Report, ReportRow, report

# f is differentiated at (or near) the samples: biased, low variance
from ._relaxed import (
    decoupled_straight_through,
    gapped_straight_through,
    gumbel_rao,
    gumbel_softmax,
    gumbel_straight_through,
    reinmax,
    softmax_straight_through,
)

# the score function: f may be a black box
from ._score_function import reinforce, reinforce_loo, stratified, vimco

# structured choices: trees, matchings, any solver
from ._structured import implicit_mle, trace_reinforce, trace_relax

# choices of k items
from ._subset import subset_reinforce, subset_straight_through

# the score function without drawing an outcome twice
from ._without_replacement import sum_and_sample, unordered_set

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
    "rebar": rebar,
    "gumbel_softmax": gumbel_softmax,
    "softmax_straight_through": softmax_straight_through,
    "gumbel_straight_through": gumbel_straight_through,
    "gumbel_rao": gumbel_rao,
    "reinmax": reinmax,
    "gapped_straight_through": gapped_straight_through,
    "decoupled_straight_through": decoupled_straight_through,
}
"""Every estimator of the gradient of ``E f(z)``, z one-hot, by its name. Not in it are: `vimco`, which estimates
another quantity (an importance-weighted bound); `subset_reinforce` and `subset_straight_through`, which draw k-hot z;
`trace_reinforce`, `trace_relax` and `implicit_mle`, which draw structures; and `relax`, which needs a control variate
of yours."""

__all__ = [
    "ESTIMATORS",
    "Report",
    "ReportRow",
    "arm",
    "arsm",
    "decoupled_straight_through",
    "disarm",
    "exact",
    "gapped_straight_through",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_straight_through",
    "implicit_mle",
    "rebar",
    "reinforce",
    "reinforce_loo",
    "reinmax",
    "relax",
    "report",
    "softmax_straight_through",
    "stratified",
    "subset_reinforce",
    "subset_straight_through",
    "sum_and_sample",
    "trace_reinforce",
    "trace_relax",
    "unordered_set",
    "vimco",
]
