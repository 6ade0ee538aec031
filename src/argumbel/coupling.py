"""Couple: two choices under one noise. What would have won under other logits? How often do two choices agree?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._core.checks import can_raise, check_dim, check_logits, count, forbid, one_of, raise_bad_logits
from ._core.elementwise import log_softmax, logaddexp, top_at_zero
from .choice import gumbel_max
from .noise import KeyedNoise, as_keyed, draw_like, work_dtype
from .reverse import known_winners

__all__ = [
    "Coupled",
    "agreement_prob",
    "counterfactual",
    "counterfactual_probs",
    "gumbel_coupling",
    "maximal_coupling",
]


class Coupled(NamedTuple):
    """The choices under the first and under the second logits."""

    first: Tensor
    second: Tensor


def counterfactual(
    logits: Tensor,
    index: Tensor,
    new_logits: Tensor,
    num_samples: int = 1,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``argmax(new_logits + posterior_noise(logits, index))``: what would have won under new_logits, in the race that
    the item ``index`` won under logits.

    Let k be the winner, T its value and ``shift = new_logits - logits``. Item j was behind the winner by the deficit
    ``softplus(T - logits[j] - G[j])``, and overtakes it only if ``shift[j] - shift[k]`` is larger than the deficit. The
    item that exceeds its deficit by most wins. Computed in this way, the answer is stable to the last bit: an item
    whose odds against the winner did not grow never replaces the winner, and with new_logits = logits the answer is the
    winner. A *keyed* function: G is one number of noise per sample and item.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            Half precision is computed in float32.
        index: the winner of each row under logits, integers ``(*batch,)``.
        new_logits: in the shape of logits, any floating dtype; may forbid the winner, and may allow items that logits
            forbids.
        num_samples: how many answers per row, at least 1. Each answer has its own draw of the noise given the winner.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed, under both logits and new_logits.
        noise: a tensor of standard Gumbel noise, ``(num_samples, *batch, n)`` for ``dim=-1``, or a ``KeyedNoise`` with
            one row for each answer.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        int64 indices ``(num_samples, *batch)``.

    Raises:
        ValueError: NaN or +inf in logits or new_logits, a row with nothing allowed, an index of the wrong shape, out of
            range or of a forbidden item, num_samples < 1, new_logits, noise or mask of the wrong shape, both noise and
            generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives -1 instead.
        TypeError: logits or new_logits are not floating tensors, index does not hold integers, num_samples is not an
            integer, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits, new_logits = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([-1.0, -2.0, 2.0])
        >>> ag.counterfactual(logits, torch.tensor(0), new_logits, 1000).bincount(minlength=3) > 0
        tensor([ True, False,  True])

    Source: Oberst and Sontag 2019, "Counterfactual off-policy evaluation with Gumbel-max structural causal models".
    """
    num_samples = count("num_samples", num_samples, least=1)
    x, won, bad, dim = known_winners(logits, index, dim, mask)
    new, nowhere = _second(new_logits, logits, dim, mask, "new_logits")
    many = logits.unsqueeze(0).expand(num_samples, *logits.shape)
    g = draw_like(many, dim + 1, noise, generator, "gumbel").movedim(dim + 1, -1)
    if isinstance(noise, Tensor):
        if can_raise(g) and not bool(g.isfinite().all()):
            raise_bad_logits(x, -1, noise)
        bad = bad | ~g.isfinite().all(-1, keepdim=True)
    work = torch.promote_types(g.dtype, new.dtype)
    x, new, g = top_at_zero(x.detach().to(work)), top_at_zero(new.to(work)), g.to(work)

    new_won, g_won = new.gather(-1, won), g.gather(-1, won.expand(num_samples, *won.shape))
    lost = new_won == -torch.inf  # the winner is forbidden now: the best of all other items wins
    height = x.logsumexp(-1, keepdim=True) + g_won  # T
    deficit = logaddexp(height - x - g, torch.zeros_like(g))
    shift = new - x
    ahead = shift - torch.where(lost, 0, shift.gather(-1, won)) - deficit
    # An item that logits forbids was not in the race: no condition bears on its noise, and its value is compared.
    entered = new - torch.where(lost, 0, new_won - x.gather(-1, won)) + g - height
    ahead = torch.where(x == -torch.inf, entered, ahead).masked_fill(new == -torch.inf, -torch.inf)
    others = torch.arange(x.shape[-1], device=x.device) != won
    best, rival = ahead.masked_fill(~others, -torch.inf).max(-1, keepdim=True)
    answer = torch.where((best > 0) | lost, rival, won)
    return answer.masked_fill(bad | nowhere, -1).squeeze(-1)


def counterfactual_probs(
    logits: Tensor, index: Tensor, new_logits: Tensor, *, dim: int = -1, mask: Tensor | None = None
) -> Tensor:
    """``P(new winner = j | winner = i) = max(0, q[j] (H(p[i] / q[i]) - H(p[j] / q[j])))`` for j other than i, and
    ``1 / B(p[i] / q[i])`` for j = i: the law of :func:`counterfactual`, in closed form.

    Here p = softmax(logits), q = softmax(new_logits), ``B(t) = sum(max(p, q t))``, and H is an integral of 1 / B^2. B
    is linear between the sorted ratios p / q, so a row takes one sort and a few running sums, in float64 and in log
    space. The probabilities times p[i] are the joint law of the two choices of :func:`gumbel_coupling`.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        index: the winner of each row under logits, integers ``(*batch,)``.
        new_logits: in the shape of logits, any floating dtype; may forbid the winner, and may allow items that logits
            forbids.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed, under both logits and new_logits.

    Returns:
        Probabilities in the shape and dtype of logits, without a gradient. The probability is exactly 0 for an item
        whose odds against the winner did not grow.

    Raises:
        ValueError: NaN or +inf in logits or new_logits, a row with nothing allowed, an index of the wrong shape, out of
            range or of a forbidden item, new_logits or mask of the wrong shape. On an accelerator, under
            ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits or new_logits are not floating tensors, index does not hold integers, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.coupling import counterfactual_probs
        >>> p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
        >>> counterfactual_probs(p.log(), torch.tensor(0), q.log())
        tensor([0.5000, 0.1000, 0.4000])

    Source: Oberst and Sontag 2019, "Counterfactual off-policy evaluation with Gumbel-max structural causal models" (the
    question). The documentation page "Couplings and counterfactuals" derives the closed form.
    """
    x, won, bad, dim = known_winners(logits, index, dim, mask)
    new, nowhere = _second(new_logits, logits, dim, mask, "new_logits")
    law = _SortedRatios(x.detach(), new)
    place = law.order.argsort(-1).gather(-1, won)
    steps = torch.arange(x.shape[-1], device=x.device)
    below = law.log_steps().masked_fill(steps >= place, -torch.inf)  # only steps below the ratio of the winner count
    moved = law.log_q + below.flip(-1).logcumsumexp(-1).flip(-1)
    stayed = -law.log_b().gather(-1, place)
    in_order = torch.where(steps == place, stayed, moved).exp()
    probs = torch.zeros_like(in_order).scatter(-1, law.order, in_order).to(logits.dtype)
    return probs.masked_fill(bad | nowhere, torch.nan).movedim(-1, dim)


def gumbel_coupling(
    logits: Tensor,
    other: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Coupled:
    """``argmax(logits + G), argmax(other + G)``: two choices under one noise.

    Two sides that share a key can each make one of the choices, and neither side needs the logits of the other side.
    With p = softmax(logits) and q = softmax(other), the choices agree with probability
    ``sum over i of 1 / sum over k of max(p[k] / p[i], q[k] / q[i])``, which :func:`agreement_prob` computes. A *keyed*
    function.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        other: the logits of the second choice, in the shape of logits, any floating dtype; -inf forbids an item.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed, in both choices.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(first, second)``: int64 indices, each ``(*batch,)``.

    Raises:
        ValueError: NaN or +inf in logits or other, a row with nothing allowed, other, noise or mask of the wrong shape,
            both noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives -1
            in both choices instead.
        TypeError: logits or other are not floating tensors, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.coupling import gumbel_coupling
        >>> other = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0]).expand(100, 5)
        >>> first, second = gumbel_coupling(torch.zeros(100, 5), other)
        >>> bool((second[first == 4] == 4).all())
        True

    Source: Daliri, Musco and Suresh 2024, "Coupling without communication and drafter-invariant speculative decoding".
    """
    x, y, bad, dim = _two(logits, other, dim, mask)
    if not isinstance(noise, Tensor):
        noise, generator = as_keyed(noise, generator, x.device), None
    first, second = (gumbel_max(v.movedim(-1, dim), dim=dim, noise=noise, generator=generator).indices for v in (x, y))
    return Coupled(*(choice.masked_fill(bad.squeeze(-1), -1) for choice in (first, second)))


def maximal_coupling(
    logits: Tensor,
    other: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Coupled:
    """Draws from ``p = softmax(logits)`` and ``q = softmax(other)`` that agree with probability ``sum(min(p, q))``: no
    two draws from p and q agree more often.

    The first choice is X, the winner of logits + G. The second choice is X again with probability min(1, q[X] / p[X]),
    and otherwise a draw with weights ``max(q - p, 0)``. A *keyed* function: one number of noise per item makes both
    choices. The value of the winner does not depend on X, so it decides whether X is kept. The noise of the losers is
    known to have lost. With this condition removed it is independent of X and of the value of the winner, and it makes
    the second draw.

    Args:
        logits, other, dim, mask, noise, generator: as :func:`gumbel_coupling`.

    Returns:
        ``(first, second)``: int64 indices, each ``(*batch,)``.

    Raises:
        ValueError, TypeError: as :func:`gumbel_coupling`.

    Example:
        >>> import torch
        >>> from argumbel.coupling import maximal_coupling
        >>> logits = torch.zeros(100, 5)
        >>> first, second = maximal_coupling(logits, logits + 7)
        >>> bool((first == second).all())
        True

    Source: Thorisson 2000, "Coupling, stationarity, and regeneration"; Leviathan, Kalman and Matias 2023, "Fast
    inference from transformers via speculative decoding" (the form with acceptance and rejection).
    """
    x, y, bad, dim = _two(logits, other, dim, mask)
    g = draw_like(logits, dim, noise, generator, "gumbel").movedim(dim, -1)
    if isinstance(noise, Tensor):
        if can_raise(g) and not bool(g.isfinite().all()):
            raise_bad_logits(x, -1, noise)
        bad = bad | ~g.isfinite().all(-1, keepdim=True)
    work = torch.promote_types(g.dtype, x.dtype)
    log_p, log_q, g = log_softmax(x.to(work)), log_softmax(y.to(work)), g.to(work)
    race = log_p + g
    height, first = race.max(-1, keepdim=True)
    # The logarithm of a uniform number, against the logarithm of q[X] / p[X].
    kept = -torch.exp(-height) < (log_q - log_p).gather(-1, first)
    excess = log_q > log_p
    left = log_q + torch.log(-torch.expm1((log_p - log_q).masked_fill(~excess, -1)))
    left = left.masked_fill(~excess, -torch.inf)
    gap = (height - race).clamp(min=torch.finfo(work).tiny)  # rounding may give a loser the value of the winner
    freed = g - torch.log(-torch.expm1(-gap))
    rest, second = (left + freed).max(-1, keepdim=True)
    second = torch.where(kept | (rest == -torch.inf), first, second)
    return Coupled(*(choice.masked_fill(bad, -1).squeeze(-1) for choice in (first, second)))


def agreement_prob(
    logits: Tensor, other: Tensor, *, dim: int = -1, mask: Tensor | None = None, method: str = "gumbel"
) -> Tensor:
    """``sum over i of 1 / sum over k of max(p[k] / p[i], q[k] / q[i])``, or, for the method ``"maximal"``,
    ``sum(min(p, q))``: the probability that the two choices of a coupling agree.

    Here p = softmax(logits), q = softmax(other), and ``D = 1 - sum(min(p, q))`` is the total variation distance. No
    coupling agrees with a probability above 1 - D. The Gumbel coupling agrees with probability at least
    (1 - D) / (1 + D).

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        other: the logits of the second choice, in the shape of logits, any floating dtype; -inf forbids an item.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed, in both choices.
        method: ``"gumbel"`` for :func:`gumbel_coupling`, ``"maximal"`` for :func:`maximal_coupling`.

    Returns:
        Probabilities ``(*batch,)`` in the dtype of logits, computed in float64, without a gradient.

    Raises:
        ValueError: NaN or +inf in logits or other, a row with nothing allowed, other or mask of the wrong shape, an
            unknown method. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits or other are not floating tensors, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.coupling import agreement_prob
        >>> p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.0, 0.5, 0.5]).log()
        >>> agreement_prob(p, q), agreement_prob(p, q, method="maximal")
        (tensor(0.3333), tensor(0.5000))

    Source: Daliri, Musco and Suresh 2024, "Coupling without communication and drafter-invariant speculative decoding".
    """
    one_of("method", method, ("gumbel", "maximal"))
    x, y, bad, _ = _two(logits, other, dim, mask)
    law = _SortedRatios(x, y)
    log_agree = torch.minimum(law.log_p, law.log_q) if method == "maximal" else law.log_p - law.log_b()
    return log_agree.exp().sum(-1).clamp(max=1).to(logits.dtype).masked_fill(bad.squeeze(-1), torch.nan)


class _SortedRatios:
    """p and q of two races, items last and sorted by p / q, in float64 and log space."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        x, y = top_at_zero(x.double()), top_at_zero(y.double())
        log_p, log_q = x.log_softmax(-1), y.log_softmax(-1)
        nowhere = (x == -torch.inf) & (y == -torch.inf)
        # From the logits, not from log_p and log_q, so that equal ratios are equal to the bit.
        ratio = (x - y).masked_fill(nowhere, 0) - (x.logsumexp(-1, keepdim=True) - y.logsumexp(-1, keepdim=True))
        self.log_ratio, self.order = ratio.sort(-1)
        self.log_p, self.log_q = log_p.gather(-1, self.order), log_q.gather(-1, self.order)
        # At each ratio t: log of the sum of p over the larger ratios, and log of the sum of q up to this ratio.
        self.above = torch.cat(
            [
                self.log_p.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:],
                torch.full_like(ratio[..., :1], -torch.inf),
            ],
            -1,
        )
        self.below = self.log_q.logcumsumexp(-1)

    def log_b(self) -> Tensor:
        """The logarithm of B(t) = sum(max(p, q t)), at each ratio."""
        return logaddexp(self.above, self.below + self.log_ratio)

    def log_steps(self) -> Tensor:
        """The logarithm of the integral of 1 / B^2 from each ratio t to the next, s: (s - t) / (B(s) B(t))."""
        t = self.log_ratio
        s = torch.cat([t[..., 1:], t[..., -1:]], -1)
        apart = s > t
        gap = (s - t).masked_fill(~apart, 1)
        log_b_over_s = logaddexp(self.above - s, self.below)
        return (torch.log(-torch.expm1(-gap)) - log_b_over_s - self.log_b()).masked_fill(~apart, -torch.inf)


def _two(logits: Tensor, other: Tensor, dim: int, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """The logits of two races, at least in float32, without gradients, items last; which rows are bad; and dim."""
    check_logits(logits)
    dim = check_dim(logits, dim)
    x, bad = _second(logits, logits, dim, mask, "logits")
    y, also = _second(other, logits, dim, mask, "other")
    return x, y, bad | also, dim


def _second(other: Tensor, logits: Tensor, dim: int, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """The logits of another race over the same items, items last, and which rows are bad."""
    check_logits(other, name)
    if other.shape != logits.shape:
        raise ValueError(
            f"{name} must have the shape {tuple(logits.shape)} of logits, but its shape is {tuple(other.shape)}; "
            "expand it"
        )
    x = forbid(other.detach(), mask).to(work_dtype(other.dtype)).movedim(dim, -1).contiguous()
    bad = ~x.amax(-1, keepdim=True).isfinite()
    if can_raise(x) and bool(bad.any()):
        raise ValueError(
            f"{name} must not be NaN or +inf, and must allow at least one item in each row, but some row does not; "
            "forbid items by -inf, or by mask="
        )
    return x, bad
