"""Differentiate: how does the expected loss move with the logits?

Every estimator is one function with one signature, ``est(f, logits, *, num_samples, generator, noise, ...)``. What it
returns has the batch shape of f's losses; its value is the loss at discrete samples, its gradient the estimate.
"""

from collections.abc import Callable

from torch import Tensor

# exact: enumeration
from .exact import exact

ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "exact": exact,
}
"""Every estimator of ``E f(z)``, z one-hot, by its name."""

__all__ = [
    "ESTIMATORS",
    "exact",
]
