"""Relaxed estimators: f is differentiated with respect to the samples. Biased, and of low variance.

All but `gumbel_softmax` call f on one-hot samples from :func:`argumbel.straight_through`. They differ in the gradient
that the samples have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..noise import KeyedNoise
from ..relax import gumbel_softmax as relaxed_samples
from ..relax import straight_through
from ._common import Loss, call, check_problem

__all__ = [
    "decoupled_straight_through",
    "gapped_straight_through",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_straight_through",
    "reinmax",
    "softmax_straight_through",
]

_Noise = Tensor | KeyedNoise | None


def gumbel_softmax(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(y_s)``, ``y_s = softmax((logits + G_s) / tau)``: the loss at relaxed samples, differentiated as it is.

    Unbiased for ``E f(y)``. For ``E f(z)`` with z one-hot, both the value and the gradient are biased; as tau falls the
    bias vanishes and the variance grows. f is called once, on num_samples *relaxed* samples, which f must accept. No
    other estimator returns a value that is not the loss at discrete samples. A *keyed* function.

    Args:
        f: a function from relaxed samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: the number of samples; the estimate is their mean.
        tau: divides the perturbed logits: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``. Its gradient is right too, for ``E f(y)``.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss, shape ``(*batch,)`` (float32 for half precision). Its gradient is the plain one, for logits, for
        tau and for parameters inside f.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; losses or noise of another shape; both noise
            and generator; num_samples < 1; tau < 0. Where values may not be looked at (accelerators,
            ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples not an integer.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gumbel_softmax
        >>> logits = torch.zeros(32, 10, 4, requires_grad=True)  # a batch of 32, ten factors, four items
        >>> loss = gumbel_softmax(lambda y: (y[..., 0].sum(-1) - 3) ** 2, logits, tau=0.5)
        >>> loss.mean().backward()

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih and Teh 2017,
    "The Concrete distribution".
    """
    num_samples = check_problem(f, logits, num_samples)
    x = logits.expand(num_samples, *logits.shape)
    return call(f, relaxed_samples(x, tau, noise=noise, generator=generator), logits).mean(0)


def softmax_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are one-hot draws that have the gradient of ``softmax(logits / tau)``.

    This is plain straight-through. Biased; exact at tau = 1 for losses that are linear in the one-hot vector of each
    factor. f is called once, on num_samples one-hot samples, never on relaxed ones; f must be differentiable at one-hot
    vectors. A *keyed* function.

    Args:
        f: a function from one-hot samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: the number of samples; the estimate is their mean.
        tau: divides the logits in the softmax that gives the gradient: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``; above 0.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; losses or noise of another shape; both noise
            and generator; num_samples < 1; tau < 0. Where values may not be looked at (accelerators,
            ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples not an integer.

    Example:
        >>> import torch
        >>> from argumbel.estimators import softmax_straight_through
        >>> logits = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        >>> softmax_straight_through(lambda z: z @ torch.tensor([1.0, 2.0, 3.0]), logits).backward()
        >>> logits.grad  # exact: the loss is linear
        tensor([-0.1418, -0.1408,  0.2826])

    Source: Bengio, Léonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons for
    conditional computation".
    """
    return _mean_loss("softmax", f, logits, num_samples, noise, generator, tau=tau)


def gumbel_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are one-hot draws that have the gradient of ``softmax((logits + G_s) / tau)``.

    G_s is the noise of the draw z_s. Biased, also for linear losses; as tau falls the bias vanishes and the variance
    grows. f is called once, on num_samples one-hot samples, where f must be differentiable. A *keyed* function.

    Args:
        f, logits, num_samples, noise, generator: as :func:`softmax_straight_through`.
        tau: divides the perturbed logits in the softmax that gives the gradient: a number, or a tensor that broadcasts
            against ``(num_samples, *batch, *factors, 1)``; above 0.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`softmax_straight_through`.

    Raises:
        ValueError, TypeError: as :func:`softmax_straight_through`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gumbel_straight_through
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> gumbel_straight_through(lambda z: z @ torch.arange(4.0), logits, tau=0.5).mean().backward()

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax".
    """
    return _mean_loss("gumbel", f, logits, num_samples, noise, generator, tau=tau)


def gumbel_rao(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    num_conditional: int = 10,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are one-hot draws that have the gradient ``mean_j grad softmax((logits + G_sj) / tau)``.

    G_sj are ``num_conditional`` draws of the noise given its winner z_s. Compared with the gradient of
    :func:`gumbel_straight_through`, the mean and so the bias is the same, and the variance is never larger. f is called
    once, on num_samples one-hot samples, whatever num_conditional is; f must be differentiable there. A *keyed*
    function.

    Args:
        f, logits, num_samples, noise, generator: as :func:`softmax_straight_through`.
        tau: divides the perturbed logits in the softmax that gives the gradient: a number, or a tensor that broadcasts
            against ``(num_samples, *batch, *factors, 1)``; above 0.
        num_conditional: the number of draws of the noise given its winner. The first is the noise of the draw z_s
            itself, so 1 is :func:`gumbel_straight_through`. The others are made from the bits of the first.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`softmax_straight_through`.

    Raises:
        ValueError: as :func:`softmax_straight_through`; num_conditional < 1.
        TypeError: as :func:`softmax_straight_through`; num_conditional not an integer.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gumbel_rao
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> gumbel_rao(lambda z: z @ torch.arange(4.0), logits, tau=0.1, num_conditional=100).mean().backward()

    Source: Paulus, Maddison and Krause 2021, "Rao-Blackwellizing the straight-through Gumbel-softmax gradient
    estimator".
    """
    return _mean_loss("gumbel-rao", f, logits, num_samples, noise, generator, tau=tau, num_conditional=num_conditional)


def reinmax(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are one-hot draws that have the gradient of ``2 softmax(sg(log q_s - logits) + logits) -
    softmax(logits) / 2``, where ``q_s = (z_s + softmax(logits / tau)) / 2`` and sg stops the gradient.

    Of second order, where :func:`softmax_straight_through` is of first order. Biased; exact at tau = 1 for losses that
    are quadratic in the one-hot vector of each factor. A larger tau has less variance. f is called once, on num_samples
    one-hot samples, where f must be differentiable. A *keyed* function.

    Args:
        f, logits, num_samples, noise, generator: as :func:`softmax_straight_through`.
        tau: divides the logits in q_s: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``; above 0. It gets no gradient.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`softmax_straight_through`.

    Raises:
        ValueError, TypeError: as :func:`softmax_straight_through`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import reinmax
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> reinmax(lambda z: (z @ torch.arange(4.0)) ** 2, logits).mean().backward()

    Source: Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond".
    """
    return _mean_loss("reinmax", f, logits, num_samples, noise, generator, tau=tau)


def gapped_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    gap: float = 1.0,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are one-hot draws that have the gradient of ``softmax((logits + m_s) / tau)``.

    m_s is a constant: it raises the logit of the item drawn to the largest logit, and lowers every other logit that is
    less than ``gap`` below the largest to ``gap`` below it. Biased, also for linear losses. It resembles
    :func:`gumbel_rao`, but uses no noise other than the noise of the draw. f is called once, on num_samples one-hot
    samples, where f must be differentiable. A *keyed* function.

    Args:
        f, logits, num_samples, noise, generator: as :func:`softmax_straight_through`.
        tau: divides the logits in the softmax that gives the gradient: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``; above 0.
        gap: the least distance between the logit of the item drawn and the other logits, a number, 0 or more.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`softmax_straight_through`.

    Raises:
        ValueError: as :func:`softmax_straight_through`; gap < 0.
        TypeError: as :func:`softmax_straight_through`; gap not a number.

    Example:
        >>> import torch
        >>> from argumbel.estimators import gapped_straight_through
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> gapped_straight_through(lambda z: z @ torch.arange(4.0), logits, tau=0.5).mean().backward()

    Source: Fan et al. 2022, "Training discrete deep generative models via gapped straight-through estimator".
    """
    return _mean_loss("gapped", f, logits, num_samples, noise, generator, tau=tau, gap=gap)


def decoupled_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    temperature: float = 1.0,
    tau: float | Tensor = 1,
    noise: _Noise = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are one-hot draws from ``softmax(logits / temperature)`` that have the gradient of
    ``softmax(logits / tau)``.

    ``temperature`` decides how widely the draws explore, ``tau`` shapes the gradient. Value and gradient are meant for
    ``E f(z)`` under softmax(logits / temperature). Biased; exact at tau = temperature for losses that are linear in the
    one-hot vector of each factor. At temperature = 1 it is :func:`softmax_straight_through`. f is called once, on
    num_samples one-hot samples, where f must be differentiable. A *keyed* function.

    Args:
        f, logits, num_samples, noise, generator: as :func:`softmax_straight_through`.
        temperature: divides the logits before the noise is added, a number; 0 draws the argmax.
        tau: divides the logits in the softmax that gives the gradient: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``; above 0.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`softmax_straight_through`.

    Raises:
        ValueError: as :func:`softmax_straight_through`; temperature < 0.
        TypeError: as :func:`softmax_straight_through`; temperature not a number.

    Example:
        >>> import torch
        >>> from argumbel.estimators import decoupled_straight_through
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> f = lambda z: z @ torch.arange(4.0)
        >>> decoupled_straight_through(f, logits, temperature=2.0, tau=0.5).mean().backward()

    Source: Shah et al. 2024, "Improving discrete optimisation via decoupled straight-through Gumbel-softmax".
    """
    return _mean_loss("decoupled", f, logits, num_samples, noise, generator, tau=tau, temperature=temperature)


def _mean_loss(
    method: str,
    f: Loss,
    logits: Tensor,
    num_samples: int,
    noise: _Noise,
    generator: torch.Generator | None,
    **own: Any,
) -> Tensor:
    """The mean of f at the samples that ``straight_through`` draws by that method; own are arguments of the method."""
    num_samples = check_problem(f, logits, num_samples)
    x = logits.expand(num_samples, *logits.shape)
    return call(f, straight_through(x, method=method, noise=noise, generator=generator, **own), logits).mean(0)
