"""Exact one-hot draws with the gradient of something soft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.bits import view_bits
from .._core.checks import Rows, can_raise, check_tau, count, number
from ..choice import noise_for, race
from ..kernels.posterior import is_at
from ..kernels.softmax import straight_through as with_gradient
from ..kernels.softmax import tempered
from ..noise import KeyedNoise, work_dtype
from ..reverse import noise_given_winner
from ._softmax import gumbel_softmax, items_last, soft_dtype

__all__ = ["STRAIGHT_THROUGH", "further_noise", "straight_through"]


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

            ``"decoupled"``: ``softmax(logits / tau)``, while D is drawn from softmax(logits / temperature), for which
            ``temperature=1.0`` is a number; 0 is the argmax.
        tau: temperature of s, a number or a tensor that broadcasts against logits; must be above 0 to have a gradient.
        own: the arguments of one method named above.
        logits, dim, mask, noise, generator: as :func:`gumbel_softmax`.

    Returns:
        Exact one-hot vectors in the shape and dtype of logits.

    Raises:
        ValueError: an unknown method, num_conditional < 1, gap < 0, temperature < 0; else as :func:`gumbel_softmax`.
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
    known = _OWN[method]
    unknown = [name for name in own if name not in known]
    if unknown:
        raise TypeError(
            f"method {method!r} has no argument {', '.join(sorted(unknown))}; of its own it takes "
            f"{', '.join(known) or 'none'}"
        )
    return STRAIGHT_THROUGH[method](logits, tau, dim, mask, noise, generator, **own)


_Tau = float | Tensor
_Mask = Tensor | None
_Noise = Tensor | KeyedNoise | None
_Generator = torch.Generator | None


def _gumbel(logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator) -> Tensor:
    return gumbel_softmax(logits, tau, hard=True, dim=dim, mask=mask, noise=noise, generator=generator)


def _gumbel_rao(
    logits: Tensor,
    tau: _Tau,
    dim: int,
    mask: _Mask,
    noise: _Noise,
    generator: _Generator,
    *,
    num_conditional: int = 10,
) -> Tensor:
    num_conditional = count("num_conditional", num_conditional, least=1)
    rows = Rows(logits, dim)
    own = noise_for(rows, noise, generator).detach()
    draw = _Draw(logits, tau, dim, mask, rows.back(own), None)
    # The race's own noise is one draw given its winner. The others are made, and held fixed as the first is: with the
    # gradient that a conditional draw has in the logits, the mean would be another.
    noises = own.unsqueeze(0)
    if num_conditional > 1:
        others = torch.stack(further_noise(own, num_conditional - 1, -1))
        won = draw.hard.argmax(-1, keepdim=True)
        known = noise_given_winner(draw.x.detach().to(own.dtype), others, won.expand(len(others), *won.shape))
        noises = torch.cat([noises, known])
    values = draw.x + noises
    if isinstance(draw.tau, Tensor):  # which broadcasts against logits, of fewer dimensions than values
        draw.tau = draw.tau.reshape(*[1] * (draw.x.ndim - draw.tau.ndim), *draw.tau.shape).unsqueeze(-draw.x.ndim - 1)
    soft = draw.softmax(values - values.detach().amax(-1, keepdim=True))
    return draw.with_gradient_of(soft.mean(-draw.x.ndim - 1))


def _softmax(logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator) -> Tensor:
    return _decoupled(logits, tau, dim, mask, noise, generator)


def _reinmax(logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator) -> Tensor:
    draw = _Draw(logits, tau, dim, mask, noise, generator)
    middle = (draw.hard + draw.softmax(draw.x.detach())).detach() / 2
    return draw.with_gradient_of(2 * torch.softmax(draw.moved_to(middle.log()), -1) - torch.softmax(draw.x, -1) / 2)


def _gapped(
    logits: Tensor, tau: _Tau, dim: int, mask: _Mask, noise: _Noise, generator: _Generator, *, gap: float = 1.0
) -> Tensor:
    gap = number("gap", gap, least=0)
    draw = _Draw(logits, tau, dim, mask, noise, generator)
    lowered = torch.where(draw.hard > 0, 0.0, draw.x.detach().clamp(max=-gap))
    return draw.with_gradient_of(draw.softmax(draw.moved_to(lowered)))


def _decoupled(
    logits: Tensor,
    tau: _Tau,
    dim: int,
    mask: _Mask,
    noise: _Noise,
    generator: _Generator,
    *,
    temperature: float = 1.0,
) -> Tensor:
    temperature = number("temperature", temperature, least=0)
    draw = _Draw(logits, tau, dim, mask, noise, generator, temperature)
    return draw.with_gradient_of(draw.softmax(draw.x))


STRAIGHT_THROUGH: dict[str, Callable[..., Tensor]] = {
    "gumbel": _gumbel,
    "gumbel-rao": _gumbel_rao,
    "softmax": _softmax,
    "reinmax": _reinmax,
    "gapped": _gapped,
    "decoupled": _decoupled,
}
# Read here: in compiled code PyTorch 2.5 cannot ask a function for its defaults.
_OWN = {name: tuple(function.__kwdefaults__ or ()) for name, function in STRAIGHT_THROUGH.items()}


class _Draw:
    """A one-hot draw, ``hard`` (NaN in a bad row), and what its gradient may be made of: the logits ``x``, at least
    float32, shifted to a maximum of 0, and ``tau``, checked. Items last."""

    def __init__(
        self,
        logits: Tensor,
        tau: _Tau,
        dim: int,
        mask: _Mask,
        noise: _Noise,
        generator: _Generator,
        temperature: float = 1.0,
    ) -> None:
        self.rows = rows = Rows(logits, dim, mask)
        self.tau = items_last(check_tau(tau, logits, rows.dim), rows)
        y, height = rows.x.detach(), rows.x.detach().amax(-1, keepdim=True)
        if temperature != 1:
            if can_raise(y) and not bool(height.isfinite().all()):
                rows.complain(noise)
            y = tempered(y.to(work_dtype(y.dtype)) - height, temperature, -1, lambda values, _: values, 0.0, -torch.inf)
        _, index = race(rows.of(y), noise, generator)
        index = index.unsqueeze(-1)
        self.x = rows.x.to(work_dtype(y.dtype)) - height
        self.hard = is_at(index, self.x).to(self.x.dtype).masked_fill(index < 0, torch.nan)

    def softmax(self, values: Tensor) -> Tensor:
        return tempered(values, self.tau, -1, torch.softmax, 1.0, 0.0)

    def moved_to(self, values: Tensor) -> Tensor:
        """These values, with x for a gradient."""
        x = self.x.masked_fill(self.x == -torch.inf, 0)
        return values + (x - x.detach())

    def with_gradient_of(self, soft: Tensor) -> Tensor:
        """The one-hot vector, in the layout and dtype of logits."""
        y = with_gradient(self.hard.expand_as(soft), soft)
        return self.rows.back(y.to(soft_dtype(self.rows.x)))


_ODD = 0x1E3779B97F4A7C15


def further_noise(noise: Tensor, count: int, dim: int) -> list[Tensor]:
    """So many draws of noise in the same shape and dtype, keyed by the bits of each row of the noise given.

    They are independent of it as far as the bits' hash is random, and need no door of their own: what is made of one
    tensor of noise remains a function of it, row by row.
    """
    rows = noise.movedim(dim, -1)
    bits = view_bits(rows.contiguous(), torch.int64 if noise.dtype == torch.float64 else torch.int32).to(torch.int64)
    # Each item's bits are scattered over all 64 (multiplications wrap around), differently for each place.
    bits = (bits + _ODD * torch.arange(1, rows.shape[-1] + 1, device=noise.device)) * _ODD
    key = ((bits ^ (bits >> 32)) * _ODD).sum(-1)
    return [
        KeyedNoise(j, rows=key).gumbel(rows.shape, dtype=noise.dtype, device=noise.device).movedim(-1, dim)
        for j in range(count)
    ]
