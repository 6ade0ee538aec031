"""Score-function estimators: ``E f`` has the gradient ``E (f - baseline) grad log p``, whatever f is.

f is never differentiated with respect to the samples, so f may be a black box. The estimators of this file differ in
the baseline and in how the samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.checks import broadcasts_to, one_of
from ..noise import KeyedNoise, draw_like
from ._common import Loss, above_others, call, check_pairs, check_problem, draw, joint_log_prob, one_hot, with_gradient

__all__ = ["reinforce", "reinforce_loo", "stratified", "vimco"]

Baseline = float | Tensor | Callable[[Tensor], Tensor]


def reinforce(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    baseline: Baseline = 0.0,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s (f(z_s) - baseline) grad log p(z_s)``: z_s are independent draws from softmax(logits).

    Unbiased, for any f. f is called once, on num_samples one-hot samples; f need not be differentiable in the samples.
    The variance is large unless the baseline is near the mean loss. A *keyed* function.

    Args:
        f: a function from one-hot samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice, whose log-probabilities add.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: the number of samples; the estimate is their mean.
        baseline: what is subtracted from the losses; it must not depend on the samples. A number, a tensor that
            broadcasts to ``(num_samples, *batch)`` (for example a running mean of earlier losses), or a function from
            the detached logits to such a tensor. It gets no gradient.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; losses, baseline or noise of another shape;
            both noise and generator; num_samples < 1. Where values may not be looked at (accelerators,
            ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples not an integer.

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
    num_samples = check_problem(f, logits, num_samples)
    samples = draw(logits, num_samples, noise, generator)
    loss = call(f, samples, logits)
    advantage = loss.detach() - constant(baseline, logits, loss)
    return with_gradient(loss.mean(0), (advantage * joint_log_prob(logits, samples, loss)).mean(0))


def reinforce_loo(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``1 / (m - 1) sum_s (f(z_s) - mean_r f(z_r)) grad log p(z_s)``, over m = num_samples draws.

    :func:`reinforce`, where the baseline of each sample is the mean loss of the other samples. It is the first choice
    where f is a black box. Unbiased, for any f. f is called once, on num_samples one-hot samples. A *keyed* function.

    Args:
        f, logits, noise, generator: as :func:`reinforce`.
        num_samples: the number of samples, at least 2.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`reinforce`.

    Raises:
        ValueError: as :func:`reinforce`, but num_samples < 2.
        TypeError: as :func:`reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import reinforce_loo
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> loss = reinforce_loo(lambda z: z[..., 0] - z[..., 1], logits, num_samples=4)
        >>> loss.mean().backward()

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Salimans and Knowles
    2014, "On using control variates with stochastic approximation for variational Bayes".
    """
    num_samples = check_problem(f, logits, num_samples, least=2)
    samples = draw(logits, num_samples, noise, generator)
    loss = call(f, samples, logits)
    return with_gradient(loss.mean(0), (above_others(loss) * joint_log_prob(logits, samples, loss)).mean(0))


def stratified(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    baseline: Baseline = 0.0,
    method: str = "systematic",
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s (f(z_s) - baseline) grad log p(z_s)``, ``z_s = inverse_cdf(u_s)``: the u_s are spread over (0, 1).

    :func:`reinforce` with samples that avoid each other. ``"systematic"``: ``u_s = (u + s / num_samples) mod 1``, with
    one uniform u for each factor. ``"antithetic"``: pairs u, 1 - u. Each sample by itself has the right law, so the
    estimate is unbiased for any f. The samples are not independent of each other, so a baseline made of the losses of
    other samples would bias the estimate. The order of the items matters: it decides which items are neighbours. f is
    called once, on num_samples one-hot samples. A *keyed* function.

    Args:
        f, logits, baseline, generator: as :func:`reinforce`.
        num_samples: the number of samples; even for ``"antithetic"``.
        method: ``"systematic"`` or ``"antithetic"``.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``. Only the noise of the
            first item of each factor is used, in the first sample (``"antithetic"``: in the first half of the samples):
            u is ``exp(-exp(-noise))``.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`reinforce`.

    Raises:
        ValueError: as :func:`reinforce`; an unknown method; an odd number of antithetic samples.
        TypeError: as :func:`reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import stratified
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> stratified(lambda z: z @ torch.arange(4.0), logits, num_samples=4)[0]  # each item once
        tensor(1.5000, grad_fn=<SelectBackward0>)

    Source: Owen 2013, "Monte Carlo theory, methods and examples", chapters 8, 10 (antithetic, systematic samples).
    """
    num_samples = check_problem(f, logits, num_samples)
    one_of("method", method, ("systematic", "antithetic"))
    if method == "antithetic":
        check_pairs(num_samples)
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
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``L = log mean_s exp(f(z_s))``, an importance-weighted bound, where f returns *log weights*.

    With ``log w_s = f(z_s) = log p(x, z_s) - log q(z_s)`` and samples from q = softmax(logits), ``E L`` is a lower
    bound of log p(x): **maximise it**, by ``(-vimco(f, logits)).mean().backward()``. The gradient is
    ``sum_s (L - L_s) grad log q(z_s) + sum_s w_s / sum(w) grad log w_s``, where L_s is L with log w_s replaced by the
    mean of the other log weights. Where f depends on logits, through log q, autograd adds that part of the gradient.

    Unbiased for the gradient of E L at this num_samples, which is not the gradient of E f. f is called once, on
    num_samples one-hot samples; f need not be differentiable in the samples. A *keyed* function.

    Args:
        f: a function from one-hot samples of shape ``(num_samples, *batch, *factors, n)`` to log weights of shape
            ``(num_samples, *batch)``; -inf is a weight of zero. The dimensions that f sums away, ``*factors``, are
            independent factors of one joint choice.
        logits, noise, generator: as :func:`reinforce`.
        num_samples: the number of samples, at least 2.

    Returns:
        The bound L, shape ``(*batch,)``, with that gradient.

    Raises:
        ValueError: as :func:`reinforce`, but num_samples < 2.
        TypeError: as :func:`reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import vimco
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> log_joint = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
        >>> log_weight = lambda z: (z * (log_joint - logits.log_softmax(-1))).sum(-1)
        >>> (-vimco(log_weight, logits, num_samples=5)).mean().backward()

    Source: Mnih and Rezende 2016, "Variational inference for Monte Carlo objectives".
    """
    num_samples = check_problem(f, logits, num_samples, least=2)
    samples = draw(logits, num_samples, noise, generator)
    log_w = call(f, samples, logits)
    # Where all weights are zero the gradient is zero; autograd would give NaN.
    all_zero = (log_w == -torch.inf).all(0)
    bound = log_w.masked_fill(all_zero, 0).logsumexp(0).masked_fill(all_zero, -torch.inf) - math.log(num_samples)
    fixed = log_w.detach().double()
    others = logsumexp_of_others(fixed)
    whole, without = (torch.logaddexp(others, own) for own in (fixed, mean_of_others(fixed)))
    # Where all other weights are zero the baseline would be -inf; any number that does not depend on z_s will do.
    without = without.masked_fill(without == -torch.inf, math.log(num_samples))
    advantage = (whole - without).masked_fill(all_zero, 0).to(log_w.dtype)
    return with_gradient(bound, (advantage * joint_log_prob(logits, samples, log_w)).sum(0))


def logsumexp_of_others(x: Tensor) -> Tensor:
    """``logsumexp of all x[r] but x[s]``, along the first dimension: what comes before s, and what comes after.

    The memory is the memory of x; a sum from which x[s] is taken away would cancel.
    """
    none = torch.full_like(x[:1], -torch.inf)
    before = torch.cat([none, x[:-1].logcumsumexp(0)])
    after = torch.cat([none, x.flip(0)[:-1].logcumsumexp(0)]).flip(0)
    return torch.logaddexp(before, after)


def mean_of_others(x: Tensor) -> Tensor:
    """``mean of all x[r] but x[s]``, along the first dimension; -inf where another is -inf."""
    zero = x == -torch.inf
    finite = x.masked_fill(zero, 0)
    mean = (finite.sum(0) - finite) / (len(x) - 1)
    return mean.masked_fill(zero.sum(0) > zero.to(torch.int64), -torch.inf)


def constant(baseline: Baseline, logits: Tensor, loss: Tensor) -> Tensor:
    """The baseline as a tensor without gradient that broadcasts to the shape of loss."""
    if callable(baseline) and not isinstance(baseline, Tensor):
        baseline = baseline(logits.detach())
    b = torch.as_tensor(baseline, dtype=loss.dtype, device=loss.device).detach()
    if not broadcasts_to(b.shape, loss.shape):
        raise ValueError(
            f"baseline must broadcast to the shape of the losses, {tuple(loss.shape)}, but its shape is "
            f"{tuple(b.shape)}; pass one number for each loss, or one number for all"
        )
    return b


def uniform(gumbel: Tensor) -> Tensor:
    """``exp(-exp(-gumbel))``: the uniform number behind the noise; float64 resolves both ends of the noise."""
    return torch.exp(-torch.exp(-gumbel.double()))


def inverse_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """The item whose interval of the cumulative distribution holds u; -1 for a bad row. Never a forbidden item."""
    cdf = torch.softmax(logits.double(), -1).cumsum(-1)
    total = cdf[..., -1]  # 1, but for rounding: u stays strictly below it
    index = (cdf <= (u.clamp(max=1 - 2.0**-53) * total).unsqueeze(-1)).sum(-1)
    return index.masked_fill(total.isnan(), -1)
