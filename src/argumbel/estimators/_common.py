"""What all estimators share: drawing, calling f, telling batch from factors, giving a value another gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits, count, raise_bad_logits
from .._core.elementwise import log_softmax
from ..choice import gumbel_max
from ..noise import KeyedNoise, work_dtype

__all__ = [
    "Loss",
    "above_others",
    "call",
    "check_pairs",
    "check_problem",
    "draw",
    "factor_dims",
    "joint_log_prob",
    "one_hot",
    "sum_factors",
    "with_gradient",
]

Loss = Callable[[Tensor], Tensor]
"""One-hot samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape ``(num_samples, *batch)``."""


def check_problem(f: Loss, logits: Tensor, num_samples: int, least: int = 1) -> int:
    """Check the arguments that every estimator takes; num_samples as an int."""
    if not callable(f):
        raise TypeError(
            f"f must be a function of one-hot samples, but it is a {type(f).__name__}; pass a function that maps "
            "samples to losses"
        )
    check_logits(logits)
    check_dim(logits, -1)
    num_samples = count("num_samples", num_samples, least=least)
    largest = logits.detach().amax(-1)
    if can_raise(largest) and not bool(largest.isfinite().all()):
        raise_bad_logits(logits.detach(), logits.ndim - 1)
    return num_samples


def draw(
    logits: Tensor, num_samples: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None
) -> Tensor:
    """Independent one-hot samples, shape ``(num_samples, *batch, *factors, n)``: winners of logits + Gumbel noise."""
    x = logits.detach().expand(num_samples, *logits.shape)
    return one_hot(gumbel_max(x, noise=noise, generator=generator).indices, logits)


def one_hot(index: Tensor, logits: Tensor) -> Tensor:
    """One-hot vectors in the dtype of logits; NaN for index -1, which marks a bad row."""
    won = index.unsqueeze(-1) == torch.arange(logits.shape[-1], device=index.device)
    return won.to(logits.dtype).masked_fill((index < 0).unsqueeze(-1), torch.nan)


def check_pairs(num_samples: int) -> None:
    if num_samples % 2:
        raise ValueError(
            f"num_samples must be even, for antithetic pairs, but it is {num_samples}; pass {num_samples + 1}"
        )


def call(f: Loss, samples: Tensor, logits: Tensor) -> Tensor:
    """``f(samples)``, checked: shape ``(len(samples), *batch)``, batch a leading part of ``logits.shape[:-1]``.

    The losses are float32 at least, so that what is computed from them does not round as half precision does.
    """
    loss = f(samples)
    if not isinstance(loss, Tensor) or not loss.dtype.is_floating_point:
        what = loss.dtype if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TypeError(
            f"f must return a floating tensor of losses, but it returned {what}; return a tensor, made floating by "
            ".float()"
        )
    expected = (len(samples), *logits.shape[:-1])
    if loss.ndim == 0 or tuple(loss.shape) != expected[: loss.ndim]:
        raise ValueError(
            f"f must return one loss per sample, shape {expected} or that without some of the last dimensions (the "
            f"factors of one joint choice, summed), but it returned the shape {tuple(loss.shape)} for samples of shape "
            f"{tuple(samples.shape)}; sum over the last dimensions only"
        )
    return loss.to(work_dtype(loss.dtype))


def above_others(loss: Tensor) -> Tensor:
    """``loss[s] - mean of the other losses``, along the first dimension of two or more; without a gradient."""
    return (loss - loss.mean(0)).detach() * (len(loss) / (len(loss) - 1))


def factor_dims(f: Loss, logits: Tensor, factors: int | None) -> int:
    """How many dimensions of logits before the last are factors of one joint choice; None calls f on one sample."""
    if factors is None:
        with torch.no_grad():
            mode = one_hot(logits.detach().argmax(-1), logits).unsqueeze(0)
            return logits.ndim - call(f, mode, logits).ndim
    return count("factors", factors, most=logits.ndim - 1, of="the number of dimensions of logits before the last, ")


def sum_factors(x: Tensor, loss: Tensor) -> Tensor:
    """x of shape ``(num_samples, *batch, *factors)``, summed to the shape ``(num_samples, *batch)`` of loss."""
    return x.reshape(*loss.shape, math.prod(x.shape[loss.ndim :])).sum(-1)


def joint_log_prob(logits: Tensor, samples: Tensor, loss: Tensor) -> Tensor:
    """``log p(sample)``, summed over the factors, in the shape of loss; a forbidden item gets no gradient, not NaN."""
    log_p = log_softmax(logits.to(work_dtype(logits.dtype)))
    return sum_factors(torch.where(samples > 0, log_p, 0).sum(-1), loss)


def with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """value; its gradient is its own plus the gradient of surrogate. The bracket is exactly zero."""
    return value + (surrogate - surrogate.detach())
