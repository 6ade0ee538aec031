"""A relaxed k-hot vector."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, Rows, check_k, check_tau, one_of
from ..choice import summands
from ..kernels.opaque import limited
from ..kernels.race import first
from ..kernels.softmax import over, shifted, straight_through
from ..kernels.subset import FAR, subset_marginals
from ..noise import KeyedNoise
from ._softmax import items_last, soft_dtype

__all__ = ["relaxed_topk"]


METHODS = ("marginals", "successive")


def relaxed_topk(
    logits: Tensor,
    k: int,
    tau: float | Tensor = 1,
    hard: bool = False,
    dim: int = -1,
    *,
    method: str = "marginals",
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``y_i = P(i in S)``, ``P(S) = exp(sum of z over S) / Z`` over all sets S of k items, ``z = (logits + noise) /
    tau``: a relaxed k-hot draw of k items without replacement.

    The entries are in [0, 1] and sum to k. The k largest entries belong to the k items that
    :func:`argumbel.gumbel_topk` draws under the same noise, and as tau falls, y approaches the k-hot vector of these
    items. For k = 1, y is the :func:`gumbel_softmax` under the same noise. The gradient is exact: the Jacobian is the
    covariance of the law of S, divided by tau. A *keyed* function.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item
            (the item gets exactly 0, and no gradient).
        k: how many items, at most the number of allowed items in every row.
        tau: at least 0; a number, or a tensor that broadcasts against logits with size 1 along dim. A tensor gets a
            gradient. At 0 the result is the exact k-hot vector.
        hard: return the exact k-hot vector of the top k, with the gradient of the soft vector (straight-through).
        dim: where the items lie.
        method: which relaxed vector y is.

            ``"marginals"``: the probabilities above, the marginals of the k-subset law. They are computed in float64
            and rounded once.

            ``"successive"``: ``a_1 + ... + a_k``, ``a_j = softmax(x_j / tau)``, ``x_1 = logits + noise``,
            ``x_{j+1} = x_j + log(1 - a_j)``. Each softmax takes weight away from the items that the softmaxes before it
            chose. The entries sum to k, but an entry may be far above 1, at a small tau too: one item can have much
            weight in several softmaxes. Among nearly equal items, the gradient can be as large as ``tau^-k``.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits (under autocast, in the dtype of torch's softmax). It sums to k along
        dim. A gradient beyond the range of the dtype, as at a tiny tau in float16, is the dtype's largest number.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, k negative or larger than the number of allowed
            items in some row, tau < 0, an unknown method, noise or mask of the wrong shape, both noise and generator.
            On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, mask is not bool, or k is not an integer.

    Cost: the marginals of a row take ``O(n min(k, n - k + 1))`` multiplications.

    Example:
        >>> import torch, argumbel as ag
        >>> y = ag.relaxed_topk(torch.zeros(2, 6), k=2, tau=0.5)
        >>> torch.allclose(y.sum(-1), torch.tensor([2.0, 2.0])), bool((y <= 1).all())
        (True, True)

    Source: Ahmed et al. 2023, "SIMPLE: a gradient estimator for k-subset sampling"; Paulus et al. 2020, "Gradient
    estimation with stochastic softmax tricks" (marginals); Xie and Ermon 2019, "Reparameterizable subset sampling via
    continuous relaxations" (successive).
    """
    one_of("method", method, METHODS)
    rows = Rows(logits, dim, mask)
    tau = items_last(check_tau(tau, logits, rows.dim), rows)
    n = rows.x.shape[-1]
    k = check_k(k, n)
    x, g = summands(rows, noise, generator)
    x = limited(x, torch.finfo(logits.dtype).max)
    values, bad = shifted(x, g, k)
    if bad:
        rows.complain(noise, k)
    drawn = first(x.detach(), g, k, g.dtype)[1].clamp(min=0)
    exact = torch.zeros_like(values, requires_grad=False).scatter(-1, drawn, 1.0)
    exact = exact + 0 * values.detach().amax(-1, keepdim=True)
    if isinstance(tau, Tensor):
        tau = limited(tau.to(values), torch.finfo(tau.dtype).max)
    tau = torch.as_tensor(tau, dtype=values.dtype, device=values.device)
    frozen = tau < EXACT_BELOW
    positive = torch.where(frozen, 1, tau)
    if k < 2 or (k == n and method == "marginals"):
        # What is far down is nothing; its quotient by tau^2, in the gradient of tau, could overflow.
        far = values.detach() < -FAR * positive.detach()
        soft = torch.softmax(over(values.masked_fill(far, -torch.inf), positive), -1)
        soft = soft if k == 1 else exact + 0 * soft
    elif method == "successive":
        soft = _successive_softmaxes(values, k, positive, x == -torch.inf)
    else:
        soft = _marginals(x, g, k, positive, drawn, exact)
    soft = torch.where(frozen, exact, soft)
    y = straight_through(exact.expand_as(soft), soft) if hard else soft
    return rows.back(y.to(soft_dtype(logits)))


def _marginals(x: Tensor, g: Tensor, k: int, tau: Tensor, drawn: Tensor, exact: Tensor) -> Tensor:
    """The marginals at ``(x + g) / tau``, for 1 < k < n; ``drawn`` are the first k items, falling."""
    x, g, tau = x.double().contiguous(), g.double().contiguous(), tau.double()
    last = drawn[..., -1:]
    away = (x - x.detach().gather(-1, last)) + (g - g.detach().gather(-1, last))
    far = away.detach() / tau.detach()
    above, below = far > FAR, ~(far >= -FAR)
    certain = below.sum(-1, keepdim=True) >= x.shape[-1] - k  # the first k are all there are; also in a bad row
    # An item far away does not move. Its z may be infinite, and would make NaN of the gradient of tau.
    z = away.masked_fill(above | below, 0) / tau
    z = z.masked_fill(below, -torch.inf).masked_fill(above, FAR).masked_fill(certain, 0)
    return torch.where(certain, exact, subset_marginals(z.contiguous(), k))


def _successive_softmaxes(values: Tensor, k: int, tau: Tensor, forbidden: Tensor) -> Tensor:
    total = torch.zeros_like(values / tau)
    lowest = torch.finfo(values.dtype).min / 4  # what is too low for the dtype is still not forbidden
    x = values
    for j in range(k):
        x = (x - x.detach().amax(-1, keepdim=True)).clamp(min=lowest)
        z = over(x, tau).clamp(min=lowest).masked_fill(forbidden, -torch.inf)
        a = torch.softmax(z, -1)
        total = total + a
        if j + 1 < k:
            # log(1 - a). At the largest item a may be near 1 and 1 - a would cancel. There, log(1 - a) is the logsumexp
            # of the other items minus the logsumexp of all items.
            top = z.argmax(-1, keepdim=True)
            largest = torch.zeros_like(z, dtype=torch.bool).scatter(-1, top, True)
            rest = z.masked_fill(largest, -torch.inf).logsumexp(-1, keepdim=True) - z.logsumexp(-1, keepdim=True)
            x = x + torch.where(largest, rest, torch.log1p(-a.masked_fill(largest, 0)))
    return total
