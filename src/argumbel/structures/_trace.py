"""The trace of a race for a structure: how likely it was, and the noise behind it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import can_raise, check_logits, forbid
from ..kernels import LOWEST
from ..noise import KeyedNoise
from ._noise import part_noise

__all__ = ["Trace", "posterior_gumbel_trace", "trace_log_prob"]


class Trace(NamedTuple):
    """A race in steps. At step s the parts ``alive[s]`` compete, and the part ``chosen[s]`` wins.

    Attributes:
        indicators: the structure that was found, ``(*batch, *event)``.
        chosen: the winner of each step, int64 ``(*batch, steps)``: the number of a part, counted over ``event`` in row
            order; -1 in a step that was not made.
        alive: bool ``(*batch, steps, *event)``.
    """

    indicators: Tensor
    chosen: Tensor
    alive: Tensor


def trace_log_prob(scores: Tensor, trace: Trace, *, mask: Tensor | None = None) -> Tensor:
    """``sum_s (x[c_s] - logsumexp(x[C_s]))``: the log probability of a trace, with the parts C_s alive at step s, the
    winner c_s, and x = scores.

    It holds for every structure whose solver asks at each step for the largest of some perturbed scores: what is left
    of an exponential time, once it is known to be above another one, is exponential again. The Plackett-Luce law of
    :func:`argumbel.topk_log_prob` is the case where each winner leaves, and nobody else.

    Args:
        scores: ``(*batch, *event)``, any floating dtype; -inf forbids a part.
        trace: what ``structure.trace`` returned, for values ``(*batch, *event)``, or with more dimensions in front.
        mask: bool, broadcasts to scores; True where a part is allowed.

    Returns:
        Log probabilities in the dtype of scores, ``(*batch,)``, or with the dimensions that trace has in front. They
        are computed in float64, and differentiable in scores: the gradient is the score function of the trace. -inf
        where a winner is forbidden.

    Cost: a number of float64 for each step and each part, several times with a gradient.

    Raises:
        ValueError: NaN or +inf in scores, a shape that does not fit the trace, a mask of the wrong shape. On an
            accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: scores are not a floating tensor, trace is not a ``Trace``, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.structures import SpanningTree, trace_log_prob
        >>> scores = torch.zeros(6)  # of the six edges between four nodes
        >>> trace = SpanningTree(4).trace(torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0, 0.0]))
        >>> trace_log_prob(scores, trace).exp()  # 1/6, then 1/5, then 1/3: the first three edges make a star
        tensor(0.0111)

    Source: Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference in combinatorial
    spaces".
    """
    x, alive, bad = _against(scores, trace, mask)
    made = trace.chosen >= 0
    won = x.expand(*trace.chosen.shape[:-1], x.shape[-1]).gather(-1, trace.chosen.clamp(min=0))
    steps = won - _log_rates(x, alive, made)
    impossible = ((won <= LOWEST) & made).any(-1)
    log_prob = steps.masked_fill(~made | impossible.unsqueeze(-1), 0).sum(-1)
    log_prob = log_prob.masked_fill(impossible, -torch.inf).masked_fill(bad.any(-1), torch.nan)
    return log_prob.to(scores.dtype)


def posterior_gumbel_trace(
    scores: Tensor,
    trace: Trace,
    *,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``values[i] = -log(sum of M_s over the steps s in which i was alive, and of E_i if i never won)``, with the
    waiting times ``M_s ~ Exp(sum of exp(x) over C_s)`` and ``E_i ~ Exp(exp(x_i))``, x = scores: the perturbed scores,
    given how the race went.

    ``structure.trace(values)`` is the trace again. Under other scores, ``structure.trace(values - scores +
    new_scores)`` tells what would have been found with the same luck. A *keyed* function: one number of noise for each
    part. The case of one step is :func:`argumbel.posterior_gumbel`.

    Args:
        scores: ``(*batch, *event)``, any floating dtype; -inf forbids a part.
        trace: what ``structure.trace`` returned, for values ``(*batch, *event)``, or with more dimensions in front.
        mask: bool, broadcasts to scores; True where a part is allowed.
        noise: a tensor of standard Gumbel noise in the shape of ``trace.indicators``, or a ``KeyedNoise`` with one row
            for each structure.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Perturbed scores in the shape of ``trace.indicators`` and the dtype of scores, differentiable in scores; -inf
        for a forbidden part. They are computed in float64 and rounded once: in a smaller dtype two values may tie.

    Raises:
        ValueError: NaN or +inf in scores, a winner that is forbidden, shapes that do not fit, both noise and generator.
            On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: scores are not a floating tensor, trace is not a ``Trace``, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.structures import SpanningTree, posterior_gumbel_trace
        >>> scores, tree = torch.zeros(6, dtype=torch.float64), SpanningTree(4)
        >>> trace = tree.trace(torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0, 0.0]))
        >>> values = posterior_gumbel_trace(scores, trace)
        >>> bool((tree.trace(values).chosen == trace.chosen).all())
        True

    Source: Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference in combinatorial
    spaces"; Maddison and Tarlow 2017, "Gumbel machinery" (blog post).
    """
    x, alive, bad = _against(scores, trace, mask)
    event = trace.alive.shape[trace.chosen.ndim :]
    lead = trace.chosen.shape[:-1]
    like = x.expand(*lead, x.shape[-1])
    g = part_noise(like.reshape(*lead, *event), len(event), noise, generator).reshape(like.shape)
    made, at = trace.chosen >= 0, trace.chosen.clamp(min=0)
    impossible = ((like.gather(-1, at) <= LOWEST) & made).any(-1, keepdim=True)
    if can_raise(impossible) and bool(impossible.any()):
        raise ValueError(
            "trace must have winners that scores allow, but some winner is forbidden; pass a trace of these scores"
        )
    waits = (-_log_rates(x, alive, made) - g.gather(-1, at)).masked_fill(~made, LOWEST)  # log M
    won = torch.zeros_like(like, dtype=torch.bool).scatter(-1, at, made)
    own = torch.where(won | (like <= LOWEST), LOWEST, -like - g)
    summed = torch.cat([waits.unsqueeze(-1).expand(alive.shape).masked_fill(~alive, LOWEST), own.unsqueeze(-2)], -2)
    values = -summed.logsumexp(-2)
    values = values.masked_fill(like <= LOWEST, -torch.inf).masked_fill(bad | impossible, torch.nan)
    return values.to(scores.dtype).reshape(*lead, *event)


def _against(scores: Tensor, trace: Trace, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores in float64 and where parts are alive, both with all parts in one dimension; and which rows are bad."""
    check_logits(scores, "scores")
    if not isinstance(trace, Trace):
        raise TypeError(
            f"trace must be a Trace, but it is a {type(trace).__name__}; pass what structure.trace(values) returned"
        )
    lead = trace.chosen.shape[:-1]
    event = trace.alive.shape[trace.chosen.ndim :]
    shape = scores.shape[: scores.ndim - len(event)]
    ahead = len(lead) - len(shape)
    if scores.shape[scores.ndim - len(event) :] != event or ahead < 0 or lead[ahead:] != shape:
        raise ValueError(
            f"scores must have the shape of the structures of trace, {(*lead, *event)}, without any of the first "
            f"dimensions, but the shape is {tuple(scores.shape)}; pass the scores that were perturbed"
        )
    x = forbid(scores, mask, "scores").double().reshape(*shape, event.numel())
    bad = (x.isnan() | (x == torch.inf)).any(-1, keepdim=True)
    if can_raise(bad) and bool(bad.any()):
        raise ValueError("scores must not be NaN or +inf, but some are; find where they come from")
    x = x.masked_fill(bad, 0).clamp(min=LOWEST)
    return x, trace.alive.reshape(*trace.chosen.shape, event.numel()), bad


def _log_rates(x: Tensor, alive: Tensor, made: Tensor) -> Tensor:
    """The logsumexp of the parts that are alive, at each step; 0 for a step that was not made."""
    rates = x.unsqueeze(-2).masked_fill(~alive, LOWEST)
    return rates.masked_fill(~made.unsqueeze(-1), 0).logsumexp(-1).masked_fill(~made, 0)
