"""The score function with a relaxed control variate: unbiased for any f, and of little variance if f is nearly smooth.

With z = log softmax(logits) + G, b its argmax and z~ a draw of z given b, the score of c(z~) is known in two ways, by
its path and by its score; their difference has mean zero, whatever c is.

z~ may be the very z (*coupled*), which has the law of z given b: the two paths then differ in their derivatives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, can_raise, check_tau
from ..choice import gumbel_max
from ..noise import KeyedNoise, draw_like
from ..relax import further_noise, gumbel_softmax
from ..reverse import posterior_gumbel
from ._common import Loss, call, check_problem, one_hot, with_gradient

__all__ = ["rebar", "relax"]


def rebar(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    eta: float | Tensor = 1.0,
    tau: float | Tensor = 0.5,
    coupled: bool = False,
) -> Tensor:
    """``mean_s [(f(b) - c(z~)) grad log p(b) + grad c(z) - grad c(z~)]`` with ``c(z) = eta f(softmax(z / tau))``:
    :func:`reinforce` with the relaxed loss as its control variate.

    Unbiased, for any f, eta and tau > 0. f is called on 3 num_samples samples, of which num_samples are one-hot and the
    others *relaxed*, which it must accept; coupled, on 2 num_samples. A *keyed* function.

    **Tuning.** Where eta or tau is a tensor that requires a gradient, it gets that of the variance: of ``sum(g ** 2)``
    where g is the gradient that reaches logits. As the mean of g is the true gradient whatever they are, one step down
    it is a step of less variance, whatever the sign of the loss::

        log_eta, log_tau = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
        rebar(f, logits, eta=log_eta.exp(), tau=log_tau.exp()).mean().backward()

    Args:
        f: from one-hot and from relaxed samples of shape ``(num_samples, *logits.shape)`` to losses ``(num_samples,
            *batch)``. ``batch`` is a leading part of ``logits.shape[:-1]``; the dimensions after it are independent
            factors of one joint choice. It may not change buffers (batch normalisation in training mode does).
        logits: shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: how many samples the estimate is the mean of.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of Gumbel noise of shape ``(num_samples, *logits.shape)``, or a ``KeyedNoise``.
        eta: strength of the control variate, a number or a tensor that broadcasts to ``(num_samples, *batch)``; 0 is
            :func:`reinforce`.
        tau: its temperature, above 0, a number or a tensor that broadcasts against logits with size 1 at the items.
        coupled: take z itself as z~, as the authors do, rather than another draw given b. Faster, of about the same
            variance: now less, now more.

    Returns:
        The mean loss at the one-hot samples, of shape ``batch`` (float32 for half precision). Its gradient for logits
        is the estimate (once: it has no second derivative); for parameters inside f, the plain gradient of that mean.

    Raises:
        ValueError: bad logits, losses of another shape, noise of another shape, both noise and generator, tau <= 0.
            Where values may not be looked at (accelerators, ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors.

    Example:
        >>> import torch
        >>> from argumbel.estimators import rebar
        >>> logits = torch.zeros(32, 10, 4, requires_grad=True)
        >>> eta = torch.tensor(1.0, requires_grad=True)
        >>> rebar(lambda z: (z[..., 0].sum(-1) - 3) ** 2, logits, eta=eta).mean().backward()
        >>> eta.grad is not None
        True

    Source: Tucker et al. 2017, "REBAR: low-variance, unbiased gradient estimates for discrete latent variable models".
    """
    check_problem(f, logits, num_samples)
    tau = check_tau(tau, logits.expand(num_samples, *logits.shape), logits.ndim)
    frozen = can_raise(tau) and bool((tau < EXACT_BELOW).any()) if isinstance(tau, Tensor) else tau == 0
    if frozen:
        raise ValueError("tau must be above 0: the relaxed loss has no gradient at 0")

    def c(z: Tensor) -> Tensor:
        y = gumbel_softmax(z, tau, noise=torch.zeros_like(z))  # softmax(z / tau), -inf and large quotients minded
        return eta * call(f, y.to(logits.dtype), logits)

    return _estimate(f, c, logits, num_samples, generator, noise, [eta, tau], coupled)


def relax(
    f: Loss,
    logits: Tensor,
    *,
    c: Callable[[Tensor], Tensor],
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    parameters: Iterable[Tensor] | None = None,
    coupled: bool = False,
) -> Tensor:
    """``mean_s [(f(b) - c(z~)) grad log p(b) + grad c(z) - grad c(z~)]`` with a control variate c of yours.

    Unbiased, for any f and c: f may be a black box, c must be differentiable. f is called once, on num_samples one-hot
    samples, and c twice; coupled, once. A *keyed* function.

    **Tuning.** The parameters of c get the gradient of the variance, as eta and tau of :func:`rebar` do, so that one
    optimizer may train all.

    Args:
        f: as for :func:`reinforce`.
        c: from perturbed log-probabilities z = log softmax(logits) + noise, of shape ``(num_samples, *logits.shape)``
            and dtype float32 or float64, to numbers in the shape of f's losses; z is -inf at forbidden items. Useful is
            ``f(softmax(z / tau)) + network(z)``. It may not change buffers.
        parameters: what in c is to be tuned, tensors that require a gradient. Default: those of c if it is a
            ``torch.nn.Module``, else none.
        logits, num_samples, generator, noise, coupled: as :func:`rebar`.

    Returns, Raises: as :func:`rebar`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import relax
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> c = torch.nn.Sequential(network, torch.nn.Flatten(-2))  # (num_samples, 32, 1) to (num_samples, 32)
        >>> relax(lambda z: z[..., 0].round(), logits, c=c).mean().backward()
        >>> network[0].weight.grad.shape
        torch.Size([8, 4])

    Source: Grathwohl et al. 2018, "Backpropagation through the void: optimizing control variates for black-box gradient
    estimation".
    """
    check_problem(f, logits, num_samples)
    if not callable(c):
        raise TypeError(f"c must be a function of perturbed log-probabilities, but it is a {type(c).__name__}")
    if parameters is None:
        parameters = c.parameters() if isinstance(c, torch.nn.Module) else []
    return _estimate(f, lambda z: call(c, z, logits), logits, num_samples, generator, noise, list(parameters), coupled)


def _estimate(
    f: Loss,
    c: Callable[[Tensor], Tensor],
    logits: Tensor,
    num_samples: int,
    generator: torch.Generator | None,
    noise: Tensor | KeyedNoise | None,
    tuned: Iterable[object],
    coupled: bool,
) -> Tensor:
    x = logits.detach().expand(num_samples, *logits.shape)
    g = draw_like(x, x.ndim - 1, noise, generator, "gumbel").detach()
    index = gumbel_max(x, noise=g).indices
    samples = one_hot(index, logits)
    loss = call(f, samples, logits)
    if not torch.is_grad_enabled():
        return loss.mean(0)
    tuned = [t for t in tuned if isinstance(t, Tensor) and t.requires_grad]
    batch = loss.ndim - 1
    x = x[0].to(g.dtype)
    # By torch.func, for the gradient must reach neither logits nor what is inside f and c other than by `estimate`.
    with torch.set_grad_enabled(bool(tuned)):
        path, control = _coupled(c, x, g) if coupled else _apart(c, x, g, index)
        if control.shape != loss.shape:
            raise ValueError(
                f"the control variate must have the shape of the losses, {tuple(loss.shape)}, but c (or eta f) has the "
                f"shape {tuple(control.shape)}"
            )
        weight = (loss.detach() - control).reshape(*loss.shape, *[1] * (samples.ndim - loss.ndim))
        estimate = path + (weight * (samples - torch.softmax(x, -1))).mean(0)
    # Where logits are -inf the estimate is 0, but the product would be NaN.
    finite = logits.to(x.dtype).masked_fill(logits == -torch.inf, 0)
    result = with_gradient(loss.mean(0), (estimate.detach() * finite).flatten(batch).sum(-1))
    if tuned:
        result = result + _Tuning.apply(((estimate**2).flatten(batch).sum(-1), tuned), *tuned)
    return result


def _apart(c: Callable[[Tensor], Tensor], x: Tensor, g: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """``mean_s [grad c(z) - grad c(z~)]`` at logits x and ``c(z~)``, z~ another draw."""
    (given,) = further_noise(g, 1, -1)

    def gain(x: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(x, -1).expand_as(g)
        control = c(posterior_gumbel(log_p, index, noise=given))
        return (c(log_p + g) - control).mean(0), control

    value, pull, control = torch.func.vjp(gain, x, has_aux=True)  # type: ignore[misc]
    (path,) = pull(torch.ones_like(value))
    return path, control


def _coupled(c: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The same with z~ = z, as numbers; not as functions of log p: d z~[i] / d log p[i] is 1 - exp(z[i] - max z) where
    that of z[i] is 1, and the height max z moves by softmax(x), along which log p cannot go (see posterior_gumbel)."""
    z = torch.log_softmax(x, -1) + g
    control, pull = torch.func.vjp(c, z)  # type: ignore[misc]
    (slope,) = pull(torch.ones_like(control))
    slope = slope * torch.exp(z - z.amax(-1, keepdim=True))
    return (slope - torch.softmax(x, -1) * slope.sum(-1, keepdim=True)).mean(0), control


class _Tuning(torch.autograd.Function):
    """Zero; its gradient for what is tuned is that of the squared gradient of logits.

    Where the result has weight w in what is differentiated, the gradient of logits is w times the estimate: its square
    has w ** 2, whatever the sign of w. The graph of the variance is kept apart (in a tuple), for it also leads to
    parameters inside f, which it must not reach.
    """

    @staticmethod
    def forward(ctx: Any, graph: tuple[Tensor, list[Tensor]], *tuned: Tensor) -> Tensor:
        ctx.graph = graph
        return torch.zeros_like(graph[0])

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        variance, tuned = ctx.graph
        return None, *torch.autograd.grad(variance, tuned, weight**2, retain_graph=True, allow_unused=True)
