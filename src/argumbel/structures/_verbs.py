"""Perturb the scores of a structure, and solve: hard, or relaxed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, one_of
from ..kernels.softmax import straight_through
from ..noise import KeyedNoise
from ._base import Prepared, Structure, check_structure, checked_tau
from ._noise import part_noise

__all__ = ["PerturbedArgmax", "perturbed_argmax", "perturbed_scores", "stochastic_softmax"]


class PerturbedArgmax(NamedTuple):
    """The largest perturbed score, and the structure that has it."""

    values: Tensor
    indicators: Tensor


def perturbed_argmax(
    structure: Structure,
    scores: Tensor,
    *,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> PerturbedArgmax:
    """``max over y of <y, scores + noise>``, and the y that attains it: perturb and MAP, with Gumbel noise for each
    part.

    A *keyed* function: a structure is one row of the noise, and a part is one item, so the same key gives the same
    structure in any batch. For :class:`OneHot` this is the Gumbel-max trick, an exact sample of ``exp(<y, scores>)``.
    For other structures the law is near this one, but not equal; ``structure.sample`` is exact. The law is known where
    ``structure.trace_is_argmax``: see :func:`trace_log_prob`.

    Args:
        structure: what is chosen.
        scores: ``(*batch, *event)``, any floating dtype; -inf forbids a part. Sums with the noise are made in float64.
        mask: bool, broadcasts to scores; True where a part is allowed.
        noise: a tensor of Gumbel noise in the shape of scores, or a ``KeyedNoise`` with one row for each structure.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indicators)`` in the dtype of scores: the perturbed score of the structure, ``(*batch,)``, whose
        gradient for scores is the indicator; and the indicator, ``(*batch, *event)``, which has no gradient.

    Raises:
        ValueError: NaN or +inf in scores, a shape that does not fit the structure, no structure left, noise or mask of
            the wrong shape, both noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a
            bad row is NaN instead.
        TypeError: structure is not a ``Structure``, scores are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.structures import SpanningTree, perturbed_argmax
        >>> values, trees = perturbed_argmax(SpanningTree(4), torch.zeros(1000, 6), noise=ag.KeyedNoise(0))
        >>> trees.sum(-1).unique()  # three edges each
        tensor([3.])

    Source: Papandreou and Yuille 2011, "Perturb-and-MAP random fields"; Bach, "The Gumbel trick" (blog post).
    """
    prepared = _perturbed(structure, scores, mask, noise, generator)
    if isinstance(noise, Tensor):  # it may forbid, or be bad
        prepared = structure.prepared(structure.marked(prepared.x, prepared.bad), None)
    indicators, bad = structure.solve(prepared)
    x = prepared.x
    if indicators.dtype == torch.bool:
        parts = torch.where(indicators, x, 0)
    else:
        parts = torch.where(indicators != 0, x * indicators, 0)
    values = structure.flat(structure.marked(parts, bad)).sum(-1)
    return PerturbedArgmax(values.to(scores.dtype), structure.marked(indicators.to(scores.dtype), bad))


def stochastic_softmax(
    structure: Structure,
    scores: Tensor,
    tau: float | Tensor = 1,
    hard: bool = False,
    *,
    method: str | None = None,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``E y under P(y) ~ exp(<y, scores + noise> / tau)``: the marginals of the perturbed scores, a relaxed structure.

    A *keyed* function. As tau falls to 0, the result approaches the structure of :func:`perturbed_argmax` under the
    same noise. For :class:`OneHot` this is :func:`argumbel.gumbel_softmax`. The gradient is exact: the Jacobian is the
    covariance of the law, divided by tau.

    Args:
        structure: what is chosen.
        scores: ``(*batch, *event)``, any floating dtype; -inf forbids a part.
        tau: at least 0; a number, or a tensor that broadcasts to ``(*batch,)``. A tensor gets a gradient. At 0 the
            result is the structure of :func:`perturbed_argmax`.
        hard: return this structure, with the gradient of the relaxed one (straight-through).
        method: how the structure is relaxed, one of ``structure.methods``; default the first.
        mask: bool, broadcasts to scores; True where a part is allowed.
        noise: a tensor of Gumbel noise in the shape of scores, or a ``KeyedNoise`` with one row for each structure.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of scores.

    Raises:
        ValueError: NaN or +inf in scores, tau < 0, a shape that does not fit the structure, no structure left, an
            unknown method, noise or mask of the wrong shape, both noise and generator. On an accelerator, under
            ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: structure is not a ``Structure``, scores are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.structures import SpanningTree, stochastic_softmax
        >>> y = stochastic_softmax(SpanningTree(4), torch.zeros(2, 6), tau=0.5)
        >>> torch.allclose(y.sum(-1), torch.tensor([3.0, 3.0]))
        True

    Source: Paulus et al. 2020, "Gradient estimation with stochastic softmax tricks".
    """
    x = perturbed_scores(structure, scores, mask, noise, generator)
    method = structure.methods[0] if method is None else method
    one_of("method", method, structure.methods)
    t, frozen = checked_tau(tau, x, structure.event_ndim)
    soft = structure.relax(x, t, method)
    if hard or isinstance(tau, Tensor) or tau < EXACT_BELOW:
        exact = structure.argmax(x.detach())
        soft = torch.where(frozen, exact, soft)
        soft = straight_through(exact, soft) if hard else soft
    return soft.to(scores.dtype)


def perturbed_scores(
    structure: Structure,
    scores: Tensor,
    mask: Tensor | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
) -> Tensor:
    """``scores + noise`` in float64, NaN in bad rows; a structure is one row of the noise."""
    x, bad, _ = _perturbed(structure, scores, mask, noise, generator)
    return structure.marked(x, bad)


def _perturbed(
    structure: Structure,
    scores: Tensor,
    mask: Tensor | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
) -> Prepared:
    check_structure(structure)
    x, bad, whole = structure.prepared(scores, mask)
    return Prepared(x + part_noise(scores, structure.event_ndim, noise, generator), bad, whole)
