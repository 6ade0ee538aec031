"""The functions of the library as `torch.nn.Module`s: parameters and a temperature live here, the law elsewhere.

Temperature: `tau=` takes a number, a tensor, a `Parameter` (then it is trained) or a schedule, which is any callable
from the step to a temperature such as those of `argumbel.schedules`. A schedule is fed by `set_step(model, step)`,
called once per optimiser step by the training loop. The modules do not count their own forward passes: accumulation
of gradients, activation checkpointing and evaluation would all be counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._core.checks import can_raise
from .distributions import HardConcrete
from .noise import KeyedNoise
from .relax import gumbel_softmax
from .schedules import Exponential

__all__ = ["GumbelSoftmax", "GumbelVectorQuantizer", "HardConcreteGate", "Quantized", "set_step"]

Schedule = Callable[[int], float]


class GumbelSoftmax(nn.Module):
    """`gumbel_softmax(logits, tau, hard, dim=dim)` in training; the one-hot argmax of `logits` in evaluation.

    - `train()`: a relaxed draw `softmax((logits + G) / tau)`, or with `hard=True` its one-hot argmax with the
      gradient of the soft draw. Random.
    - `eval()`: the one-hot of `argmax(logits)`, which is the mode of the choice, whatever `hard` is. Not random:
      `noise` and `generator` are not used. Its gradient is that of `softmax(logits / tau)`.

    To draw at random in evaluation too, call `argumbel.gumbel_softmax` itself.

    Args:
        tau: temperature >= 0: a number, a tensor that broadcasts against the logits, a `Parameter`, or a schedule
            `step -> float` advanced by `set_step`. The current value is the tensor attribute `tau`. With a schedule,
            the step is part of `state_dict`; a number or a plain tensor is configuration and is not.
        hard: one-hot draws in training.
        dim: the dimension of the classes.

    Shapes: `logits` of any shape; the result has the same.

    Raises:
        TypeError: `tau` is none of the above.
        ValueError: `tau` is negative or not a number.

    Example:
        >>> import torch
        >>> from argumbel.nn import GumbelSoftmax
        >>> layer = GumbelSoftmax(tau=0.5, hard=True)
        >>> layer(torch.zeros(2, 4)).sum(-1)
        tensor([1., 1.])
        >>> layer.eval()(torch.tensor([0.1, 0.7, 0.2]))
        tensor([0., 1., 0.])

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax".
    """

    tau: Tensor
    step: Tensor

    def __init__(self, tau: float | Tensor | Schedule = 1.0, hard: bool = False, dim: int = -1) -> None:
        super().__init__()
        self.hard = hard
        self.dim = dim
        self.schedule: Schedule | None = None
        if isinstance(tau, nn.Parameter):
            self.tau = tau
        elif isinstance(tau, Tensor):
            self.register_buffer("tau", tau, persistent=False)
        elif isinstance(tau, (int, float)) and not isinstance(tau, bool):
            # A tensor, not a float: torch.compile would make a new graph for every value of a float attribute.
            self.register_buffer("tau", torch.tensor(_temperature(tau)), persistent=False)
        elif callable(tau):
            self.schedule = tau
            self.register_buffer("tau", torch.tensor(_temperature(tau(0))), persistent=False)
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
            self.register_load_state_dict_post_hook(_refresh)
        else:
            raise TypeError(
                "tau must be a number, a tensor, a Parameter or a schedule (a callable from the step to a number), "
                f"but it is a {type(tau).__name__}; pass float(tau)"
            )

    def set_step(self, step: int) -> None:
        """Move a scheduled temperature to `schedule(step)`; nothing to do for a temperature of another kind."""
        if self.schedule is not None:
            tau = _temperature(self.schedule(step))
            self.step.fill_(step)
            self.tau.fill_(tau)

    def forward(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        *,
        noise: Tensor | KeyedNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`mask`, `noise` and `generator` as in `gumbel_softmax`, and so are the errors."""
        if self.training:
            return gumbel_softmax(
                logits, self.tau, self.hard, dim=self.dim, mask=mask, noise=noise, generator=generator
            )
        return gumbel_softmax(logits, self.tau, True, dim=self.dim, mask=mask, noise=torch.zeros_like(logits))

    def extra_repr(self) -> str:
        tau = repr(self.schedule) if self.schedule is not None else f"{self.tau.tolist()}"
        return f"tau={tau}, hard={self.hard}, dim={self.dim}"


class Quantized(NamedTuple):
    """What a `GumbelVectorQuantizer` returns."""

    x: Tensor
    """Quantised features, in the layout of the input: `(*batch, time, vq_dim)`, or `(*batch, vq_dim, time)`."""
    indices: Tensor
    """The code chosen in each group, int64: `(*batch, time, groups)`, each in `[0, num_vars)`."""
    code_perplexity: Tensor
    """`sum over groups of exp(entropy)` of how often each code has the highest logit; no gradient. In
    `[groups, num_vars * groups]`; low means a collapsed codebook."""
    prob_perplexity: Tensor
    """The same of the average of `softmax(logits)`, with a gradient: the wav2vec 2.0 diversity penalty is
    `(num_vars - prob_perplexity) / num_vars`, `num_vars` being the next but one field."""
    temperature: Tensor
    """The current temperature."""
    num_vars: int
    """Codes in all groups together, the greatest possible perplexity."""


class GumbelVectorQuantizer(nn.Module):
    """Product quantisation by Gumbel-softmax: `x = concat_g(onehot_g @ codebook_g)`, one code chosen per group.

    The logits are a linear projection of the input. In training each group draws its code by straight-through
    Gumbel-softmax at the current temperature; in evaluation it takes the code with the highest logit (no noise).
    Arguments and parameter names (`vars`, `weight_proj`) are those of fairseq's module of the same name.

    Args:
        dim: channels of the input.
        num_vars: codes in each group.
        temp: temperature: wav2vec 2.0's `(start, floor, decay)`, which stands for
            `max(start * decay**step, floor)`, or anything that `GumbelSoftmax` takes. Call `set_step` to move it.
        groups: number of groups.
        combine_groups: one codebook for all groups instead of one each.
        vq_dim: channels of the output, a multiple of `groups`. Default: `dim`.
        time_first: the input is `(*batch, time, dim)`; if False `(*batch, dim, time)`.
        activation: module between the layers of the projection, if it has several. Default: `nn.GELU()`.
        weight_proj_depth: layers of the projection.
        weight_proj_factor: width of its inner layers, in multiples of `dim`.
        hard: straight-through one-hot codes; if False, soft mixtures of codes in training.

    Shapes: see `Quantized`, which `forward` returns. `mask`, `(*batch, time)`, True where a frame counts, restricts
    the perplexities, not the features. `noise` has the shape `(*batch, time, groups, num_vars)`.

    Raises:
        ValueError: sizes < 1, `vq_dim` not a multiple of `groups`, an input without `dim` channels, a mask of another
            shape, or (on CPU; elsewhere the perplexities are NaN) a mask that allows nothing.
        TypeError: a mask that is not boolean.

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
        temp: tuple[float, float, float] | float | Tensor | Schedule = (2.0, 0.5, 0.999995),
        groups: int = 2,
        combine_groups: bool = False,
        vq_dim: int | None = None,
        time_first: bool = True,
        activation: nn.Module | None = None,
        weight_proj_depth: int = 1,
        weight_proj_factor: int = 3,
        hard: bool = True,
    ) -> None:
        super().__init__()
        vq_dim = dim if vq_dim is None else vq_dim
        sizes = {
            "dim": dim, "num_vars": num_vars, "groups": groups, "vq_dim": vq_dim,
            "weight_proj_depth": weight_proj_depth, "weight_proj_factor": weight_proj_factor,
        }  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, but it is {size}")
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
                    "pass one number for a constant temperature"
                )
            start, floor, decay = temp
            temp = Exponential.from_factor(start, decay, floor=floor)
        self.choose = GumbelSoftmax(temp, hard=hard)
        self.vars = nn.Parameter(torch.empty(1, num_vars * (1 if combine_groups else groups), vq_dim // groups))
        widths = [dim] + [dim * weight_proj_factor] * (weight_proj_depth - 1)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU() if activation is None else activation]
        last = nn.Linear(widths[-1], groups * num_vars)
        self.weight_proj = nn.Sequential(*layers, last) if layers else last
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Codes uniform in [0, 1); a single projection layer N(0, 1) with zero bias, so that codes differ at once."""
        nn.init.uniform_(self.vars)
        if isinstance(self.weight_proj, nn.Linear):
            nn.init.normal_(self.weight_proj.weight)
            nn.init.zeros_(self.weight_proj.bias)

    def codebook(self) -> Tensor:
        """The codes of each group: `(groups, num_vars, vq_dim / groups)`, a view of `vars`."""
        return self.vars.view(-1, self.num_vars, self.vq_dim // self.groups).expand(self.groups, -1, -1)

    def set_step(self, step: int) -> None:
        """Move a scheduled temperature to `step`."""
        self.choose.set_step(step)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        noise: Tensor | KeyedNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantise `x`; the arguments are described above."""
        x = x if self.time_first else x.transpose(-1, -2)
        if x.shape[-1] != self.dim:
            layout = "(*batch, time, dim)" if self.time_first else "(*batch, dim, time)"
            raise ValueError(
                f"x must have the shape {layout} with dim = {self.dim}, but it has {x.shape[-1]} channels; "
                f"time_first is {self.time_first}"
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
            temperature=self.choose.tau,
            num_vars=self.groups * self.num_vars,
        )

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, num_vars={self.num_vars}, groups={self.groups}, vq_dim={self.vq_dim}, "
            f"combine_groups={self.combine_groups}, time_first={self.time_first}"
        )


class HardConcreteGate(nn.Module):
    """Gates `z` in [0, 1], exactly 0 or 1 with positive probability, that learn which parts of a network to keep.

    - `train()`: `z ~ HardConcrete(temperature, logits=log_alpha)`, random, differentiable in `log_alpha`.
    - `eval()`: `z = clamp(sigmoid(log_alpha) * (zeta - gamma) + gamma, 0, 1)`, its `deterministic_gate`. Not random.

    Multiply what is to be pruned by `gate()` and add `weight * gate.l0()` to the loss.

    Args:
        shape: shape of the gates, an int or a sequence of them.
        temperature: of the relaxed Bernoulli below the stretch, > 0.
        gamma: lower end of the stretch, < 0.
        zeta: upper end of the stretch, > 1.
        keep: `log_alpha` starts at N(logit(keep), 0.01); 0 < keep < 1. One minus the dropout rate of the paper.

    Raises:
        ValueError: `keep` outside (0, 1), or what `HardConcrete` refuses.

    Example:
        >>> import torch
        >>> from argumbel.nn import HardConcreteGate
        >>> gate = HardConcreteGate(64)
        >>> x = torch.randn(8, 64)
        >>> kept = x * gate()                   # one set of gates for the batch
        >>> own = x * gate((8,))                # its own set for each example
        >>> (kept.square().mean() + 1e-3 * gate.l0()).backward()
        >>> pruned = gate.eval()() == 0

    Source: Louizos, Welling and Kingma 2018, "Learning sparse neural networks through L0 regularization", eq. 10-13.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        temperature: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        keep: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < keep < 1:
            raise ValueError(f"keep must lie strictly between 0 and 1, but it is {keep}; 0.5 starts undecided")
        self.temperature, self.gamma, self.zeta, self.keep = temperature, gamma, zeta, keep
        self.log_alpha = nn.Parameter(torch.empty((shape,) if isinstance(shape, int) else tuple(shape)))
        self.reset_parameters()
        # Bad arguments are refused here, not at the first step, whatever the default: torch.compile turns it off.
        self.distribution(validate_args=True)

    def reset_parameters(self) -> None:
        """`log_alpha ~ N(logit(keep), 0.01)`."""
        nn.init.normal_(self.log_alpha, math.log(self.keep) - math.log1p(-self.keep), 0.01)

    def distribution(self, validate_args: bool | None = None) -> HardConcrete:
        """The law of the gates in training."""
        return HardConcrete(
            self.temperature, logits=self.log_alpha, validate_args=validate_args, gamma=self.gamma, zeta=self.zeta
        )

    def l0(self) -> Tensor:
        """Expected number of gates that are not zero, `sum P(z != 0)`: the differentiable L0 penalty, a scalar."""
        return self.distribution().prob_nonzero.sum()

    def forward(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Gates of shape `sample_shape + shape`."""
        if self.training:
            return self.distribution().rsample(torch.Size(sample_shape), generator=generator)
        return self.distribution().deterministic_gate.expand(*sample_shape, *self.log_alpha.shape)

    def extra_repr(self) -> str:
        return f"{tuple(self.log_alpha.shape)}, temperature={self.temperature:g}, gamma={self.gamma}, zeta={self.zeta}"


def set_step(model: nn.Module, step: int) -> None:
    """`for m in model.modules(): m.set_step(step)` where `m` is a `GumbelSoftmax`: moves every scheduled temperature.

    Call it once per optimiser step. The step is stored in `state_dict`, so a resumed model has its temperature.

    Args:
        model: any module; those inside it are found.
        step: the number of optimiser steps taken, >= 0.

    Raises:
        ValueError: what a schedule gives at `step` is no temperature.

    Example:
        >>> from torch import nn
        >>> from argumbel import schedules
        >>> from argumbel.nn import GumbelSoftmax, set_step
        >>> tau = schedules.Exponential.from_factor(1.0, 0.9, floor=0.5)
        >>> model = nn.Sequential(nn.Linear(8, 4), GumbelSoftmax(tau))
        >>> set_step(model, 1)
        >>> model[1].tau
        tensor(0.9000)
    """
    for module in model.modules():
        if isinstance(module, GumbelSoftmax):
            module.set_step(step)


def _temperature(tau: float) -> float:
    if not tau >= 0 or math.isinf(tau):
        raise ValueError(f"tau must be finite and at least 0, but it is {tau}; 0 gives the exact argmax")
    return float(tau)


def _refresh(module: GumbelSoftmax, _incompatible_keys: Any) -> None:
    module.set_step(int(module.step))


def _perplexities(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(code_perplexity, prob_perplexity)` of logits `(*tokens, groups, codes)`, over the tokens that mask allows."""
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
                f"mask must have one entry per frame, the shape {tuple(frames)}, but its shape is {tuple(mask.shape)}"
            )
        if can_raise(mask) and not bool(mask.any()):
            raise ValueError("mask must let at least one frame count, but it is False throughout; skip such a batch")
        weights = mask.reshape(-1).to(logits.dtype)
    total = weights.sum()
    with torch.no_grad():
        counts = logits.new_zeros(groups, codes).scatter_add_(1, logits.argmax(-1).T, weights.expand(groups, tokens))
        code = torch.special.entr(counts / total).sum(-1).exp().sum()
    # In log space: a code whose average probability underflows has entropy 0 and a finite gradient, with no epsilon.
    log_mean = (logits.log_softmax(-1) + weights.log()[:, None, None]).logsumexp(0) - total.log()
    prob = (-(log_mean.exp() * log_mean).sum(-1)).exp().sum()
    return code, prob
