"""The Fenchel-Young loss of a perturbed problem: learn scores from solutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import broadcasts_to
from ..noise import KeyedNoise
from ..structures import Structure
from ._draws import draw
from ._solver import Solver, as_solver

__all__ = ["fenchel_young_loss"]


def fenchel_young_loss(
    scores: Tensor,
    target: Tensor,
    solver: Structure | Solver | Callable[..., Any],
    num_samples: int = 1,
    *,
    sigma: float | Tensor = 1,
    law: str = "gumbel",
    multiplicative: bool = False,
    args: tuple[Any, ...] = (),
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean over samples of [max over y of <y, v> - <target, v>]``, ``v = scores + sigma * noise``: how far the target
    is from being the solution.

    The gradient is ``y_sigma - target``, the mean solution minus the target, so the loss is least where the perturbed
    problem has the target as its mean solution. Value and gradient are unbiased and belong together: the value is the
    loss, not the distance between the two solutions. For a target that is a solution, each sample of the loss is at
    least 0. The loss is convex in scores, and the solver is not differentiated. For one of n items and Gumbel noise its
    mean is ``sigma * cross_entropy(scores / sigma, target)``. A *keyed* function.

    Args:
        scores: ``(*batch, *event)``, any floating dtype; -inf forbids a part.
        target: the solution to learn, in the shape of scores; numbers or bool. A mean of solutions is allowed: the
            value then lacks a constant (it may be negative), and the gradient is right.
        solver: a structure; or a function from scores ``(num_samples, *batch, n)`` to solutions of this shape; or a
            :class:`Solver`.
        num_samples, sigma, law, multiplicative, args, mask, noise, generator: as :func:`perturbed`.

    Returns:
        The loss, ``(*batch,)``, in the dtype of scores.

    Raises:
        ValueError: as :func:`perturbed`; target or solutions in another shape than scores.
        TypeError: as :func:`perturbed`.

    Example:
        >>> import torch
        >>> from argumbel.perturbation import fenchel_young_loss
        >>> from argumbel.structures import SpanningTree
        >>> scores = torch.zeros(32, 6, requires_grad=True)
        >>> trees = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).expand(32, 6)
        >>> loss = fenchel_young_loss(scores, trees, SpanningTree(4), num_samples=4)
        >>> loss.mean().backward()
        >>> loss.shape, bool((loss >= 0).all())
        (torch.Size([32]), True)

    Source: Blondel, Martins and Niculae 2020, "Learning with Fenchel-Young losses"; Berthet et al. 2020, "Learning with
    differentiable perturbed optimizers".
    """
    problem = as_solver(solver, args)
    if not isinstance(target, Tensor):
        raise TypeError(
            f"target must be a tensor, but it is a {type(target).__name__}; pass the indicator of a solution"
        )
    values, x, _, _, bad = draw(problem, scores, num_samples, sigma, law, multiplicative, mask, noise, generator)
    if not broadcasts_to(target.shape, x.shape):
        raise ValueError(
            f"target must have the shape {tuple(x.shape)} of scores, but its shape is {tuple(target.shape)}; pass one "
            "solution for each problem"
        )
    y = problem.indicators(values.detach(), scores.dtype, args)
    away = y - target.to(y).detach()
    loss = problem.flat(torch.where(away == 0, 0, away * values)).sum(-1).mean(0)
    return (loss if bad is None else loss.masked_fill(bad, torch.nan)).to(scores.dtype)
