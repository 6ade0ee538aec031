"""The mean solution of a perturbed problem, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import can_raise, one_of
from ..noise import KeyedNoise
from ..structures import Structure, trace_log_prob
from ._draws import Draws, draw
from ._solver import Solver, as_solver

__all__ = ["perturbed"]


def perturbed(
    solver: Structure | Solver | Callable[..., Any],
    scores: Tensor,
    num_samples: int = 1,
    *,
    sigma: float | Tensor = 1,
    law: str = "gumbel",
    multiplicative: bool = False,
    control: str | None = "leave-one-out",
    args: tuple[Any, ...] = (),
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean over samples of argmax over y of <y, scores + sigma * noise>``: the solution of a discrete problem, made a
    smooth function of its scores.

    The result is an unbiased estimate of ``y_sigma = E argmax``, and so is its gradient: ``E[(y - control) nu^T] /
    sigma`` is the Jacobian, with ``nu = 1 - exp(-noise)`` for Gumbel noise and ``nu = noise`` for normal noise. The
    solver is not differentiated. For a structure whose trace finds the argmax (``trace_is_argmax``: :class:`OneHot`,
    ``Subset``, ``SpanningTree``), Gumbel noise, nu is replaced by its mean given the trace, which is the score function
    of the trace. The mean of the estimate stays, and the variance falls (for one of three items from 5.90 to .63, for
    trees of four nodes from 17.5 to 5.7). A *keyed* function.

    Args:
        solver: a structure; or a function from scores ``(num_samples, *batch, n)`` to solutions of this shape; or a
            :class:`Solver`, which says what else a function may be.
        scores: ``(*batch, *event)``, any floating dtype; -inf forbids a part.
        num_samples: the number of perturbed problems.
        sigma: scale of the noise; a positive number, or a tensor that broadcasts to ``(*batch,)``. No gradient.
        law: ``"gumbel"`` or ``"normal"``.
        multiplicative: multiply the scores by ``exp(sigma * noise - sigma^2 / 2)`` in place of adding noise: the factor
            has mean 1, and the scores keep their signs, as costs of a shortest path must. Needs ``law="normal"`` and
            scores that are not 0 where they require a gradient. (The mean solution is then not the gradient of a mean
            maximum.)
        control: what is subtracted from a solution in the estimate of the gradient; it lowers the variance.
            ``"leave-one-out"``: the mean of the solutions of the other samples; with one sample nothing if the trace
            is known, else the solution of the scores without noise, which is one more call of the solver. None:
            nothing.
        args: further arguments of the solver.
        mask: bool, broadcasts to scores; True where a part is allowed.
        noise: a tensor of standard noise of the law, ``(num_samples, *batch, *event)``, or a ``KeyedNoise`` with one
            row for each sample and problem.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        The mean solution, ``(*batch, *event)`` (or what the solver returns), in the dtype of scores.

    Raises:
        ValueError: NaN or +inf in scores, a score of 0 that needs a gradient through multiplicative noise, sigma that
            is not positive, an unknown law or control, no solution left, a solver whose solutions have the wrong shape
            or depend on the other problems, noise or mask of the wrong shape, both noise and generator.
        TypeError: scores are not a floating tensor, solver is no function, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.perturbation import perturbed
        >>> scores = torch.tensor([0.1, 0.3, 0.2], requires_grad=True)
        >>> ranks = lambda x: x.argsort(-1).argsort(-1)  # any function of scores
        >>> y = perturbed(ranks, scores, 1000, sigma=0.1, noise=ag.KeyedNoise(0))
        >>> y.argsort()
        tensor([0, 2, 1])
        >>> torch.autograd.grad(y[1], scores)[0] > 0  # the rank rises with the own score alone
        tensor([False,  True, False])

    Source: Berthet et al. 2020, "Learning with differentiable perturbed optimizers"; Bach, "The Gumbel trick"
    (blog post); Dalle et al. 2022, "Learning with combinatorial optimization layers: a probabilistic approach"
    (multiplicative).
    """
    problem = as_solver(solver, args)
    if control is not None:
        one_of("control", control, ("leave-one-out",))
    draws = draw(problem, scores, num_samples, sigma, law, multiplicative, mask, noise, generator)
    has_trace = isinstance(solver, Structure) and solver.trace_is_argmax and law == "gumbel"
    if has_trace:
        solutions, log_density = _race(solver, draws)  # type: ignore[arg-type]
    else:
        solutions = problem.argmax(draws.values.detach(), scores.dtype, args)
        log_density = _density(problem, draws, law, multiplicative)
    away = solutions
    if control is not None and len(solutions) > 1:
        away = (solutions - solutions.mean(0)) * (len(solutions) / (len(solutions) - 1))
    elif control is not None and not has_trace:
        away = solutions - problem.argmax(draws.x, scores.dtype, args)
    # Its value is 0; its gradient is the score function.
    score = log_density - log_density.detach()
    wide = [1] * (solutions.ndim - score.ndim)
    y = (solutions + away * score.reshape((*score.shape, *wide))).mean(0)
    if draws.bad is not None:
        y = y.masked_fill(draws.bad.reshape((*draws.bad.shape, *wide)), torch.nan)
    return y.to(scores.dtype)


def _race(structure: Structure, draws: Draws) -> tuple[Tensor, Tensor]:
    """The solutions, and the log probabilities of their traces, ``(num_samples, *batch)``."""
    trace = structure.race(draws.values.detach())
    return trace.indicators, trace_log_prob(draws.x / draws.sigma, trace)


def _density(problem: Solver, draws: Draws, law: str, multiplicative: bool) -> Tensor:
    """A function of the scores, ``(num_samples, *batch)``, with the gradient of the log density of the values."""
    nu = -torch.expm1(-draws.z) if law == "gumbel" else draws.z
    if multiplicative:
        zero = draws.x.detach() == 0
        needed = torch.is_grad_enabled() and draws.x.requires_grad
        if needed and can_raise(zero) and bool(zero.any()):
            raise ValueError(
                "scores must not be 0 where the noise is multiplicative, but some are; move them away from 0, or add "
                "noise (multiplicative=False)"
            )
        nu = nu / draws.x.detach()
        if not needed:  # nobody needs nu, but it must not make the value NaN
            nu = nu.masked_fill(zero, 0)
    # A forbidden part is never used, whatever its noise.
    forbidden = draws.x == -torch.inf
    return problem.flat((nu / draws.sigma).masked_fill(forbidden, 0) * draws.x.masked_fill(forbidden, 0)).sum(-1)
