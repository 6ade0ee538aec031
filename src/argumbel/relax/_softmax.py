"""A relaxed one-hot vector, and its logarithm."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import Rows, check_tau
from .._core.modes import has_autocast
from ..choice import summands
from ..kernels.softmax import relaxed, row_taus, shifted, softened
from ..noise import KeyedNoise, Shards, is_shards, key_for

__all__ = ["gumbel_softmax", "items_last", "log_gumbel_softmax", "soft_dtype"]


def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``softmax((logits + noise) / tau, dim)`` with standard Gumbel noise: a relaxed one-hot draw from softmax(logits).

    The function takes the arguments of ``torch.nn.functional.gumbel_softmax`` in the same order. The argmax of the
    sample is an exact draw from softmax(logits), for every tau. A *keyed* function: the same ``KeyedNoise`` gives the
    same sample.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item
            (the item gets exactly 0, and no gradient). A ``DTensor`` may be sharded along any dimension but dim; so is
            the sample then.
        tau: at least 0; a number, or a tensor that broadcasts against logits with size 1 along dim. A tensor gets a
            gradient. As tau falls, samples approach one-hot vectors. At 0 a sample is one-hot and its gradient is zero.
        hard: return the exact one-hot vector of the argmax, with the gradient of the soft sample (straight-through).
        eps: ignored; it keeps the argument order of torch.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits (under autocast, in the dtype of torch's softmax). It sums to 1 along
        dim.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, tau < 0, noise or mask of the wrong shape, both
            noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.zeros(4, 3, requires_grad=True)
        >>> y = ag.gumbel_softmax(logits, tau=0.5, hard=True)
        >>> y.sum(-1)
        tensor([1., 1., 1., 1.], grad_fn=<SumBackward1>)

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih and Teh 2017,
    "The Concrete distribution".
    """
    if is_shards(logits):
        shards = Shards(logits, dim)
        own = shards.arguments(mask, noise, generator)
        return shards.join(gumbel_softmax(shards.local, shards.scale(tau), hard, **own))
    rows = Rows(logits, dim, mask)
    x, dtype = rows.x, soft_dtype(logits)
    tau = items_last(check_tau(tau, logits, rows.dim), rows)
    taus = row_taus(tau, x)
    if isinstance(noise, Tensor) or taus is None:
        y, bad = relaxed(*summands(rows, noise, generator), tau, hard)
        y = y.to(dtype)
    else:
        x = x if x.dtype == dtype else x.to(dtype)
        is_exact = hard or (not isinstance(tau, Tensor) and tau == 0)
        y, bad = kernels.gumbel_softmax(x, taus, is_exact, key_for(x, noise, generator))
    if bad:
        rows.complain(noise)
    return rows.back(y)


def log_gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``log_softmax((logits + noise) / tau, dim)``: the logarithm of :func:`gumbel_softmax`, computed in log space.

    At tau = 0.1 and a thousand items, most relaxed samples have entries that underflow; the logarithms of these entries
    do not underflow. A *keyed* function.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item
            (the logarithm is -inf).
        tau: at least 0; a number, or a tensor that broadcasts against logits with size 1 along dim. At 0 the logarithm
            is 0 for the winner and -inf for every other item.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits (under autocast, in the dtype of torch's softmax). Its logsumexp along
        dim is 0.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, tau < 0, noise or mask of the wrong shape, both
            noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.relax import log_gumbel_softmax
        >>> bool(log_gumbel_softmax(torch.zeros(1000), tau=0.01).isfinite().all())
        True

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix C.
    """
    rows = Rows(logits, dim, mask)
    tau = items_last(check_tau(tau, logits, rows.dim), rows)
    values, bad = shifted(*summands(rows, noise, generator))
    if bad:
        rows.complain(noise)
    return rows.back(softened(values, tau, -1, torch.log_softmax, 0.0, -torch.inf).to(soft_dtype(logits)))


def items_last(tau: float | Tensor, rows: Rows) -> float | Tensor:
    """tau, which broadcasts against logits, with items last."""
    if not isinstance(tau, Tensor):
        return tau
    away = rows.x.ndim - rows.dim  # where the items lie, counted from the back; it may have more dimensions in front
    if away == 1:
        return tau
    return tau.reshape(*[1] * (away - tau.ndim), *tau.shape).movedim(-away, -1)


HALF = frozenset((torch.float16, torch.bfloat16))


def soft_dtype(x: Tensor) -> torch.dtype:
    """The dtype that torch's softmax returns for x: under autocast, on some devices, float32 for half precision."""
    if x.dtype not in HALF:
        return x.dtype
    device = x.device.type
    if has_autocast(device) and torch.is_autocast_enabled(device):
        return torch.softmax(x.new_zeros(1), 0).dtype
    return x.dtype
