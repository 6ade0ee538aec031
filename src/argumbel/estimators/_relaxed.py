"""Relaxed estimators: f is differentiated with respect to the samples. Biased, and of low variance.

All but `gumbel_softmax` call f on one-hot samples from :func:`argumbel.straight_through` and differ in what these
samples pretend to be when f is differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..noise import KeyedNoise
from ..relax import gumbel_softmax as _gumbel_softmax
from ..relax import straight_through as _straight_through
from ._common import Loss, call, check_problem

__all__ = [
    "decoupled_straight_through",
    "gapped_straight_through",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_straight_through",
    "reinmax",
    "straight_through",
]

_Noise = Tensor | KeyedNoise | None


def gumbel_softmax(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
) -> Tensor:
    """``mean_s f(y_s)``, ``y_s = softmax((logits + G_s) / tau)``: the loss at relaxed samples, differentiated as it is.

    Exact for ``E f(y)``, but a biased estimate, in value as in gradient, for ``E f(z)`` with z one-hot; the bias
    vanishes, and the variance grows, as tau falls. f is called once, on num_samples *relaxed* samples, which it must
    accept. This is the one estimator whose value is not the loss at discrete samples. A *keyed* function.

    Args:
        f: from samples of shape ``(num_samples, *logits.shape)`` to losses ``(num_samples, *batch)``. ``batch`` is a
            leading part of ``logits.shape[:-1]``; the dimensions after it are independent factors of one joint choice.
        logits: shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: how many samples the estimate is the mean of.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of Gumbel noise of shape ``(num_samples, *logits.shape)``, or a ``KeyedNoise``.
        tau: temperature, a number or a tensor that broadcasts against logits (its gradient is right too, for E f(y)).

    Returns:
        The mean loss, of shape ``batch`` (float32 for half precision). Its gradient, for logits, tau and parameters
        inside f, is the plain one.

    Raises:
        ValueError: bad logits, losses of another shape, noise of another shape, both noise and generator, tau < 0.
            Where values may not be looked at (accelerators, ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gumbel_softmax
        >>> logits = torch.zeros(32, 10, 4, requires_grad=True)  # a batch of 32, ten factors, four items
        >>> loss = gumbel_softmax(lambda y: (y[..., 0].sum(-1) - 3) ** 2, logits, tau=0.5)
        >>> loss.mean().backward()

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih and Teh 2017,
    "The Concrete distribution".
    """
    check_problem(f, logits, num_samples)
    x = logits.expand(num_samples, *logits.shape)
    return call(f, _gumbel_softmax(x, tau, noise=noise, generator=generator), logits).mean(0)


def straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
) -> Tensor:
    """``mean_s f(z_s)``, z_s one-hot draws that have the gradient of ``softmax(logits / tau)``: plain straight-through.

    Biased; exact at tau = 1 for losses that are linear in each factor's one-hot vector. f is called once, on
    num_samples one-hot samples; it is never called on relaxed ones, but must be differentiable at one-hot vectors.
    A *keyed* function.

    Args:
        f: from one-hot samples of shape ``(num_samples, *logits.shape)`` to losses ``(num_samples, *batch)``. ``batch``
            is a leading part of ``logits.shape[:-1]``; the dimensions after it are independent factors of one joint
            choice.
        tau: temperature of what lends its gradient, a number or a tensor that broadcasts against logits; above 0.
        logits, num_samples, generator, noise: as :func:`gumbel_softmax`.

    Returns:
        The mean loss at the samples, of shape ``batch`` (float32 for half precision). Its gradient for logits is the
        estimate; for parameters inside f, the plain gradient of that mean.

    Raises:
        ValueError, TypeError: as :func:`gumbel_softmax`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import straight_through
        >>> logits = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        >>> straight_through(lambda z: z @ torch.tensor([1.0, 2.0, 3.0]), logits).backward()
        >>> logits.grad  # exact: the loss is linear
        tensor([-0.1418, -0.1408,  0.2826])

    Source: Bengio, Leonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons for
    conditional computation".
    """
    return _through("softmax", f, logits, num_samples, generator, noise, tau=tau)


def gumbel_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
) -> Tensor:
    """``mean_s f(z_s)``, z_s one-hot draws that have the gradient of ``softmax((logits + G_s) / tau)``.

    G_s is the noise of the draw. Biased, also for linear losses; the bias vanishes, and the variance grows, as tau
    falls. Calls of f, arguments, returns and errors as :func:`straight_through`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gumbel_straight_through
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> gumbel_straight_through(lambda z: z @ torch.arange(4.0), logits, tau=0.5).mean().backward()

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax".
    """
    return _through("gumbel", f, logits, num_samples, generator, noise, tau=tau)


def gumbel_rao(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
    num_conditional: int = 10,
) -> Tensor:
    """``mean_s f(z_s)``, z_s one-hot draws that have the mean gradient of ``softmax((logits + G) / tau)`` over
    ``num_conditional`` draws of the noise G given z_s.

    :func:`gumbel_straight_through` with the noise averaged out: the same mean, and never more variance. Biased as that.
    f is called once, on num_samples one-hot samples, whatever num_conditional is; it must be differentiable there.

    Args:
        num_conditional: how many draws of the noise given its winner; the first is the noise of the race itself, so 1
            is :func:`gumbel_straight_through`. The others are made from the bits of the first.
        f, logits, num_samples, generator, noise, tau: as :func:`straight_through`.

    Returns, Raises: as :func:`straight_through`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gumbel_rao
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> gumbel_rao(lambda z: z @ torch.arange(4.0), logits, tau=0.1, num_conditional=100).mean().backward()

    Source: Paulus, Maddison and Krause 2021, "Rao-Blackwellizing the straight-through Gumbel-softmax gradient
    estimator".
    """
    return _through("gumbel-rao", f, logits, num_samples, generator, noise, tau=tau, num_conditional=num_conditional)


def reinmax(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
) -> Tensor:
    """``mean_s f(z_s)``, z_s one-hot draws that have the gradient of ``2 softmax(sg(log q_s - logits) + logits) -
    softmax(logits) / 2``, where ``q_s = (z_s + softmax(logits / tau)) / 2``.

    Of second order where straight-through is of first. Biased; exact at tau = 1 for losses that are quadratic in each
    factor's one-hot vector. Larger tau have less variance. Calls of f, arguments, returns and errors as
    :func:`straight_through`; tau gets no gradient.

    Example:
        >>> import torch
        >>> from argumbel.estimators import reinmax
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> reinmax(lambda z: (z @ torch.arange(4.0)) ** 2, logits).mean().backward()

    Source: Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond".
    """
    return _through("reinmax", f, logits, num_samples, generator, noise, tau=tau)


def gapped_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
    gap: float = 1.0,
) -> Tensor:
    """``mean_s f(z_s)``, z_s one-hot draws that have the gradient of ``softmax((logits + sg(m_s)) / tau)``, where m_s
    lifts the logit of the draw to the largest, and lowers the others to ``gap`` below it where they are above that.

    Biased, also for linear losses. Like :func:`gumbel_rao` without noise but the draw's. Calls of f, arguments, returns
    and errors as :func:`straight_through`, and ValueError for gap < 0.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gapped_straight_through
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> gapped_straight_through(lambda z: z @ torch.arange(4.0), logits, tau=0.5).mean().backward()

    Source: Fan et al. 2022, "Training discrete deep generative models via gapped straight-through estimator".
    """
    return _through("gapped", f, logits, num_samples, generator, noise, tau=tau, gap=gap)


def decoupled_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: _Noise = None,
    tau: float | Tensor = 1,
    forward_tau: float = 1.0,
) -> Tensor:
    """``mean_s f(z_s)``, z_s one-hot draws from ``softmax(logits / forward_tau)`` that have the gradient of
    ``softmax(logits / tau)``: one temperature to explore, another for the gradient.

    Value and gradient are meant for ``E f(z)`` under softmax(logits / forward_tau). Biased; exact at tau = forward_tau
    for losses that are linear in each factor's one-hot vector; at forward_tau = 1 it is :func:`straight_through`.
    Calls of f, arguments, returns and errors as there, and ValueError for forward_tau < 0.

    Example:
        >>> import torch
        >>> from argumbel.estimators import decoupled_straight_through
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> f = lambda z: z @ torch.arange(4.0)
        >>> decoupled_straight_through(f, logits, tau=0.5, forward_tau=2.0).mean().backward()

    Source: Shah et al. 2024, "Improving discrete optimisation via decoupled straight-through Gumbel-softmax".
    """
    return _through("decoupled", f, logits, num_samples, generator, noise, tau=tau, temperature=forward_tau)


def _through(
    method: str,
    f: Loss,
    logits: Tensor,
    num_samples: int,
    generator: torch.Generator | None,
    noise: _Noise,
    **own: Any,
) -> Tensor:
    check_problem(f, logits, num_samples)
    x = logits.expand(num_samples, *logits.shape)
    return call(f, _straight_through(x, method=method, noise=noise, generator=generator, **own), logits).mean(0)
