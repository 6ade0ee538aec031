"""A relaxed Bernoulli draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import check_logits, check_tau
from ..kernels.sigmoid import relaxed_coin
from ..kernels.softmax import one_tau
from ..noise import KeyedNoise, draw_like, key_for

__all__ = ["gumbel_sigmoid"]


def gumbel_sigmoid(
    logits: Tensor,
    tau: float | Tensor = 1,
    hard: bool = False,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``sigmoid((logits + noise) / tau)`` with standard logistic noise: relaxed Bernoulli draws.

    Logistic noise has the law of the difference of two Gumbels, so the law is the law of :func:`gumbel_softmax` over
    two items. The sample is above 1/2 with probability sigmoid(logits), for every tau. A *keyed* function.

    Args:
        logits: log odds, shape ``(*batch,)``, any floating dtype; -inf gives 0 for certain, and +inf gives 1.
        tau: at least 0; a number, or a tensor that broadcasts against logits. It divides the perturbed logits. At 0 the
            sample is exactly 0 or 1.
        hard: return exactly 0 or 1, with the gradient of the soft sample (straight-through).
        noise: a tensor of logistic noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Samples in [0, 1], shape ``(*batch,)``, in the dtype of logits.

    Raises:
        ValueError: NaN in logits, tau < 0, noise of the wrong shape, both noise and generator. On an accelerator, under
            ``torch.compile`` and under ``vmap`` a NaN gives a NaN instead.
        TypeError: logits are not a floating tensor.

    Example:
        >>> import torch, argumbel as ag
        >>> ag.gumbel_sigmoid(torch.tensor([-torch.inf, torch.inf]), hard=True)
        tensor([0., 1.])

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix B.
    """
    if isinstance(logits, Tensor) and logits.ndim == 0:
        if isinstance(noise, Tensor) and noise.ndim == 0:
            noise = noise.reshape(1)
        return gumbel_sigmoid(logits.reshape(1), tau, hard, noise=noise, generator=generator).squeeze(0)
    check_logits(logits)
    tau = check_tau(tau, logits, None)
    taus = one_tau(tau, logits)
    if isinstance(noise, Tensor) or taus is None:
        values = logits + draw_like(logits, logits.ndim - 1, noise, generator, "logistic")
        y, bad = relaxed_coin(values, tau.to(values.device) if isinstance(tau, Tensor) else tau, hard)
        y = y.to(logits.dtype)
    else:
        is_exact = hard or (not isinstance(tau, Tensor) and tau == 0)
        y, bad = kernels.gumbel_sigmoid(logits, taus, is_exact, key_for(logits, noise, generator))
    if bad:
        raise ValueError("logits (and noise) must not be NaN, but some are; find where they come from")
    return y
