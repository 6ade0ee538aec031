"""Structured choices: f sees structures (trees, subsets, matchings), whose parts have scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import count, number, one_of
from ..noise import KeyedNoise, work_dtype
from ..perturbation import Solver, as_solver
from ..relax import further_noise
from ..structures import Structure, check_structure, detached, part_noise, posterior_gumbel_trace, trace_log_prob
from ._common import Loss, above_others, call, sum_factors, with_gradient
from ._control_variates import controlled, trainable, tuned_in
from ._score_function import Baseline, constant

__all__ = ["implicit_mle", "trace_reinforce", "trace_relax"]


def trace_reinforce(
    f: Loss,
    scores: Tensor,
    *,
    structure: Structure,
    num_samples: int = 1,
    baseline: Baseline | str = "leave-one-out",
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s (f(y_s) - baseline) grad log P(trace_s)``: y_s is the structure that the race for ``scores + noise``
    finds, and the trace is how it goes.

    Unbiased for E f over the structures of the race, for any f. The score of the trace is the mean of the score of the
    noise given the trace, so its variance is never larger; the probability of the structure itself would have too many
    terms. f is called once, on num_samples structures; f need not be differentiable in them. A *keyed* function.

    Args:
        f: a function from structures of shape ``(num_samples, *batch, *factors, *event)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent structures of one
            joint choice.
        scores: scores of the parts, ``(*batch, *factors, *event)``, any floating dtype; -inf forbids a part.
        structure: what is chosen; it must have a trace.
        num_samples: the number of samples; the estimate is their mean.
        baseline: what is subtracted from the losses. ``"leave-one-out"``: the mean loss of the other samples (with one
            sample, nothing). Or a number, a tensor that broadcasts to ``(num_samples, *batch)``, or a function from the
            detached scores to such a tensor, which must not depend on the samples.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, *event)``, or a ``KeyedNoise`` with one row for
            each structure.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the structures, shape ``(*batch,)`` (float32 for half precision). Its gradient for scores is
        the estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN or +inf in scores; no structure left; losses, baseline or noise of another shape; both noise and
            generator; num_samples < 1. Where values may not be looked at (accelerators, ``torch.compile``, ``vmap``) a
            bad row gives NaN instead.
        TypeError: scores or losses that are not floating tensors; num_samples not an integer.
        NotImplementedError: a structure without a trace.

    Example:
        >>> import torch
        >>> from argumbel.estimators import trace_reinforce
        >>> from argumbel.structures import SpanningTree
        >>> scores = torch.zeros(32, 6, requires_grad=True)
        >>> degree = lambda tree: tree[..., :3].sum(-1)  # of node 0
        >>> loss = trace_reinforce(lambda y: degree(y) ** 2, scores, structure=SpanningTree(4), num_samples=4)
        >>> loss.mean().backward()

    Source: Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference in combinatorial
    spaces" (T-REINFORCE).
    """
    num_samples, x = _check(f, scores, structure, num_samples)
    flat = structure.flat(scores)
    g = _noise(scores, structure.event_ndim, num_samples, noise, generator)
    trace = structure.race(x + g)
    loss = call(f, trace.indicators.to(scores.dtype), flat)
    log_prob = sum_factors(trace_log_prob(scores.to(work_dtype(scores.dtype)), trace), loss)
    if isinstance(baseline, str):
        one_of("baseline", baseline, ("leave-one-out",))
        advantage = above_others(loss) if num_samples > 1 else loss.detach()
    else:
        advantage = loss.detach() - constant(baseline, scores, loss)
    return with_gradient(loss.mean(0), (advantage * log_prob).mean(0).to(loss.dtype))


def trace_relax(
    f: Loss,
    scores: Tensor,
    *,
    structure: Structure,
    c: Callable[[Tensor], Tensor],
    num_samples: int = 1,
    parameters: Iterable[Tensor] | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s [(f(y) - c(z~)) grad log P(trace) + grad c(z) - grad c(z~)]`` with a control variate c of yours: the
    :func:`relax` of structures.

    z = scores + noise, the trace is the race for z, y is its structure, and z~ are values given the trace
    (:func:`argumbel.posterior_gumbel_trace`). Unbiased, for any f and c: f may be a black box, c must be
    differentiable. f is called once, on num_samples structures, and c twice. A *keyed* function.

    **Tuning.** The gradient of the parameters of c is the gradient of the variance, so one optimizer may train all.

    Args:
        f, scores, structure, num_samples, generator: as :func:`trace_reinforce`.
        c: a function from perturbed scores z, of shape ``(num_samples, *batch, *factors, *event)`` and dtype float32 or
            float64, to numbers of shape ``(num_samples, *batch)``; z is -inf at forbidden parts.
        parameters: the tensors in c that are tuned; each requires a gradient. Default: the parameters of c if c is a
            ``torch.nn.Module``, else none.
        noise: as :func:`trace_reinforce`. The noise of z~ is made from it.

    Returns:
        The mean loss at the structures, shape ``(*batch,)``, as :func:`trace_reinforce`; there is no second derivative.

    Raises:
        ValueError: as :func:`trace_reinforce`; c of another shape.
        TypeError: as :func:`trace_reinforce`; c not a function, or not of floating tensors.
        NotImplementedError: as :func:`trace_reinforce`.

    Example:
        >>> import torch
        >>> from argumbel.estimators import trace_relax
        >>> from argumbel.structures import SpanningTree
        >>> scores = torch.zeros(32, 6, requires_grad=True)
        >>> network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> c = torch.nn.Sequential(network, torch.nn.Flatten(-2))  # (num_samples, 32, 1) to (num_samples, 32)
        >>> loss = trace_relax(lambda y: y[..., :3].sum(-1) ** 2, scores, structure=SpanningTree(4), c=c)
        >>> loss.mean().backward()
        >>> network[0].weight.grad.shape
        torch.Size([8, 6])

    Source: Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference in combinatorial
    spaces" (RELAX+); Grathwohl et al. 2018, "Backpropagation through the void: optimizing control variates for
    black-box gradient estimation".
    """
    num_samples, exact = _check(f, scores, structure, num_samples)
    flat = structure.flat(scores)
    tuned = trainable(tuned_in(c, parameters, "perturbed scores"))
    g = _noise(scores, structure.event_ndim, num_samples, noise, generator)
    (other,) = further_noise(structure.flat(g), 1, -1)
    other = other.reshape(g.shape)
    trace = structure.race(exact + g)
    loss = call(f, trace.indicators.to(scores.dtype), flat)
    if not torch.is_grad_enabled():
        return loss.mean(0)
    x = exact.to(g.dtype)

    def difference(x: Tensor) -> tuple[Tensor, Tensor]:
        control = call(c, posterior_gumbel_trace(x, trace, noise=other), flat)
        return (call(c, x + g, flat) - control).mean(0), control

    # By torch.func: the gradient may reach scores, and parameters inside c, by the estimate only.
    with torch.set_grad_enabled(bool(tuned)):
        value, pullback, control = torch.func.vjp(difference, x, has_aux=True)  # type: ignore[misc]
        (pathwise,) = pullback(torch.ones_like(value))
    with torch.no_grad():
        log_prob, pull = torch.func.vjp(lambda x: trace_log_prob(x, trace), x.expand_as(g))  # type: ignore[misc]
        (score,) = pull(torch.ones_like(log_prob))
    return controlled(loss, scores, pathwise, control, score, tuned)


def implicit_mle(
    f: Loss,
    scores: Tensor,
    solver: Structure | Solver | Callable[..., Any],
    *,
    num_samples: int = 1,
    sigma: float = 1,
    strength: float = 10,
    symmetric: bool = True,
    adaptive: bool = False,
    args: tuple[Any, ...] = (),
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s (y(v_s + strength g) - y(v_s - strength g)) / (2 strength)``, ``v = scores + sigma * noise``, with the
    solver ``y(v) = argmax <y, v>`` and ``g = grad f(y(v))``: how the solution moves if the scores move along the
    gradient of the loss.

    Biased: a finite difference of the gradient of ``E f`` in the case of a linear f; the bias falls with the square of
    strength, and the variance grows. The same noise is used on both sides. f is called once, on num_samples solutions,
    and must be differentiable there; the solver is called three times (not symmetric: twice). A *keyed* function.

    Args:
        f: a function from solutions of shape ``(num_samples, *batch, *factors, *event)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent problems of one
            joint choice.
        scores: ``(*batch, *factors, *event)``, any floating dtype; -inf forbids a part.
        solver: a structure; or a function from scores to solutions of their shape; or a
            :class:`argumbel.perturbation.Solver`.
        num_samples: the number of perturbed problems; the estimate is their mean.
        sigma: scale of the Gumbel noise, at least 0; 0 is no noise.
        strength: how far the scores are moved, in units of the gradient of the loss of one sample; above 0.
        symmetric: False for ``(y(v) - y(v - strength g)) / strength``, the form that was published first. It saves a
            call of the solver, and its bias falls only with strength.
        adaptive: strength is relative: each problem is moved by ``strength * |v| / |g|`` of its own.
        args: further arguments of the solver.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, *event)``, or a ``KeyedNoise`` with one row for
            each problem.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the solutions, shape ``(*batch,)`` (float32 for half precision). Its gradient for scores is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN or +inf in scores; no solution left; solutions, losses or noise of another shape; both noise and
            generator; num_samples < 1; sigma < 0; strength <= 0.
        TypeError: scores or losses that are not floating tensors; num_samples not an integer.

    Example:
        >>> import torch
        >>> from argumbel.estimators import implicit_mle
        >>> from argumbel.structures import SpanningTree
        >>> scores = torch.zeros(32, 6, requires_grad=True)
        >>> loss = implicit_mle(lambda y: (y[..., :3].sum(-1) - 2) ** 2, scores, SpanningTree(4), num_samples=4)
        >>> loss.mean().backward()

    Source: Niepert, Minervini and Franceschi 2021, "Implicit MLE: backpropagating through discrete exponential family
    distributions"; Minervini, Franceschi and Niepert 2023, "Adaptive perturbation-based gradient estimation for
    discrete latent variable models" (symmetric, adaptive).
    """
    problem = as_solver(solver, args)
    num_samples = count("num_samples", num_samples, least=1)
    _check_function(f)
    sigma = number("sigma", sigma, least=0)
    strength = number("strength", strength)
    if not strength > 0:
        raise ValueError(f"strength must be above 0, but it is {strength}; pass 1, say")
    exact = problem.prepared(detached(scores), None).x
    flat = problem.flat(scores)
    values = exact.expand(num_samples, *exact.shape)
    if sigma:
        values = values + sigma * _noise(scores, problem.event_ndim, num_samples, noise, generator)

    def solve(v: Tensor) -> Tensor:
        return problem.indicators(v, scores.dtype, args)

    y = solve(values)
    if not (torch.is_grad_enabled() and scores.requires_grad):
        return call(f, y.to(scores.dtype), flat).mean(0)
    loss, pullback = torch.func.vjp(lambda y: call(f, y, flat), y.to(scores.dtype))  # type: ignore[misc]
    g = pullback(torch.ones_like(loss))[0].detach().double()
    step = torch.full((), strength, dtype=torch.float64, device=g.device)
    if adaptive:
        event = tuple(range(-problem.event_ndim, 0))
        size = values.masked_fill(values == -torch.inf, 0).square().sum(event, keepdim=True).sqrt()
        steep = g.square().sum(event, keepdim=True).sqrt()
        step = torch.where(steep > 0, strength * size / steep.masked_fill(steep == 0, 1), 1)
        step = step.masked_fill(step == 0, 1)
    ahead, width = (solve(values + step * g), 2 * step) if symmetric else (y, step)
    estimate = ((ahead - solve(values - step * g)) / width).mean(0).to(loss.dtype)
    finite = scores.to(loss.dtype).masked_fill(scores == -torch.inf, 0)
    return with_gradient(loss.mean(0), (estimate * finite).flatten(loss.ndim - 1).sum(-1))


def _check(f: Loss, scores: Tensor, structure: Structure, num_samples: int) -> tuple[int, Tensor]:
    """num_samples, and scores in float64, -inf where forbidden."""
    _check_function(f)
    check_structure(structure)
    return count("num_samples", num_samples, least=1), structure.prepared(detached(scores), None).x


def _check_function(f: object) -> None:
    if not callable(f):
        raise TypeError(
            f"f must be a function of structures, but it is a {type(f).__name__}; pass a function that maps structures "
            "to losses"
        )


def _noise(
    scores: Tensor,
    event_ndim: int,
    num_samples: int,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Gumbel noise of each sample, ``(num_samples, *batch, *factors, *event)``."""
    return part_noise(scores.expand(num_samples, *scores.shape), event_ndim, noise, generator).detach()
