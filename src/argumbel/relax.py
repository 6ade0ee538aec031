"""Relax: what if the winner of the race may be soft? Softmax relaxations and straight-through samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import kernels
from ._core.checks import (
    EXACT_BELOW,
    can_raise,
    check_dim,
    check_k,
    check_logits,
    check_tau,
    forbid,
    is_traced,
    raise_bad_logits,
)
from .choice import gumbel_max
from .noise import KeyedNoise, as_keyed, draw_like, fresh_seed, perturb, work_dtype
from .reverse import posterior_noise

__all__ = ["gumbel_sigmoid", "gumbel_softmax", "log_gumbel_softmax", "relaxed_topk", "straight_through"]


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

    A drop-in for ``torch.nn.functional.gumbel_softmax``. Its argmax is an exact draw from softmax(logits) at every
    temperature. A *keyed* function: the same ``KeyedNoise`` gives the same sample.

    Args:
        logits: any shape, any floating dtype; -inf forbids an item (it gets exactly 0, and no gradient).
        tau: temperature, a number, or a tensor that broadcasts against logits with size 1 along dim (its gradient is
            right too). As tau falls samples approach one-hot vectors; tau = 0 gives exactly these, and a zero gradient.
        hard: return the exact one-hot of the argmax, with the gradient of the soft sample (straight-through).
        eps: ignored; it keeps the argument order of torch.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits (under autocast, the dtype of torch's softmax) that sums to 1 along
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
    if noise is None and mask is None and generator is None and dim == -1 and type(tau) in (int, float):
        y = _plain_gumbel_softmax(logits, tau, hard)
        if y is not None:
            return y
    check_logits(logits)
    dim = check_dim(logits, dim)
    tau = check_tau(tau, logits, dim)
    x = forbid(logits, mask)
    if not isinstance(noise, Tensor):
        noise, generator = as_keyed(noise, generator, x.device), None
        y = _native_gumbel_softmax(x, tau, hard, dim, noise)
        if y is not None:
            return y
    keys, dim, dtype = _race(x, dim, noise, generator)
    soft = _tempered(keys, tau, dim, torch.softmax, 1.0, 0.0)
    return (_straight_through(_at_winner(keys, soft, dim, 1.0, 0.0), soft) if hard else soft).to(dtype)


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

    At tau = 0.1 and a thousand items most relaxed samples have entries that underflow; their logarithms do not.
    Arguments and errors as :func:`gumbel_softmax`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.relax import log_gumbel_softmax
        >>> bool(log_gumbel_softmax(torch.zeros(1000), tau=0.01).isfinite().all())
        True

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix C.
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    tau = check_tau(tau, logits, dim)
    keys, dim, dtype = _race(forbid(logits, mask), dim, noise, generator)
    return _tempered(keys, tau, dim, torch.log_softmax, 0.0, -torch.inf).to(dtype)


def gumbel_sigmoid(
    logits: Tensor,
    tau: float | Tensor = 1,
    hard: bool = False,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``sigmoid((logits + noise) / tau)`` with standard logistic noise: relaxed Bernoulli draws.

    Logistic noise is the difference of two Gumbels, so this is :func:`gumbel_softmax` over two items. The sample is
    above 1/2 with probability sigmoid(logits) at every temperature. A *keyed* function.

    Args:
        logits: log odds, any shape, any floating dtype; +-inf are certain.
        tau: temperature, a number or a tensor that broadcasts against logits; 0 gives exactly 0 or 1.
        hard: return exactly 0 or 1, with the gradient of the soft sample (straight-through).
        noise: a tensor of logistic noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits.

    Raises:
        ValueError: NaN in logits (NaN results where they may not be looked at), tau < 0, noise of the wrong shape, both
            noise and generator.
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
    keys = logits + draw_like(logits, logits.ndim - 1, noise, generator, "logistic")
    if can_raise(keys) and bool(keys.isnan().any()):
        raise ValueError("logits (and noise) must not be NaN, but some are; find where they come from")
    winner = torch.where(keys.isnan(), torch.nan, (keys > 0).to(keys.dtype))
    if isinstance(tau, Tensor) or tau == 0:
        frozen = torch.as_tensor(tau, device=keys.device) < EXACT_BELOW
        soft = torch.where(frozen, winner, torch.sigmoid(_over(keys, torch.where(frozen, 1, tau))))
    else:
        soft = torch.sigmoid(_over(keys, tau))
    return (_straight_through(winner, soft) if hard else soft).to(logits.dtype)


def relaxed_topk(
    logits: Tensor,
    k: int,
    tau: float | Tensor = 1,
    hard: bool = False,
    dim: int = -1,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A relaxed k-hot draw of k items without replacement: k successive softmaxes of ``logits + noise``.

    ``sum_j a_j`` with ``a_j = softmax(x_j / tau)``, ``x_1 = logits + noise``, ``x_{j+1} = x_j + log(1 - a_j)``. As tau
    falls it approaches the k-hot vector of :func:`argumbel.gumbel_topk` under the same noise. A *keyed* function.

    Args:
        logits: any shape, any floating dtype; -inf forbids an item.
        k: how many items, at most the number of allowed items in every row.
        tau: temperature, a number or a tensor that broadcasts against logits; 0 gives the exact k-hot vector.
        hard: return the exact k-hot vector of the top k, with the gradient of the soft one (straight-through).
        dim: where the items lie.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits that sums to k along dim, with entries at least 0 (at high temperature
        an entry may exceed 1: the same item can lead two of the softmaxes).

    Raises:
        ValueError, TypeError: as :func:`argumbel.gumbel_topk`; tau < 0.

    Example:
        >>> import torch, argumbel as ag
        >>> y = ag.relaxed_topk(torch.zeros(2, 6), k=2, tau=0.5)
        >>> torch.allclose(y.sum(-1), torch.tensor([2.0, 2.0]))
        True

    Source: Xie and Ermon 2019, "Reparameterizable subset sampling via continuous relaxations".
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    tau = check_tau(tau, logits, dim)
    check_k(k, logits.shape[dim])
    keys, dim, dtype = _race(logits, dim, noise, generator, k)
    exact = torch.zeros_like(keys).scatter(dim, keys.topk(k, dim).indices, 1.0) + 0 * keys.detach().amax(
        dim, keepdim=True
    )
    tau = torch.as_tensor(tau, dtype=keys.dtype, device=keys.device)
    frozen = tau < EXACT_BELOW
    soft = torch.where(frozen, exact, _successive_softmaxes(keys, k, torch.where(frozen, 1, tau), dim))
    return (_straight_through(exact.expand_as(soft), soft) if hard else soft).to(dtype)


def straight_through(
    logits: Tensor,
    *,
    method: str = "gumbel",
    tau: float | Tensor = 1,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
    **own: Any,
) -> Tensor:
    """``one_hot(z) + (s - s.detach())``: an exact one-hot draw z from softmax(logits) with the gradient of a soft s.

    How a discrete sample can have a gradient: forward it is the one-hot vector; backward it is treated as if it had
    been the soft vector s. The gradient is biased but usually of low variance. A *keyed* function: all methods draw the
    same z under the same noise (``"decoupled"`` with its default argument).

    Args:
        method: what s is. With D the one-hot draw, p = softmax(logits) and sg = detach,

            ``"gumbel"``: the relaxed sample of the same noise, ``softmax((logits + noise) / tau)`` (straight-through
            Gumbel-softmax). ``"gumbel-rao"``: the mean of that over ``num_conditional=10`` draws of the noise given D,
            each held fixed: the same mean gradient, less variance.

            ``"softmax"``: ``softmax(logits / tau)`` (plain straight-through; its mean is exact for linear losses at
            tau = 1). ``"reinmax"``: ``2 softmax(sg(log q - logits) + logits) - p / 2`` with
            ``q = (D + softmax(logits / tau)) / 2`` (its mean is exact for quadratic losses too, at tau = 1; it is meant
            for tau >= 1; tau gets no gradient).

            ``"gapped"``: ``softmax((logits + sg(m)) / tau)``, where m lifts the logit of D to the largest, and lowers
            the others to ``gap=1.0`` below it where they are above that.

            ``"decoupled"``: ``softmax(logits / tau)``, while D is drawn from softmax(logits / forward_tau), for which
            ``forward_tau=1.0`` is a number; 0 is the argmax.
        tau: temperature of s, a number or a tensor that broadcasts against logits; must be above 0 to have a gradient.
        own: the arguments of one method named above.
        logits, dim, mask, noise, generator: as :func:`gumbel_softmax`.

    Returns:
        Exact one-hot vectors in the shape and dtype of logits.

    Raises:
        ValueError: an unknown method, num_conditional < 1, gap < 0, forward_tau < 0; else as :func:`gumbel_softmax`.
        TypeError: an argument that the method has not; else as :func:`gumbel_softmax`.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        >>> z = ag.straight_through(logits, method="softmax")
        >>> (z * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        >>> logits.grad
        tensor([-0.1418, -0.1408,  0.2826])

    Source: Bengio, Leonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons for
    conditional computation" (softmax); Jang, Gu and Poole 2017 (gumbel); Paulus, Maddison and Krause 2021,
    "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator"; Liu et al. 2023, "Bridging discrete and
    backpropagation: straight-through and beyond" (reinmax); Fan et al. 2022, "Training discrete deep generative models
    via gapped straight-through estimator"; Shah et al. 2024, "Improving discrete optimisation via decoupled
    straight-through Gumbel-softmax".
    """
    if method not in STRAIGHT_THROUGH:
        raise ValueError(f"method must be one of {sorted(STRAIGHT_THROUGH)}, but it is {method!r}")
    function = STRAIGHT_THROUGH[method]
    known = function.__kwdefaults__ or {}
    if not own.keys() <= known.keys():
        raise TypeError(
            f"method {method!r} has no argument {', '.join(sorted(own.keys() - known.keys()))}; of its own it takes "
            f"{', '.join(known) or 'none'}"
        )
    return function(logits, tau, dim, mask, noise, generator, **own)


_Tau = float | Tensor
_Mask = Tensor | None
_Noise = Tensor | KeyedNoise | None
_Generator = torch.Generator | None


def _st_gumbel(logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator) -> Tensor:
    return gumbel_softmax(logits, tau, hard=True, dim=dim, mask=mask, noise=noise, generator=generator)


def _st_gumbel_rao(
    logits: Tensor,
    tau: _Tau,
    dim: int,
    mask: _Mask,
    noise: _Noise,
    generator: _Generator,
    *,
    num_conditional: int = 10,
) -> Tensor:
    if isinstance(num_conditional, bool) or not isinstance(num_conditional, int):
        raise TypeError(f"num_conditional must be an integer, but it is a {type(num_conditional).__name__}")
    if num_conditional < 1:
        raise ValueError(f"num_conditional must be at least 1, but it is {num_conditional}")
    check_logits(logits)
    race = draw_like(logits, check_dim(logits, dim), noise, generator, "gumbel").detach()
    x, hard, tau, dim = _drawn(logits, tau, dim, mask, race, None)
    # The race's own noise is one draw given its winner. The others are made, and held fixed as the first is: with the
    # gradient that a conditional draw has in the logits, the mean would be another.
    others = further_noise(race, num_conditional - 1, dim)
    winner, front = hard.argmax(dim), dim + x.ndim
    noises = [race, *(posterior_noise(x.detach(), winner, dim=front, noise=g) for g in others)]
    keys = x + torch.stack(noises)
    if isinstance(tau, Tensor):  # which broadcasts against logits, of fewer dimensions than keys
        tau = tau.reshape(*[1] * (x.ndim - tau.ndim), *tau.shape).unsqueeze(-x.ndim - 1)
    soft = _tempered(keys - keys.detach().amax(dim, keepdim=True), tau, dim, torch.softmax, 1.0, 0.0)
    return _dressed(hard, soft.mean(-x.ndim - 1), logits)


def _st_softmax(logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator) -> Tensor:
    return _st_decoupled(logits, tau, dim, mask, noise, generator)


def _st_reinmax(logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator) -> Tensor:
    x, hard, tau, dim = _drawn(logits, tau, dim, mask, noise, generator)
    middle = (hard + _tempered(x.detach(), tau, dim, torch.softmax, 1.0, 0.0)).detach() / 2
    soft = 2 * torch.softmax(_moved_to(middle.log(), x), dim) - torch.softmax(x, dim) / 2
    return _dressed(hard, soft, logits)


def _st_gapped(
    logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator, *, gap: float = 1.0
) -> Tensor:
    _check_nonnegative("gap", gap)
    x, hard, tau, dim = _drawn(logits, tau, dim, mask, noise, generator)
    keys = _moved_to(torch.where(hard > 0, 0.0, x.detach().clamp(max=-gap)), x)
    return _dressed(hard, _tempered(keys, tau, dim, torch.softmax, 1.0, 0.0), logits)


def _st_decoupled(
    logits: Tensor,
    tau: _Tau,
    dim: int,
    mask: _Mask,
    noise: _Noise,
    generator: _Generator,
    *,
    forward_tau: float = 1.0,
) -> Tensor:
    _check_nonnegative("forward_tau", forward_tau)
    x, hard, tau, dim = _drawn(logits, tau, dim, mask, noise, generator, forward_tau)
    return _dressed(hard, _tempered(x, tau, dim, torch.softmax, 1.0, 0.0), logits)


STRAIGHT_THROUGH: dict[str, Callable[..., Tensor]] = {
    "gumbel": _st_gumbel,
    "gumbel-rao": _st_gumbel_rao,
    "softmax": _st_softmax,
    "reinmax": _st_reinmax,
    "gapped": _st_gapped,
    "decoupled": _st_decoupled,
}


def _drawn(
    logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator, forward_tau: float = 1.0
) -> tuple[Tensor, Tensor, _Tau, int]:
    """Logits, at least float32, shifted to a maximum of 0; the one-hot draw, NaN in a bad row; tau, checked; and dim
    counted from the back."""
    check_logits(logits)
    dim = check_dim(logits, dim)
    tau = check_tau(tau, logits, dim)
    x = forbid(logits, mask)
    y, height = x.detach(), x.detach().amax(dim, keepdim=True)
    if forward_tau != 1:
        if can_raise(y) and not bool(height.isfinite().all()):
            raise_bad_logits(y, dim, noise)
        y = _tempered(y.to(work_dtype(y.dtype)) - height, forward_tau, dim, lambda keys, _: keys, 0.0, -torch.inf)
    index = gumbel_max(y, dim=dim, noise=noise, generator=generator).indices.unsqueeze(dim)
    items = torch.arange(x.shape[dim], device=x.device).reshape(-1, *[1] * (x.ndim - 1 - dim))
    x = x.to(work_dtype(x.dtype))
    return x - height, (items == index).to(x.dtype).masked_fill(index < 0, torch.nan), tau, dim - x.ndim


def _dressed(hard: Tensor, soft: Tensor, logits: Tensor) -> Tensor:
    return _straight_through(hard.expand_as(soft), soft).to(_soft_dtype(logits))


def _moved_to(values: Tensor, x: Tensor) -> Tensor:
    """These values, with x for a gradient."""
    x = x.masked_fill(x == -torch.inf, 0)
    return values + (x - x.detach())


def further_noise(noise: Tensor, count: int, dim: int) -> list[Tensor]:
    """So many draws of noise in the same shape and dtype, keyed by the bits of each row of the noise given.

    They are independent of it as far as the bits' hash is random, and need no door of their own: what is made of one
    tensor of noise remains a function of it, row by row.
    """
    rows = noise.movedim(dim, -1)
    bits = rows.contiguous().view(torch.int64 if noise.dtype == torch.float64 else torch.int32).to(torch.int64)
    # Each item's bits are scattered over all 64 (multiplications wrap around), differently for each place.
    bits = (bits + _ODD * torch.arange(1, rows.shape[-1] + 1, device=noise.device)) * _ODD
    key = ((bits ^ (bits >> 32)) * _ODD).sum(-1)
    return [
        KeyedNoise(j, rows=key).gumbel(rows.shape, dtype=noise.dtype, device=noise.device).movedim(-1, dim)
        for j in range(count)
    ]


_ODD = 0x1E3779B97F4A7C15


def _check_nonnegative(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, but it is a {type(value).__name__}; pass float({name})")
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, but it is {value}")


def _plain_gumbel_softmax(x: Tensor, tau: float | Tensor, hard: bool) -> Tensor | None:
    """The commonest call by the shortest way: on a row of ten, the door would cost more than the sample."""
    if (
        type(x) not in (Tensor, torch.nn.Parameter)
        or x.dtype != torch.float32
        or x.ndim == 0
        or x.shape[-1] == 0
        or not tau >= EXACT_BELOW
        or torch.compiler.is_compiling()
        or not kernels.is_native(x)
    ):
        return None
    y, bad = kernels.gumbel_softmax(
        x, kernels.cached_temperature(float(tau)), hard, (fresh_seed(None, x.device), None, None)
    )
    if bad:
        raise_bad_logits(x.detach(), x.ndim - 1)
    return y


def _native_gumbel_softmax(x: Tensor, tau: float | Tensor, hard: bool, dim: int, noise: KeyedNoise) -> Tensor | None:
    """The same by a native kernel, or None where there is none for these arguments."""
    items_last = x if dim == x.ndim - 1 else x.movedim(dim, -1)
    key = noise.key(items_last.shape, x.device)
    if not kernels.is_native(items_last, key):
        return None
    if isinstance(tau, Tensor):
        rows = _tau_of_rows(tau, x, dim)
        if rows is None:
            return None
    else:
        rows = kernels.temperature(float(tau), x.device)
        hard = hard or tau == 0
    dtype = _soft_dtype(x)
    y, bad = kernels.gumbel_softmax(items_last if x.dtype == dtype else items_last.to(dtype), rows, hard, key)
    if bad:
        raise_bad_logits(x.detach(), dim)
    return y if dim == x.ndim - 1 else y.movedim(-1, dim)


def _tau_of_rows(tau: Tensor, x: Tensor, dim: int) -> Tensor | None:
    """tau as the kernels take it, of one element or one a row; None where it is more than that, or somewhere 0."""
    if tau.device != x.device or is_traced(tau) or (can_raise(tau) and not bool((tau >= EXACT_BELOW).all())):
        return None
    if tau.numel() == 1 and tau.ndim <= x.ndim:
        return tau.float()
    rows = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
    try:
        if torch.broadcast_shapes(tau.shape, rows) != rows:
            return None
    except RuntimeError:
        return None
    return tau.float().expand(rows).movedim(dim, -1).squeeze(-1).contiguous()


def _race(
    x: Tensor, dim: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None, k: int = 1
) -> tuple[Tensor, int, torch.dtype]:
    """Perturbed logits shifted to a maximum of 0 (no softmax minds, and no tau makes it overflow), the dim counted from
    the back (a tensor tau may add dimensions in front), and the dtype of the result. A bad row is NaN throughout."""
    keys = perturb(x, dim, noise, generator)
    height = keys.detach().amax(dim, keepdim=True)
    last = height if k <= 1 else keys.detach().topk(k, dim).values.narrow(dim, k - 1, 1)
    if can_raise(keys) and not bool((height.isfinite() & last.isfinite()).all()):
        raise_bad_logits(x.detach(), dim, noise, k)
    return keys - height + 0 * last, dim - x.ndim, _soft_dtype(x)


def _soft_dtype(x: Tensor) -> torch.dtype:
    """What torch's own softmax returns: under autocast some devices answer half precision in float32."""
    half, device = x.dtype in (torch.float16, torch.bfloat16), x.device.type
    if half and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.softmax(x.new_zeros(1), 0).dtype
    return x.dtype


def _over(keys: Tensor, tau: float | Tensor) -> Tensor:
    """``keys / tau`` for tau > 0, infinite keys staying what they are: meeting tau, they would make NaN of an infinite
    one, and of the gradient of any. So would keys whose quotient is too large for the dtype."""
    quotient = keys.detach() / (tau.detach() if isinstance(tau, Tensor) else tau)
    infinite = keys.isinf() | quotient.isinf()
    return torch.where(infinite, keys.detach() * torch.inf, keys.masked_fill(infinite, 0) / tau)


def _tempered(
    keys: Tensor,
    tau: float | Tensor,
    dim: int,
    softmax: Callable[[Tensor, int], Tensor],
    one: float,
    zero: float,
) -> Tensor:
    """``softmax(keys / tau)``; the exact argmax (``one`` there, else ``zero``) where tau is 0."""
    if not isinstance(tau, Tensor):
        return softmax(_over(keys, tau), dim) if tau > 0 else _at_winner(keys, keys, dim, one, zero)
    frozen = tau < EXACT_BELOW
    soft = softmax(_over(keys, torch.where(frozen, 1, tau)), dim)
    if can_raise(tau) and not bool(frozen.any()):
        return soft
    return torch.where(frozen, _at_winner(keys, soft, dim, one, zero), soft)


def _at_winner(keys: Tensor, like: Tensor, dim: int, one: float, zero: float) -> Tensor:
    """``one`` at the argmax of keys and ``zero`` elsewhere, in the shape of ``like``; NaN in a bad row.

    By index: two items may tie in value, never in index.
    """
    index = keys.argmax(dim, keepdim=True).expand_as(like.narrow(dim, 0, 1))
    exact = torch.full_like(like, zero, requires_grad=False).scatter(dim, index, one)
    return exact + 0 * keys.amax(dim, keepdim=True)


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """hard, with the gradient of soft. The bracket is exactly zero, so the value stays exactly hard."""
    return hard + (soft - soft.detach())


def _successive_softmaxes(keys: Tensor, k: int, tau: Tensor, dim: int) -> Tensor:
    total = torch.zeros_like(keys / tau)
    x = keys
    for j in range(k):
        z = _over(x - x.detach().amax(dim, keepdim=True), tau)
        a = torch.softmax(z, dim)
        total = total + a
        if j + 1 < k:
            # log(1 - a): where a may be near 1, at the largest item, it is the logsumexp of the rest over that of all.
            top = z.argmax(dim, keepdim=True)
            largest = torch.zeros_like(z, dtype=torch.bool).scatter(dim, top, True)
            rest = z.masked_fill(largest, -torch.inf).logsumexp(dim, keepdim=True) - z.logsumexp(dim, keepdim=True)
            x = x + torch.where(largest, rest, torch.log1p(-a.masked_fill(largest, 0)))
    return total
