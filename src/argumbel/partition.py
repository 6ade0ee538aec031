"""Reverse: what is Z? The partition function from perturbed maxima, and bounds on it from a MAP solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._core.checks import can_raise, check_logits, count, one_of
from .noise import KeyedNoise, draw_like, work_dtype

__all__ = ["Estimate", "PerturbAndMAP", "log_partition", "perturb_and_map"]

EULER = 0.5772156649015329
APERY = 1.2020569031595942  # zeta(3)

# The exponent alpha of each method; None where the caller chooses it.
METHODS: dict[str, float | None] = {
    "gumbel": 0.0,
    "exponential": 1.0,
    "weibull": None,
    "frechet": None,
    "unbiased-log-z": 1.0,
    "unbiased-z": 1.0,
}
# For alpha nearer to 0 than this, rounding in the general formula costs more than the limit at alpha = 0 is off.
ZERO_FOR_VALUE, ZERO_FOR_VARIANCE = 1e-8, 1e-4


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: Tensor
    stderr: Tensor


class PerturbAndMAP(NamedTuple):
    """The best assignments of perturbed models, and the bounds on log Z from their maxima."""

    samples: Tensor
    upper: Estimate
    lower: Estimate


def log_partition(maxima: Tensor, *, method: str = "exponential", alpha: float | None = None, dim: int = 0) -> Estimate:
    """``(lgamma(1 + alpha) - log(mean(exp(-alpha * maxima)))) / alpha``: log Z from M independent maxima of
    ``logits + Gumbel noise``.

    Such a maximum is a Gumbel at log Z, so ``exp(-maximum)`` is an exponential of rate Z, and any moment of this
    exponential determines Z:

    | method | estimate of log Z | bias | variance |
    | --- | --- | --- | --- |
    | ``"gumbel"`` | mean(m) - 0.5772 (alpha -> 0) | 0 | pi^2 / 6M |
    | ``"exponential"`` | log M - log sum exp(-m) (alpha = 1) | log M - psi(M) | psi_1(M) |
    | ``"weibull"`` | the formula above, alpha > 0 | O(1/M) | v(alpha) / M + O(1/M^2) |
    | ``"frechet"`` | the formula above, -1/2 < alpha < 0 | O(1/M) | v(alpha) / M + O(1/M^2) |
    | ``"unbiased-log-z"`` | psi(M) - log sum exp(-m) | 0 | psi_1(M) |
    | ``"unbiased-z"`` | log of Z = (M - 1) / sum exp(-m) | 0 for Z | psi_1(M) |

    psi and psi_1 are the digamma and trigamma functions.
    ``v(alpha) = (Gamma(1 + 2 alpha) / Gamma(1 + alpha)^2 - 1) / alpha^2`` has its minimum, 1, at alpha = 1.
    ``sum exp(-m)`` is a complete sufficient statistic. So no unbiased estimate of log Z has less variance than
    ``"unbiased-log-z"``, and no unbiased estimate of Z less than ``"unbiased-z"``. All methods cost the same.

    Args:
        maxima: M independent perturbed maxima along ``dim``, such as the values of :func:`argumbel.gumbel_max`:
            ``(M, *batch)`` for ``dim=0``, any floating dtype. Computed in float64.
        method: a row of the table.
        alpha: the exponent of ``"weibull"`` (above 0) and of ``"frechet"`` (between -1/2 and 0). Other methods take
            none.
        dim: where the M maxima lie.

    Returns:
        ``(value, stderr)``, each ``(*batch,)``, in the dtype of maxima. ``stderr`` is the root of the variance in the
        table, known before any maximum is drawn: exact for alpha 0 and 1, of first order in 1/M for other alpha. The
        value is differentiable in maxima.

    Raises:
        ValueError: an unknown method; an alpha that is missing, out of range, or given to a method that takes none; no
            maxima (or only one, for ``"unbiased-z"``); maxima that are not finite. On an accelerator, under
            ``torch.compile`` and under ``vmap`` maxima that are not finite give NaN instead.
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
            f"but it is {dim}; pass the dimension of the M maxima"
        )
    number, least = maxima.shape[dim], 2 if method == "unbiased-z" else 1
    alpha = _exponent(method, alpha)
    if number < least:
        raise ValueError(
            f"maxima must number at least {least} along dim {dim} for method={method!r}, but there are {number}; draw "
            "more"
        )
    m = maxima.double()
    finite = m.isfinite().all(dim)
    if can_raise(finite) and not bool(finite.all()):
        raise ValueError(
            "maxima must be finite, but some are not; leave out rows in which nothing is allowed: their log Z is -inf"
        )
    # A tensor: for any number of maxima PyTorch 2.4 cannot compile math.log(number).
    m_count = torch.full((), number, dtype=torch.float64, device=m.device)
    if abs(alpha) < ZERO_FOR_VALUE:
        value = m.mean(dim) - EULER
    else:
        value = (math.lgamma(1 + alpha) + m_count.log() - torch.logsumexp(-alpha * m, dim)) / alpha
    if method == "unbiased-log-z":
        value = value + m_count.digamma() - m_count.log()
    elif method == "unbiased-z":
        value = value + torch.log1p(-1 / m_count)
    stderr = _variance(alpha, m_count).sqrt().expand_as(value)
    return Estimate(*(x.masked_fill(~finite, torch.nan).to(maxima.dtype) for x in (value, stderr)))


def _exponent(method: str, alpha: float | None) -> float:
    """The exponent of a method, after the checks of both."""
    one_of("method", method, METHODS)
    known = METHODS[method]
    if known is not None:
        if alpha is not None:
            raise ValueError(
                f"alpha must be left out unless method is 'weibull' or 'frechet', but method is {method!r} and "
                f"alpha is {alpha!r}; leave alpha out"
            )
        return known
    if alpha is None:
        raise ValueError(
            f"alpha must be a number for method={method!r}, but it is None; method='exponential' is alpha = 1, "
            "method='gumbel' is alpha = 0"
        )
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"alpha must be a number, but it is a {type(alpha).__name__}; pass float(alpha)")
    if method == "weibull" and not 0 < alpha < math.inf:
        raise ValueError(
            f"alpha must be positive and finite for method='weibull', but it is {alpha}; method='frechet' takes a "
            "negative alpha"
        )
    if method == "frechet" and not -0.5 < alpha < 0:
        raise ValueError(
            f"alpha must lie between -1/2 and 0 for method='frechet', but it is {alpha}; at -1/2 and below the "
            "variance is infinite"
        )
    return float(alpha)


def _variance(alpha: float, m_count: Tensor) -> Tensor:
    """The variance of the estimate from so many maxima: exact at alpha 0 and 1, by the delta method elsewhere."""
    if alpha == 1:
        return torch.special.polygamma(1, m_count)
    if abs(alpha) < ZERO_FOR_VARIANCE:
        return (math.pi**2 / 6 - 2 * APERY * alpha) / m_count
    gammas = math.lgamma(1 + 2 * alpha) - 2 * math.lgamma(1 + alpha)
    return torch.full_like(m_count, gammas).expm1() / alpha**2 / m_count


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

    A *keyed* function. With noise of its own for every assignment x, the maximum would be a Gumbel at log Z, and the
    assignment that attains it a sample of ``exp(score(x)) / Z``. But assignments are too many. With noise for the
    states of single variables only, which any MAP solver can take, the maxima bound log Z and the best assignments are
    approximate samples. Both bounds hold in expectation, for any model. If the solver falls short of the maximum, the
    lower bound still holds, and the upper bound may not hold.

    Args:
        score: a function from assignments, int64 ``(num_samples, *batch, n)``, to their scores, floating
            ``(num_samples, *batch)``. The scores include the unary scores. Parameters in the function get gradients.
        solver: a function from perturbed unary scores, ``(num_samples, *batch, n, states)``, to the best assignment
            for each, integers ``(num_samples, *batch, n)``. The solver has to know everything else about the model. It
            is called twice, without gradients.
        unary: the unary scores of the model, ``(*batch, n, states)``, any floating dtype; -inf forbids a state.
        num_samples: how many perturbed models, at least 2.
        noise: a tensor of standard (not centred) Gumbel noise, ``(num_samples, *batch, n, states)``, or a
            ``KeyedNoise``. Both bounds use the same noise.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(samples, upper, lower)``. Samples are the assignments of the upper bound, int64 ``(num_samples, *batch, n)``.
        Each bound is a pair ``(value, stderr)`` of shape ``(*batch,)`` in the dtype of unary; stderr is the sample
        standard deviation over the root of ``num_samples``. The gradient of a value is the gradient of the mean score
        of its assignments, an unbiased estimate of the gradient of the expected bound.

    Raises:
        ValueError: NaN or +inf in unary; a variable without an allowed state; fewer than 2 samples; noise of the wrong
            shape; both noise and generator; results of solver or score of the wrong shape; states that do not exist or
            are forbidden; scores that are not finite. On an accelerator, under ``torch.compile`` and under ``vmap``
            forbidden states and scores that are not finite give NaN instead.
        TypeError: unary is not a floating tensor, num_samples is not an integer, assignments are not integers, scores
            are not floating.

    Example:
        >>> import itertools, torch, argumbel as ag
        >>> from argumbel.partition import perturb_and_map
        >>> fields = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 0.5]])  # three spins on a ring
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
            f"unary must have the shape (*batch, n, states) with n and states at least 1, but its shape is "
            f"{tuple(unary.shape)}; pass one row of states for each variable"
        )
    num_samples = count("num_samples", num_samples, least=2)  # with fewer there are no standard errors
    unaries = unary.detach().to(work_dtype(unary.dtype)).expand(num_samples, *unary.shape)
    if can_raise(unaries) and not bool((unaries.amax(-1).abs() < torch.inf).all()):
        raise ValueError(
            "unary must not be NaN or +inf, and must allow at least one state of each variable, but some row does not; "
            "find where NaN or +inf comes from, or drop variables without states"
        )
    g = draw_like(unaries, unaries.ndim - 1, noise, generator, "gumbel").detach()

    def bound(scale: float) -> tuple[Tensor, Estimate]:
        with torch.no_grad():
            x = _assignments(solver(unaries + scale * g), unaries)
        perturbation = (g - EULER).gather(-1, x.unsqueeze(-1)).squeeze(-1).sum(-1)
        values = _scores(score(x), perturbation) + scale * perturbation
        allowed = unaries.gather(-1, x.unsqueeze(-1)).squeeze(-1).isfinite().all(-1)
        valid = allowed & values.isfinite()
        if can_raise(values) and not bool(valid.all()):
            raise ValueError(
                "solver must return allowed assignments, and score must be finite for them, but some are not; "
                "compare score with an enumeration of a small model"
            )
        values = values.masked_fill(~valid, torch.nan)
        mean = values.mean(0)
        stderr = ((values - mean).detach().square().sum(0) / (num_samples * (num_samples - 1))).sqrt()
        return x, Estimate(mean.to(unary.dtype), stderr.to(unary.dtype))

    samples, upper = bound(1.0)
    _, lower = bound(1.0 / unary.shape[-2])
    return PerturbAndMAP(samples, upper, lower)


def _assignments(x: Tensor, unaries: Tensor) -> Tensor:
    """What a solver returned, as int64; checked."""
    if not isinstance(x, Tensor) or x.dtype.is_floating_point or x.dtype.is_complex:  # bool is for two states
        what = x.dtype if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise TypeError(
            f"solver must return a tensor of integers, the states, but it returned {what}; return an int64 tensor"
        )
    if x.shape != unaries.shape[:-1]:
        raise ValueError(
            f"solver must return assignments of shape {tuple(unaries.shape[:-1])}, but their shape is "
            f"{tuple(x.shape)}; return one state for each variable"
        )
    states = unaries.shape[-1]
    if can_raise(x) and not bool(((x >= 0) & (x < states)).all()):
        raise ValueError(
            f"solver must return states between 0 and {states - 1}, but some are outside; count states from 0"
        )
    return x.long()


def _scores(scores: Tensor, like: Tensor) -> Tensor:
    """What a score function returned, in at least the precision of the noise; checked."""
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        what = scores.dtype if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise TypeError(f"score must return a floating tensor, but it returned {what}; return scores.float()")
    if scores.shape != like.shape:
        raise ValueError(
            f"score must return one number for each assignment, of shape {tuple(like.shape)}, but their shape is "
            f"{tuple(scores.shape)}; sum over the variables"
        )
    return scores.to(torch.promote_types(scores.dtype, like.dtype))
