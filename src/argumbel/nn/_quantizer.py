"""Vectors to codes: product quantisation by Gumbel-softmax."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core.checks import can_raise, count
from .._core.elementwise import log_softmax
from ..noise import KeyedNoise
from ..schedules import Exponential
from ._gumbel_softmax import GumbelSoftmax, ScheduleLike

__all__ = ["GumbelVectorQuantizer", "Quantized"]


class Quantized(NamedTuple):
    """What a ``GumbelVectorQuantizer`` returns."""

    x: Tensor
    """Quantised features, in the layout of the input: ``(*batch, time, vq_dim)``, or ``(*batch, vq_dim, time)``."""
    indices: Tensor
    """The code chosen in each group, int64 ``(*batch, time, groups)``, each in ``[0, num_vars)``."""
    code_perplexity: Tensor
    """``sum over groups of exp(entropy)`` of how often each code has the largest logit; no gradient. In
    ``[groups, num_vars * groups]``; low means a collapsed codebook."""
    prob_perplexity: Tensor
    """``sum over groups of exp(entropy)`` of the mean of ``softmax(logits)``, with a gradient. The diversity penalty of
    wav2vec 2.0 is ``(num_vars - prob_perplexity) / num_vars``, with the field ``num_vars`` of this tuple."""
    tau: Tensor
    """The current tau."""
    num_vars: int
    """How many codes all groups have together: the largest possible perplexity."""


class GumbelVectorQuantizer(nn.Module):
    """Product quantisation by Gumbel-softmax: ``x = concat_g(onehot_g @ codebook_g)``, one code chosen per group.

    The logits are a linear projection of the input. In training each group draws its code by straight-through
    Gumbel-softmax at the current tau; in evaluation it takes the code with the largest logit, without noise. Arguments
    and parameter names (``vars``, ``weight_proj``) are those of fairseq's module of the same name, and a ``state_dict``
    of that module can be loaded. It does not hold the step, so the step stays as it is; call
    :func:`argumbel.nn.set_step`.

    Args:
        dim: channels of the input.
        num_vars: codes in each group.
        temp: fairseq's name for tau: ``(start, floor, decay)`` of wav2vec 2.0, which stands for
            ``max(start * decay**step, floor)``; or a number, a tensor, a ``Parameter`` or a schedule. Call
            :func:`argumbel.nn.set_step` to move it.
        groups: number of groups.
        combine_groups: one codebook for all groups instead of one for each.
        vq_dim: channels of the output, a multiple of ``groups``. Default: ``dim``.
        time_first: the input is ``(*batch, time, dim)``; if False it is ``(*batch, dim, time)``.
        activation: module between the layers of the projection, if it has more than one. Default: ``nn.GELU()``.
        weight_proj_depth: layers of the projection.
        weight_proj_factor: width of the inner layers of the projection, in multiples of ``dim``.
        hard: straight-through one-hot codes; if False, soft mixtures of codes in training.

    Shapes: ``forward`` takes ``(*batch, time, dim)`` and returns :class:`argumbel.nn.Quantized`, whose fields state
    their shapes.

    Raises:
        ValueError: a size below 1; ``vq_dim`` not a multiple of ``groups``; ``temp`` negative, infinite, NaN, or a
            tuple of other than three numbers. From ``forward``: an input without ``dim`` channels; a mask of another
            shape; a mask that allows nothing (where values may not be looked at, the perplexities are NaN instead).
        TypeError: ``temp`` is none of the above. From ``forward``: a mask that is not bool.

    Example:
        >>> import torch
        >>> from argumbel.nn import GumbelVectorQuantizer, set_step
        >>> quantizer = GumbelVectorQuantizer(dim=16, num_vars=8, temp=(2.0, 0.5, 0.999995), groups=2, vq_dim=12)
        >>> set_step(quantizer, 100)
        >>> out = quantizer(torch.randn(3, 10, 16))
        >>> out.x.shape, out.indices.shape, out.num_vars
        (torch.Size([3, 10, 12]), torch.Size([3, 10, 2]), 16)
        >>> diversity = (out.num_vars - out.prob_perplexity) / out.num_vars
        >>> (out.x.square().mean() + 0.1 * diversity).backward()

    Source: Baevski, Zhou, Mohamed and Auli 2020, "wav2vec 2.0", sections 2 and 3.2.
    """

    def __init__(
        self,
        dim: int,
        num_vars: int = 320,
        temp: tuple[float, float, float] | float | Tensor | ScheduleLike = (2.0, 0.5, 0.999995),
        groups: int = 2,
        combine_groups: bool = False,
        vq_dim: int | None = None,
        time_first: bool = True,
        activation: nn.Module | None = None,
        weight_proj_depth: int = 1,
        weight_proj_factor: int = 1,
        hard: bool = True,
    ) -> None:
        super().__init__()
        vq_dim = dim if vq_dim is None else vq_dim
        dim, num_vars, groups = (
            count(name, size, least=1) for name, size in (("dim", dim), ("num_vars", num_vars), ("groups", groups))
        )
        vq_dim = count("vq_dim", vq_dim, least=1)
        weight_proj_depth = count("weight_proj_depth", weight_proj_depth, least=1)
        weight_proj_factor = count("weight_proj_factor", weight_proj_factor, least=1)
        if vq_dim % groups:
            raise ValueError(
                f"vq_dim must be a multiple of groups, {groups}, as each group gives an equal part of the output, "
                f"but it is {vq_dim}; the next multiple is {vq_dim + groups - vq_dim % groups}"
            )
        self.dim, self.num_vars, self.groups, self.vq_dim = dim, num_vars, groups, vq_dim
        self.combine_groups = combine_groups
        self.time_first = time_first
        if isinstance(temp, (tuple, list)):
            if len(temp) != 3:
                raise ValueError(
                    f"temp must be (start, floor, decay), but it has {len(temp)} numbers: {tuple(temp)}; "
                    "pass one number for a constant tau"
                )
            start, floor, decay = temp
            temp = Exponential.from_factor(start, decay, floor=floor)
        self.choose = GumbelSoftmax(temp, hard=hard)
        self.vars = nn.Parameter(torch.empty(1, num_vars * (1 if combine_groups else groups), vq_dim // groups))
        widths = [dim] + [dim * weight_proj_factor] * (weight_proj_depth - 1)
        inner = nn.GELU() if activation is None else activation
        # Nested as fairseq nests them, for the names in the state_dict.
        layers = [nn.Sequential(nn.Linear(before, after), inner) for before, after in pairwise(widths)]
        last = nn.Linear(widths[-1], groups * num_vars)
        self.weight_proj = nn.Sequential(*layers, last) if layers else last
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Codes uniform in [0, 1); a projection of one layer N(0, 1) with zero bias, so that codes differ at once."""
        nn.init.uniform_(self.vars)
        if isinstance(self.weight_proj, nn.Linear):
            nn.init.normal_(self.weight_proj.weight)
            nn.init.zeros_(self.weight_proj.bias)

    def codebook(self) -> Tensor:
        """The codes of each group: ``(groups, num_vars, vq_dim / groups)``, a view of ``vars``."""
        return self.vars.view(-1, self.num_vars, self.vq_dim // self.groups).expand(self.groups, -1, -1)

    def set_step(self, step: int) -> None:
        """Move a scheduled tau to ``step``."""
        self.choose.set_step(step)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        noise: Tensor | KeyedNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantise ``x``.

        Args:
            x: ``(*batch, time, dim)``, or ``(*batch, dim, time)`` if ``time_first`` is False.
            mask: bool ``(*batch, time)``, True where a frame counts in the perplexities; all frames are quantised.
            noise: a tensor of Gumbel noise ``(*batch, time, groups, num_vars)``, or a ``KeyedNoise``; used in training
                only.
            generator: one 64-bit seed is drawn from it, in training only; default PyTorch's global generator.
        """
        x = x if self.time_first else x.transpose(-1, -2)
        if x.shape[-1] != self.dim:
            layout = "(*batch, time, dim)" if self.time_first else "(*batch, dim, time)"
            raise ValueError(
                f"x must have the shape {layout} with dim = {self.dim}, but it has {x.shape[-1]} channels; "
                f"time_first is {self.time_first}, so transpose x, or change time_first, if the channels are elsewhere"
            )
        logits = self.weight_proj(x).unflatten(-1, (self.groups, self.num_vars))
        chosen = self.choose(logits, noise=noise, generator=generator)
        quantized = torch.einsum("...gv,gvd->...gd", chosen, self.codebook().to(chosen.dtype)).flatten(-2)
        code, prob = _perplexities(logits, mask)
        return Quantized(
            x=quantized if self.time_first else quantized.transpose(-1, -2),
            indices=chosen.argmax(-1),
            code_perplexity=code,
            prob_perplexity=prob,
            tau=self.choose.tau,
            num_vars=self.groups * self.num_vars,
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # A state_dict of fairseq does not hold the step: it stays what it is.
        name, codes = f"{prefix}choose.step", f"{prefix}vars"
        if self.choose.schedule is not None and codes in state_dict and name not in state_dict:
            state_dict[name] = torch.tensor(self.choose.current_step, device=state_dict[codes].device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, num_vars={self.num_vars}, groups={self.groups}, vq_dim={self.vq_dim}, "
            f"combine_groups={self.combine_groups}, time_first={self.time_first}"
        )


def _perplexities(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(code_perplexity, prob_perplexity)`` of logits ``(*frames, groups, codes)``, over the frames of the mask."""
    frames, (groups, codes) = logits.shape[:-2], logits.shape[-2:]
    logits = logits.reshape(-1, groups, codes)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    tokens = logits.shape[0]
    weights = logits.new_ones(tokens)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(
                f"mask must be a bool tensor, True where a frame counts, but it is {mask.dtype}; pass mask.bool()"
            )
        if mask.shape != frames:
            raise ValueError(
                f"mask must have one entry per frame, the shape {tuple(frames)}, but its shape is {tuple(mask.shape)}; "
                "pass one bool for each frame"
            )
        if can_raise(mask) and not bool(mask.any()):
            raise ValueError("mask must let at least one frame count, but it is False throughout; skip such a batch")
        weights = mask.reshape(-1).to(logits.dtype)
    total = weights.sum()
    with torch.no_grad():
        counts = logits.new_zeros(groups, codes).scatter_add_(1, logits.argmax(-1).T, weights.expand(groups, tokens))
        code = torch.special.entr(counts / total).sum(-1).exp().sum()
    # In log space: a code whose average probability underflows has entropy 0 and a finite gradient, with no epsilon.
    log_mean = (log_softmax(logits) + weights.log()[:, None, None]).logsumexp(0) - total.log()
    prob = (-(log_mean.exp() * log_mean).sum(-1)).exp().sum()
    return code, prob
