"""Reverse: what is Z? The partition function from perturbed maxima, and bounds on it from a MAP solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._core.checks import can_raise, check_logits
from .noise import KeyedNoise, draw_like, work_dtype

__all__ = ["Estimate", "PerturbAndMAP", "log_partition", "perturb_and_map"]

EULER = 0.5772156649015329
APERY = 1.2020569031595942  # zeta(3)

# The exponent alpha of each method; None where the caller names it.
METHODS: dict[str, float | None] = {
    "gumbel": 0.0,
    "exponential": 1.0,
    "weibull": None,
    "frechet": None,
    "unbiased-log-z": 1.0,
    "unbiased-z": 1.0,
}
# Between these the formula for general alpha loses more to rounding than its limit at 0 (value, variance) is off.
TINY, SMALL = 1e-8, 1e-4


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: Tensor
    stderr: Tensor


class PerturbAndMAP(NamedTuple):
    """Assignments that solve perturbed models, and the bounds on log Z they give."""

    samples: Tensor
    upper: Estimate
    lower: Estimate


def log_partition(maxima: Tensor, *, method: str = "exponential", alpha: float | None = None, dim: int = 0) -> Estimate:
    """``(lgamma(1 + alpha) - log(mean(exp(-alpha * maxima)))) / alpha``: log Z from M independent maxima of
    ``logits + Gumbel noise``.

    Such a maximum is a Gumbel at log Z, so ``exp(-maximum)`` is an exponential of rate Z, and any of its moments tells
    Z:

    | method | estimate of log Z | bias | variance |
    | --- | --- | --- | --- |
    | ``"gumbel"`` | mean(m) - 0.5772 (alpha -> 0) | 0 | pi^2 / 6M |
    | ``"exponential"`` | log M - log sum exp(-m) (alpha = 1) | log M - psi(M) | psi_1(M) |
    | ``"weibull"`` | as above, alpha > 0 | O(1/M) | v(alpha) / M + O(1/M^2) |
    | ``"frechet"`` | as above, -1/2 < alpha < 0 | O(1/M) | v(alpha) / M + O(1/M^2) |
    | ``"unbiased-log-z"`` | psi(M) - log sum exp(-m) | 0 | psi_1(M) |
    | ``"unbiased-z"`` | log of Z = (M - 1) / sum exp(-m) | 0 for Z | psi_1(M) |

    psi and psi_1 are the digamma and trigamma functions, ``v(alpha) = (Gamma(1 + 2 alpha) / Gamma(1 + alpha)^2 - 1) /
    alpha^2``, with its minimum 1 at alpha = 1. ``sum exp(-m)`` is a complete sufficient statistic, so no unbiased
    estimate of log Z has less variance than ``"unbiased-log-z"``, and none of Z less than ``"unbiased-z"``; their cost
    is the same as that of the others.

    Args:
        maxima: M independent perturbed maxima along ``dim`` (the values of :func:`argumbel.gumbel_max`); any other
            dimensions, any floating dtype. Computed in float64.
        method: a row of the table.
        alpha: the exponent of ``"weibull"`` and ``"frechet"``, and of no other.
        dim: where the M maxima lie.

    Returns:
        ``(value, stderr)`` in the shape of maxima without ``dim`` and in its dtype. ``stderr`` is the root of the
        variance above, known before any maximum is drawn: exact, but for alpha neither 0 nor 1 of first order in 1/M.
        The value is differentiable in maxima.

    Raises:
        ValueError: an unknown method, an alpha missing, out of range or where none belongs, no maxima (or only one,
            for ``"unbiased-z"``), maxima that are not finite (value NaN where they may not be looked at).
        TypeError: maxima are not a floating tensor, alpha is not a number.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.partition import log_partition
        >>> logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
        >>> maxima = ag.gumbel_max(logits.expand(10_000, 50), noise=ag.KeyedNoise(0)).values
        >>> value, stderr = log_partition(maxima)
        >>> bool((value - logits.logsumexp(0)).abs() < 4 * stderr)
        True

    Source: Balog, Tripuraneni, Ghahramani and Weller 2017, "Lost relatives of the Gumbel trick".
    """
    check_logits(maxima, "maxima")
    if not -maxima.ndim <= dim < maxima.ndim:
        raise ValueError(
            f"dim must be in [{-maxima.ndim}, {maxima.ndim - 1}] for maxima of shape {tuple(maxima.shape)}, "
            f"but it is {dim}"
        )
    count, least = maxima.shape[dim], 2 if method == "unbiased-z" else 1
    alpha = _exponent(method, alpha)
    if count < least:
        raise ValueError(
            f"maxima must number at least {least} along dim {dim} for method={method!r}, but there are {count}"
        )
    m = maxima.double()
    finite = m.isfinite().all(dim)
    if can_raise(finite) and not bool(finite.all()):
        raise ValueError(
            "maxima must be finite, but some are not; where nothing is allowed there is no maximum, and log Z is -inf"
        )
    if abs(alpha) < TINY:
        value = m.mean(dim) - EULER
    else:
        value = (math.lgamma(1 + alpha) + math.log(count) - torch.logsumexp(-alpha * m, dim)) / alpha
    number = torch.full((), count, dtype=torch.float64, device=m.device)
    if method == "unbiased-log-z":
        value = value + number.digamma() - number.log()
    elif method == "unbiased-z":
        value = value + torch.log1p(-1 / number)
    stderr = _variance(alpha, number).sqrt().expand_as(value)
    return Estimate(*(x.masked_fill(~finite, torch.nan).to(maxima.dtype) for x in (value, stderr)))


def _exponent(method: str, alpha: float | None) -> float:
    """The exponent of a method, after the checks of both."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, but it is {method!r}")
    known = METHODS[method]
    if known is not None:
        if alpha is not None:
            raise ValueError(f"alpha belongs to 'weibull' and 'frechet', but method is {method!r}; leave it out")
        return known
    if alpha is None:
        raise ValueError(f"alpha must be given for method={method!r}; alpha=1 is the exponential trick, 0 the Gumbel")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"alpha must be a number, but it is a {type(alpha).__name__}; pass float(alpha)")
    if method == "weibull" and not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive for method='weibull', but it is {alpha}; 'frechet' is for negative")
    if method == "frechet" and not -0.5 < alpha < 0:
        raise ValueError(
            f"alpha must lie between -1/2 and 0 for method='frechet', but it is {alpha}; its variance would be infinite"
        )
    return float(alpha)


def _variance(alpha: float, number: Tensor) -> Tensor:
    """The variance of the estimate from so many maxima; exact at 0 and 1, else by the delta method."""
    if alpha == 1:
        return torch.special.polygamma(1, number)
    if abs(alpha) < SMALL:
        return (math.pi**2 / 6 - 2 * APERY * alpha) / number
    gammas = math.lgamma(1 + 2 * alpha) - 2 * math.lgamma(1 + alpha)
    return torch.full_like(number, gammas).expm1() / alpha**2 / number


def perturb_and_map(
    score: Callable[[Tensor], Tensor],
    solver: Callable[[Tensor], Tensor],
    unary: Tensor,
    num_samples: int,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> PerturbAndMAP:
    """``E max_x (score(x) + sum_i g_i(x_i) / n) <= log Z <= E max_x (score(x) + sum_i g_i(x_i))``, with centred Gumbel
    noise g for every state of each of n variables.

    A *keyed* function. Noise for every assignment x would make the maximum a Gumbel at log Z and its place a sample of
    ``exp(score(x)) / Z``. With noise for single variables only, which any MAP solver can take, the maxima bound log Z
    and the places are approximate samples. Both bounds hold in expectation, for any model. With a solver that falls
    short of the maximum the lower bound still holds, the upper one need not.

    Args:
        score: the score of assignments: int64 of shape ``(num_samples, *batch, n)`` to a tensor of shape
            ``(num_samples, *batch)``. It includes the unary scores. May have parameters that want gradients.
        solver: from unary scores, perturbed, of shape ``(num_samples, *batch, n, states)`` to the best assignment of
            each, integers of shape ``(num_samples, *batch, n)``, where everything but the unary scores is the solver's
            own. Called twice, without gradients.
        unary: ``(*batch, n, states)``, the unary scores of the model; -inf forbids a state.
        num_samples: how many perturbed models, at least 2.
        noise: a tensor of standard (not centred) Gumbel noise of shape ``(num_samples, *unary.shape)``, or a
            ``KeyedNoise``. Both bounds use the same.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(samples, upper, lower)``: int64 assignments of shape ``(num_samples, *batch, n)``, those of the upper bound;
        and two pairs ``(value, stderr)`` of shape ``batch`` in the dtype of unary, stderr being the sample standard
        deviation over the root of ``num_samples``. The gradient of a value is that of the mean score of its
        assignments, an unbiased estimate of the gradient of the expected bound.

    Raises:
        ValueError: NaN or +inf in unary, a variable without an allowed state, fewer than 2 samples, noise of the wrong
            shape, both noise and generator; results of solver or score of the wrong shape, states that do not exist or
            are forbidden, scores that are not finite (where values may not be looked at these become NaN).
        TypeError: unary is not a floating tensor, assignments are not integers, scores are not floating.

    Example:
        >>> import itertools, torch, argumbel as ag
        >>> from argumbel.partition import perturb_and_map
        >>> fields = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 0.5]])  # three spins on a ring that like to agree
        >>> every = torch.tensor(list(itertools.product([0, 1], repeat=3)))
        >>> agree = lambda x: (x == x.roll(1, -1)).sum(-1)
        >>> score = lambda x: fields[torch.arange(3), x].sum(-1) + agree(x)
        >>> def solver(unary):  # all assignments; unary has shape (num_samples, 3, 2)
        ...     return every[(unary[:, torch.arange(3), every].sum(-1) + agree(every)).argmax(-1)]
        >>> samples, upper, lower = perturb_and_map(score, solver, fields, 1000, noise=ag.KeyedNoise(0))
        >>> bool(lower.value < score(every).logsumexp(0) < upper.value)
        True

    Source: Papandreou and Yuille 2011, "Perturb-and-MAP random fields"; Hazan and Jaakkola 2012, "On the partition
    function and random maximum a-posteriori perturbations" (upper bound); Hazan, Maji and Jaakkola 2013, "On sampling
    from the Gibbs distribution with random maximum a-posteriori perturbations" (lower bound).
    """
    check_logits(unary, "unary")
    if unary.ndim < 2 or 0 in unary.shape[-2:]:
        raise ValueError(
            f"unary must have the shape (*batch, variables, states), but its shape is {tuple(unary.shape)}"
        )
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise TypeError(f"num_samples must be an integer, but it is a {type(num_samples).__name__}")
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, for the standard errors, but it is {num_samples}")
    fields = unary.detach().to(work_dtype(unary.dtype)).expand(num_samples, *unary.shape)
    if can_raise(fields) and not bool((fields.amax(-1).abs() < torch.inf).all()):
        raise ValueError(
            "unary must not be NaN or +inf, and must allow at least one state of each variable, but some row does not"
        )
    g = draw_like(fields, fields.ndim - 1, noise, generator, "gumbel").detach()

    def bound(scale: float) -> tuple[Tensor, Estimate]:
        with torch.no_grad():
            x = _assignments(solver(fields + scale * g), fields)
        own = (g - EULER).gather(-1, x.unsqueeze(-1)).squeeze(-1).sum(-1)
        values = _scores(score(x), own) + scale * own
        allowed = fields.gather(-1, x.unsqueeze(-1)).squeeze(-1).isfinite().all(-1)
        sound = allowed & values.isfinite()
        if can_raise(values) and not bool(sound.all()):
            raise ValueError(
                "solver must return allowed assignments, and score must be finite there, but it is not so for all; "
                "compare score with an enumeration of a small model"
            )
        values = values.masked_fill(~sound, torch.nan)
        mean = values.mean(0)
        stderr = ((values - mean).detach().square().sum(0) / (num_samples * (num_samples - 1))).sqrt()
        return x, Estimate(mean.to(unary.dtype), stderr.to(unary.dtype))

    samples, upper = bound(1.0)
    _, lower = bound(1.0 / unary.shape[-2])
    return PerturbAndMAP(samples, upper, lower)


def _assignments(x: Tensor, fields: Tensor) -> Tensor:
    """What a solver returned, as int64; checked."""
    if not isinstance(x, Tensor) or x.dtype.is_floating_point or x.dtype.is_complex:
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"solver must return a tensor of integers, the states, but it returned {what}")
    if x.shape != fields.shape[:-1]:
        raise ValueError(
            f"solver must return assignments of shape {tuple(fields.shape[:-1])}, but their shape is {tuple(x.shape)}"
        )
    states = fields.shape[-1]
    if can_raise(x) and not bool(((x >= 0) & (x < states)).all()):
        raise ValueError(f"solver must return states between 0 and {states - 1}, but some are outside")
    return x.long()


def _scores(scores: Tensor, like: Tensor) -> Tensor:
    """What a score function returned, in at least the precision of the noise; checked."""
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        what = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"score must return a floating tensor, but it returned {what}")
    if scores.shape != like.shape:
        raise ValueError(
            f"score must return one number for each assignment, of shape {tuple(like.shape)}, but their shape is "
            f"{tuple(scores.shape)}"
        )
    return scores.to(torch.promote_types(scores.dtype, like.dtype))
