"""Exact one-hot draws with the gradient of a soft vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.bits import view_bits
from .._core.checks import Rows, can_raise, check_tau, count, number, one_of
from ..choice import noise_for, race
from ..kernels.posterior import is_at
from ..kernels.softmax import softened
from ..kernels.softmax import straight_through as with_gradient
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
    """``D + s - s.detach()``: the one-hot vector D of an exact draw from softmax(logits), with the gradient of a soft
    vector s.

    The forward pass returns the one-hot vector. The backward pass computes as if the function had returned the soft
    vector. The gradient is biased, but usually has a low variance. A *keyed* function: under the same noise all methods
    draw the same D (the method ``"decoupled"`` only at its default temperature).

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        method: which soft vector s is. With p = softmax(logits) and sg(x) = x.detach():

            ``"gumbel"``: ``softmax((logits + noise) / tau)``, with the noise of the draw (straight-through
            Gumbel-softmax).

            ``"gumbel-rao"``: the mean of the vector of ``"gumbel"`` over ``num_conditional=10`` draws of the noise
            given D. The noise is held fixed: it has no gradient. The mean gradient is the mean gradient of
            ``"gumbel"``, with less variance.

            ``"softmax"``: ``softmax(logits / tau)`` (plain straight-through). For linear losses the mean gradient is
            exact at tau = 1.

            ``"reinmax"``: ``2 softmax(sg(log q - logits) + logits) - p / 2``, ``q = (D + softmax(logits / tau)) / 2``.
            For linear and quadratic losses the mean gradient is exact at tau = 1. Meant for tau >= 1; tau gets no
            gradient.

            ``"gapped"``: ``softmax((logits + sg(m)) / tau)``. The shift m raises the logit of the item drawn to the
            largest logit, and lowers every other logit to at least ``gap=1.0`` below the largest.

            ``"decoupled"``: ``softmax(logits / tau)``, while D is drawn from ``softmax(logits / temperature)``, where
            ``temperature=1.0`` is a number; at 0 the item drawn is the argmax.
        tau: divides logits in s, as above; a number, or a tensor that broadcasts against logits with size 1 along dim.
            Must be above 0 for a useful gradient.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        own: the arguments that one method alone takes: ``num_conditional``, ``gap`` or ``temperature``, as above.

    Returns:
        Exact one-hot vectors in the shape and dtype of logits (under autocast, in the dtype of torch's softmax).

    Raises:
        ValueError: an unknown method, num_conditional < 1, gap < 0, temperature < 0, tau < 0; NaN or +inf in logits, a
            row with nothing allowed, noise or mask of the wrong shape, both noise and generator. On an accelerator,
            under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: an argument that the method does not take; logits that are not a floating tensor, or a mask that is
            not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        >>> z = ag.straight_through(logits, method="softmax")
        >>> (z * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        >>> logits.grad
        tensor([-0.1418, -0.1408,  0.2826])

    Source: Bengio, Léonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons for
    conditional computation" (softmax); Jang, Gu and Poole 2017 (gumbel); Paulus, Maddison and Krause 2021,
    "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator"; Liu et al. 2023, "Bridging discrete and
    backpropagation: straight-through and beyond" (reinmax); Fan et al. 2022, "Training discrete deep generative models
    via gapped straight-through estimator"; Shah et al. 2024, "Improving discrete optimisation via decoupled
    straight-through Gumbel-softmax".
    """
    one_of("method", method, STRAIGHT_THROUGH)
    known = _OWN[method]
    unknown = [name for name in own if name not in known]
    if unknown:
        raise TypeError(
            f"arguments must be ones that all methods take, or {method!r} takes ({', '.join(known) or 'none'}), but "
            f"method {method!r} has no argument {', '.join(sorted(unknown))}; leave it out"
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
    # The noise of the race is the first draw of the noise given its winner; the other draws are made here. All are
    # detached: a conditional draw has a gradient with respect to logits, and with it the mean gradient would be wrong.
    noises = own.unsqueeze(0)
    if num_conditional > 1:
        others = torch.stack(further_noise(own, num_conditional - 1, -1))
        won = draw.hard.argmax(-1, keepdim=True)
        known = noise_given_winner(draw.x.detach().to(own.dtype), others, won.expand(len(others), *won.shape))
        noises = torch.cat([noises, known])
    values = draw.x + noises
    if isinstance(draw.tau, Tensor):  # it broadcasts against logits; values have one dimension more
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
    """A one-hot draw, and what a soft vector is made of. Items last.

    ``hard`` is the one-hot vector, NaN in a bad row. ``x`` are the logits, at least float32, shifted so that their
    maximum is 0. ``tau`` is checked.
    """

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
            y = softened(y.to(work_dtype(y.dtype)) - height, temperature, -1, lambda values, _: values, 0.0, -torch.inf)
        _, index = race(rows.of(y), noise, generator)
        index = index.unsqueeze(-1)
        self.x = rows.x.to(work_dtype(y.dtype)) - height
        self.hard = is_at(index, self.x).to(self.x.dtype).masked_fill(index < 0, torch.nan)

    def softmax(self, values: Tensor) -> Tensor:
        return softened(values, self.tau, -1, torch.softmax, 1.0, 0.0)

    def moved_to(self, values: Tensor) -> Tensor:
        """These values, with the gradient of x."""
        x = self.x.masked_fill(self.x == -torch.inf, 0)
        return values + (x - x.detach())

    def with_gradient_of(self, soft: Tensor) -> Tensor:
        """The one-hot vector with the gradient of soft, in the layout and dtype of logits."""
        y = with_gradient(self.hard.expand_as(soft), soft)
        return self.rows.back(y.to(soft_dtype(self.rows.x)))


_ODD = 0x1E3779B97F4A7C15


def further_noise(noise: Tensor, count: int, dim: int) -> list[Tensor]:
    """``count`` tensors of further noise in the shape and dtype of ``noise``, keyed by the bits of each of its rows.

    They are independent of ``noise`` as far as the hash of its bits is random. No further seed is needed: all that is
    made of one tensor of noise remains a function of this tensor, row by row.
    """
    rows = noise.movedim(dim, -1)
    bits = view_bits(rows.contiguous(), torch.int64 if noise.dtype == torch.float64 else torch.int32).to(torch.int64)
    # The bits of an item are scattered over all 64 bits (products wrap around), differently for each place in the row.
    bits = (bits + _ODD * torch.arange(1, rows.shape[-1] + 1, device=noise.device)) * _ODD
    key = ((bits ^ (bits >> 32)) * _ODD).sum(-1)
    return [
        KeyedNoise(j, rows=key).gumbel(rows.shape, dtype=noise.dtype, device=noise.device).movedim(-1, dim)
        for j in range(count)
    ]
