"""Score-function estimators: ``E f`` has the gradient ``E (f - baseline) grad log p``, whatever f is.

f is never differentiated with respect to the samples, so it may be a black box. The family differs in what is
subtracted and in how the samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..noise import KeyedNoise, draw_like
from ._common import Loss, call, check_problem, draw, joint_log_prob, one_hot, with_gradient

__all__ = ["reinforce", "reinforce_loo", "stratified", "vimco"]

Baseline = float | Tensor | Callable[[Tensor], Tensor]


def reinforce(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    baseline: Baseline = 0.0,
) -> Tensor:
    """``mean_s (f(z_s) - baseline) grad log p(z_s)``, z_s independent draws from softmax(logits).

    Unbiased, for any f. f is called once, on num_samples one-hot samples, and needs no gradient in them. The variance
    is large unless the baseline is near the mean loss. A *keyed* function.

    Args:
        f: from one-hot samples of shape ``(num_samples, *logits.shape)`` to losses ``(num_samples, *batch)``. ``batch``
            is a leading part of ``logits.shape[:-1]``; the dimensions after it are independent factors of one joint
            choice, whose log-probabilities add.
        logits: shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: how many samples the estimate is the mean of.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of Gumbel noise of shape ``(num_samples, *logits.shape)``, or a ``KeyedNoise``.
        baseline: what is subtracted from the losses, and must not depend on the samples: a number, a tensor that
            broadcasts to ``(num_samples, *batch)``, such as a running mean of earlier losses, or a function that makes
            one of the detached logits. It gets no gradient.

    Returns:
        The mean loss at the samples, of shape ``batch`` (float32 for half precision). Its gradient is the estimate; for
        parameters inside f, the plain gradient of that mean.

    Raises:
        ValueError: bad logits, losses of another shape, noise of another shape, both noise and generator. Where values
            may not be looked at (accelerators, ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import reinforce
        >>> logits = torch.zeros(32, 10, 4, requires_grad=True)  # a batch of 32, ten factors, four items
        >>> loss = reinforce(lambda z: (z[..., 0].sum(-1) - 3) ** 2, logits, num_samples=8, baseline=2.0)
        >>> loss.mean().backward()
        >>> loss.shape, logits.grad.shape
        (torch.Size([32]), torch.Size([32, 10, 4]))

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """
    check_problem(f, logits, num_samples)
    samples = draw(logits, num_samples, generator, noise)
    loss = call(f, samples, logits)
    advantage = loss.detach() - constant(baseline, logits, loss)
    return with_gradient(loss.mean(0), (advantage * joint_log_prob(logits, samples, loss)).mean(0))


def reinforce_loo(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``1 / (m - 1) sum_s (f(z_s) - mean_r f(z_r)) grad log p(z_s)``, over m = num_samples draws.

    :func:`reinforce` in which the baseline of each sample is the mean loss of the others. The first choice where f is a
    black box. Unbiased, for any f; f is called once, on num_samples >= 2 one-hot samples.

    Arguments, returns and errors as :func:`reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import reinforce_loo
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> loss = reinforce_loo(lambda z: z[..., 0] - z[..., 1], logits, num_samples=4)
        >>> loss.mean().backward()

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Salimans and Knowles
    2014, "On using control variates with stochastic approximation for variational Bayes".
    """
    check_problem(f, logits, num_samples, least=2)
    samples = draw(logits, num_samples, generator, noise)
    loss = call(f, samples, logits)
    advantage = (loss - loss.mean(0)).detach() * (num_samples / (num_samples - 1))
    return with_gradient(loss.mean(0), (advantage * joint_log_prob(logits, samples, loss)).mean(0))


def stratified(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    baseline: Baseline = 0.0,
    method: str = "systematic",
) -> Tensor:
    """:func:`reinforce` with samples that avoid each other: ``z_s = inverse_cdf(u_s)``, the u_s spread over (0, 1).

    ``"systematic"``: ``u_s = (u + s / num_samples) mod 1``, one uniform u for each factor. ``"antithetic"``: pairs u,
    1 - u. Each sample has the right law by itself, so the estimate is unbiased for any f; but they are not independent,
    so a baseline made of the others' losses would bias it. Which items are neighbours in the order of the logits
    matters. f is called once, on num_samples one-hot samples.

    Args:
        num_samples: as :func:`reinforce`; even for ``"antithetic"``.
        noise: Gumbel noise as :func:`reinforce` takes it; u is ``exp(-exp(-noise))`` of the first item of each factor,
            in the first sample, or the first half of the samples.
        method: ``"systematic"`` or ``"antithetic"``.
        f, logits, generator, baseline: as :func:`reinforce`.

    Returns, Raises: as :func:`reinforce`; ValueError for an unknown method, and an odd number of antithetic samples.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import stratified
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> stratified(lambda z: z @ torch.arange(4.0), logits, num_samples=4)[0]  # each item once
        tensor(1.5000, grad_fn=<SelectBackward0>)

    Source: Owen 2013, "Monte Carlo theory, methods and examples", chapters 8, 10 (antithetic, systematic samples).
    """
    check_problem(f, logits, num_samples)
    if method not in ("systematic", "antithetic"):
        raise ValueError(f"method must be 'systematic' or 'antithetic', but it is {method!r}")
    if method == "antithetic" and num_samples % 2:
        raise ValueError(f"num_samples must be even for antithetic pairs, but it is {num_samples}")
    x = logits.detach().expand(num_samples, *logits.shape)
    gumbel = draw_like(x, x.ndim - 1, noise, generator, "gumbel")[..., 0]
    if method == "systematic":
        shift = torch.arange(num_samples, device=x.device, dtype=torch.float64) / num_samples
        u = (uniform(gumbel[:1]) + shift.reshape(-1, *[1] * (x.ndim - 2))) % 1
    else:
        half = uniform(gumbel[: num_samples // 2])
        u = torch.cat([half, 1 - half])
    samples = one_hot(inverse_cdf(x[0], u), logits)
    loss = call(f, samples, logits)
    advantage = loss.detach() - constant(baseline, logits, loss)
    return with_gradient(loss.mean(0), (advantage * joint_log_prob(logits, samples, loss)).mean(0))


def vimco(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``L = log mean_s exp(f(z_s))``, an importance-weighted bound, where f returns *log weights*.

    With ``log w_s = f(z_s) = log p(x, z_s) - log q(z_s)`` and samples from q = softmax(logits), ``E L`` is a lower
    bound of log p(x): **maximise it**, that is ``(-vimco(f, logits)).mean().backward()``. The gradient is
    ``sum_s (L - L_s) grad log q(z_s) + sum_s w_s / sum(w) grad log w_s``, where L_s is L with log w_s replaced by the
    mean of the other log weights. Where f depends on logits, by log q, autograd sees it.

    Unbiased, for the gradient of E L at this num_samples, which is not that of E f. f is called once, on num_samples
    >= 2 one-hot samples, and needs no gradient in them.

    Arguments and errors as :func:`reinforce`; f returns log weights of shape ``(num_samples, *batch)``; -inf is a
    weight of zero.

    Returns:
        The bound L, of shape ``batch``, with that gradient.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import vimco
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> log_joint = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
        >>> log_weight = lambda z: (z * (log_joint - logits.log_softmax(-1))).sum(-1)
        >>> (-vimco(log_weight, logits, num_samples=5)).mean().backward()

    Source: Mnih and Rezende 2016, "Variational inference for Monte Carlo objectives".
    """
    check_problem(f, logits, num_samples, least=2)
    samples = draw(logits, num_samples, generator, noise)
    log_w = call(f, samples, logits)
    nothing = (log_w == -torch.inf).all(0)  # no weight at all: no direction is better, where autograd would say NaN
    bound = log_w.masked_fill(nothing, 0).logsumexp(0).masked_fill(nothing, -torch.inf) - math.log(num_samples)
    fixed = log_w.detach()
    others = ~torch.eye(num_samples, dtype=torch.bool, device=fixed.device).reshape(
        num_samples, num_samples, *[1] * (fixed.ndim - 1)
    )
    mean_of_others = torch.where(others, fixed, 0).sum(1) / (num_samples - 1)
    without = torch.where(others, fixed, mean_of_others.unsqueeze(1)).logsumexp(1) - math.log(num_samples)
    # Any number will do as a baseline that does not depend on z_s, in place of -inf where all others weigh nothing.
    advantage = (bound.detach() - without.masked_fill(without == -torch.inf, 0)).masked_fill(nothing, 0)
    return with_gradient(bound, (advantage * joint_log_prob(logits, samples, log_w)).sum(0))


def constant(baseline: Baseline, logits: Tensor, loss: Tensor) -> Tensor:
    """The baseline as a tensor without gradient that broadcasts to the shape of loss."""
    if callable(baseline) and not isinstance(baseline, Tensor):
        baseline = baseline(logits.detach())
    b = torch.as_tensor(baseline, dtype=loss.dtype, device=loss.device).detach()
    try:
        fits = torch.broadcast_shapes(b.shape, loss.shape) == loss.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"baseline must broadcast to the shape of the losses, {tuple(loss.shape)}, but its shape is "
            f"{tuple(b.shape)}"
        )
    return b


def uniform(gumbel: Tensor) -> Tensor:
    """The uniform number that standard Gumbel noise is made of; in float64, which resolves both ends of the noise."""
    return torch.exp(-torch.exp(-gumbel.double()))


def inverse_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """The item in whose interval of the cumulative distribution u lies; -1 for a bad row. Never a forbidden item."""
    cdf = torch.softmax(logits.double(), -1).cumsum(-1)
    top = cdf[..., -1]  # 1, but for rounding: u stays strictly below it
    index = (cdf <= (u.clamp(max=1 - 2.0**-53) * top).unsqueeze(-1)).sum(-1)
    return index.masked_fill(top.isnan(), -1)
