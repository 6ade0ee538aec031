"""The score function with a relaxed control variate: unbiased for any f; of little variance if f is nearly smooth.

With z = log softmax(logits) + G, b the argmax of z, and z~ a draw of z given b, the derivative of ``E c(z~)`` is known
in two ways: along the path of z~, and by the score function. The difference of the two estimates has mean zero,
whatever c is, so it can be added to the estimate for f.

z~ may be z itself (*coupled*): z has the law of z given b. The derivatives along the two paths then still differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, can_raise, check_tau
from .._core.elementwise import log_softmax
from ..choice import gumbel_max
from ..noise import KeyedNoise, draw_like
from ..relax import further_noise, gumbel_softmax
from ..reverse import posterior_gumbel
from ._common import Loss, call, check_problem, one_hot, with_gradient

__all__ = ["controlled", "rebar", "relax", "trainable", "tuned_in"]


def rebar(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    eta: float | Tensor = 1.0,
    tau: float | Tensor = 0.5,
    coupled: bool = False,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s [(f(b) - c(z~)) grad log p(b) + grad c(z) - grad c(z~)]`` with ``c(z) = eta f(softmax(z / tau))``.

    :func:`reinforce` with the relaxed loss as its control variate: z = log softmax(logits) + noise, b is the argmax of
    z, and z~ is a draw of z given b. Unbiased, for any f, any eta and any tau > 0. f is called on 3 num_samples samples
    (coupled: 2 num_samples). Of these samples num_samples are one-hot and the others are *relaxed*; f must accept both
    kinds. A *keyed* function.

    **Tuning.** If eta or tau is a tensor that requires a gradient, its gradient is the gradient of the variance: of
    ``sum(g ** 2)``, where g is the gradient that reaches logits. The mean of g is the true gradient for all eta and
    tau, so a step down this gradient lowers the variance, whatever the sign of the loss::

        log_eta = torch.zeros((), requires_grad=True)
        log_tau = torch.zeros((), requires_grad=True)
        rebar(f, logits, eta=log_eta.exp(), tau=log_tau.exp()).mean().backward()

    Args:
        f: a function from one-hot and from relaxed samples of shape ``(num_samples, *batch, *factors, n)`` to losses of
            shape ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of
            one joint choice. f may not change buffers (batch normalisation in training mode does).
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: the number of one-hot samples; the estimate is their mean.
        eta: strength of the control variate, a number or a tensor that broadcasts to ``(num_samples, *batch)``; 0 is
            :func:`reinforce`.
        tau: divides the perturbed logits in the control variate: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``; above 0.
        coupled: take z itself as z~, as the authors do, in place of another draw given b. Faster. The variance is about
            the same: sometimes smaller, sometimes larger.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the one-hot samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits
        is the estimate; there is no second derivative. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; losses or noise of another shape; both noise
            and generator; num_samples < 1; tau <= 0. Where values may not be looked at (accelerators,
            ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples not an integer.

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
    num_samples = check_problem(f, logits, num_samples)
    tau = check_tau(tau, logits.expand(num_samples, *logits.shape), logits.ndim)
    at_zero = can_raise(tau) and bool((tau < EXACT_BELOW).any()) if isinstance(tau, Tensor) else tau == 0
    if at_zero:
        least = float(tau.detach().min()) if isinstance(tau, Tensor) else tau
        raise ValueError(f"tau must be above 0, but it is {least}: the relaxed loss has no gradient at 0; try 0.5")

    def c(z: Tensor) -> Tensor:
        y = gumbel_softmax(z, tau, noise=torch.zeros_like(z))  # softmax(z / tau); -inf and large quotients are safe
        return eta * call(f, y.to(logits.dtype), logits)

    return _estimate(f, c, logits, num_samples, noise, generator, [eta, tau], coupled)


def relax(
    f: Loss,
    logits: Tensor,
    *,
    c: Callable[[Tensor], Tensor],
    num_samples: int = 1,
    parameters: Iterable[Tensor] | None = None,
    coupled: bool = False,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s [(f(b) - c(z~)) grad log p(b) + grad c(z) - grad c(z~)]`` with a control variate c of yours.

    z = log softmax(logits) + noise, b its argmax, and z~ is a draw of z given b. Unbiased, for any f and c: f may be a
    black box, c must be differentiable. f is called once, on num_samples one-hot samples, and c twice (coupled: once).
    A *keyed* function.

    **Tuning.** The gradient of the parameters of c is the gradient of the variance, as it is for eta and tau of
    :func:`rebar`. So one optimizer may train all.

    Args:
        f: a function from one-hot samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice.
        c: a function from perturbed log-probabilities z, of shape ``(num_samples, *batch, *factors, n)`` and dtype
            float32 or float64, to numbers of shape ``(num_samples, *batch)``; z is -inf at forbidden items. Useful is
            ``f(softmax(z / tau)) + network(z)``. c may not change buffers.
        parameters: the tensors in c that are tuned; each requires a gradient. Default: the parameters of c if c is a
            ``torch.nn.Module``, else none.
        logits, num_samples, coupled, noise, generator: as :func:`rebar`.

    Returns:
        The mean loss at the one-hot samples, shape ``(*batch,)``, as :func:`rebar`.

    Raises:
        ValueError: as :func:`rebar`; c of another shape.
        TypeError: as :func:`rebar`; c not a function, or not of floating tensors.

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
    num_samples = check_problem(f, logits, num_samples)
    tuned = tuned_in(c, parameters, "perturbed log-probabilities")
    return _estimate(f, lambda z: call(c, z, logits), logits, num_samples, noise, generator, tuned, coupled)


def tuned_in(c: Callable[[Tensor], Tensor], parameters: Iterable[Tensor] | None, of: str) -> list[Tensor]:
    """The tensors in c that are tuned; c is a function of what ``of`` says."""
    if not callable(c):
        raise TypeError(
            f"c must be a function of {of}, but it is a {type(c).__name__}; pass a function or a torch.nn.Module"
        )
    if parameters is None:
        # Not isinstance: in compiled code PyTorch 2.5 does not know the type of a function that is made there.
        parameters = c.parameters() if hasattr(c, "parameters") else []
    return list(parameters)


def trainable(tuned: Iterable[object]) -> list[Tensor]:
    return [t for t in tuned if isinstance(t, Tensor) and t.requires_grad]


def _estimate(
    f: Loss,
    c: Callable[[Tensor], Tensor],
    logits: Tensor,
    num_samples: int,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
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
    wanted = trainable(tuned)
    x = x[0].to(g.dtype)
    # By torch.func: the gradient may reach logits, and parameters inside f and c, by `estimate` only.
    with torch.set_grad_enabled(bool(wanted)):
        pathwise, control = _coupled(c, x, g) if coupled else _conditional(c, x, g, index)
    return controlled(loss, logits, pathwise, control, samples - torch.softmax(x, -1), wanted)


def controlled(
    loss: Tensor, logits: Tensor, pathwise: Tensor, control: Tensor, score: Tensor, tuned: list[Tensor]
) -> Tensor:
    """The mean loss, whose gradient for logits is ``pathwise + mean_s (loss - control) score``, and whose gradient for
    what is tuned is the gradient of the variance of this estimate."""
    if control.shape != loss.shape:
        raise ValueError(
            f"the control variate (c, or eta f) must have the shape of the losses, {tuple(loss.shape)}, but its "
            f"shape is {tuple(control.shape)}; return one number per loss"
        )
    batch = loss.ndim - 1
    with torch.set_grad_enabled(bool(tuned)):
        weight = (loss.detach() - control).reshape(*loss.shape, *[1] * (score.ndim - loss.ndim))
        estimate = pathwise + (weight * score).mean(0)
    # Where logits are -inf the estimate is 0, but the product would be NaN.
    finite = logits.to(estimate.dtype).masked_fill(logits == -torch.inf, 0)
    result = with_gradient(loss.mean(0), (estimate.detach() * finite).flatten(batch).sum(-1))
    if tuned:
        result = result + _Tuning.apply(((estimate**2).flatten(batch).sum(-1), tuned), *tuned)
    return result


def _conditional(c: Callable[[Tensor], Tensor], x: Tensor, g: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """``mean_s [grad c(z) - grad c(z~)]`` at logits x, and ``c(z~)``; z~ is another draw given the winner."""
    (other,) = further_noise(g, 1, -1)

    def difference(x: Tensor) -> tuple[Tensor, Tensor]:
        log_p = log_softmax(x).expand_as(g)
        control = c(posterior_gumbel(log_p, index, noise=other))
        return (c(log_p + g) - control).mean(0), control

    value, pullback, control = torch.func.vjp(difference, x, has_aux=True)  # type: ignore[misc]
    (pathwise,) = pullback(torch.ones_like(value))
    return pathwise, control


def _coupled(c: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The same with z~ = z. The two are equal as numbers, not as functions of log p: d z[i] / d log p[i] is 1, but
    d z~[i] / d log p[i] is 1 - exp(z[i] - max z). The maximum of z~ moves by softmax(x), and normalised log p cannot
    move along softmax(x) (see posterior_gumbel)."""
    z = log_softmax(x) + g
    control, pullback = torch.func.vjp(c, z)  # type: ignore[misc]
    (gradient,) = pullback(torch.ones_like(control))
    gradient = gradient * torch.exp(z - z.amax(-1, keepdim=True))
    return (gradient - torch.softmax(x, -1) * gradient.sum(-1, keepdim=True)).mean(0), control


class _Tuning(torch.autograd.Function):
    """Zero; its gradient for the tuned tensors is the gradient of the squared gradient of logits.

    If the result has weight w in the loss, the gradient of logits is w times the estimate, and the square has the
    weight w ** 2, whatever the sign of w. The graph of the variance is passed in a tuple, so that autograd does not see
    it: it also leads to parameters inside f, which must not get this gradient.
    """

    @staticmethod
    def forward(ctx: Any, graph: tuple[Tensor, list[Tensor]], *tuned: Tensor) -> Tensor:
        ctx.graph = graph
        return torch.zeros_like(graph[0])

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        variance, tuned = ctx.graph
        return None, *torch.autograd.grad(variance, tuned, weight**2, retain_graph=True, allow_unused=True)
