"""A relaxed choice as a module, and the schedule of its tau."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import number
from ..noise import KeyedNoise
from ..relax import gumbel_softmax

__all__ = ["GumbelSoftmax", "ScheduleLike", "set_step"]

ScheduleLike = Callable[[int], float]


class GumbelSoftmax(nn.Module):
    """``gumbel_softmax(logits, tau, hard, dim=dim)`` in training; the one-hot argmax of ``logits`` in evaluation.

    - ``train()``: a relaxed draw ``softmax((logits + G) / tau)``; with ``hard=True`` the one-hot argmax of this draw,
      with the gradient of the draw. Random.
    - ``eval()``: the one-hot of ``argmax(logits)``, which is the most probable choice, whatever ``hard`` is. Not
      random: ``noise`` and ``generator`` are not used. Its gradient is that of ``softmax(logits / tau)``.

    To draw at random in evaluation too, call :func:`argumbel.gumbel_softmax` itself.

    Args:
        tau: at least 0; divides the perturbed logits. A number, a tensor that broadcasts against the logits, a
            ``Parameter``, or a schedule ``step -> float`` that :func:`argumbel.nn.set_step` moves. The tensor attribute
            ``tau`` is the current value. The step of a schedule is part of ``state_dict``; a number or a tensor that is
            not a ``Parameter`` is configuration and is not: it survives the meta device and ``to_empty`` without it.
        hard: one-hot draws in training.
        dim: the dimension of the items.

    Shapes: ``forward`` takes logits of any shape, ``(*batch, n)`` for ``dim=-1``, and returns the same shape.

    Raises:
        TypeError: ``tau`` is neither a number nor a tensor nor callable.
        ValueError: ``tau`` is negative, infinite or NaN.

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

    def __init__(self, tau: float | Tensor | ScheduleLike = 1.0, hard: bool = False, dim: int = -1) -> None:
        super().__init__()
        self.hard = hard
        self.dim = dim
        self.schedule: ScheduleLike | None = None
        #: What the buffers hold, as Python numbers: on the meta device, and after ``to_empty``, they hold nothing.
        self._numbers: dict[str, float] = {}
        self._start = tau.detach().clone() if isinstance(tau, Tensor) and not tau.is_meta else None
        if isinstance(tau, nn.Parameter):
            self.tau = tau
        elif isinstance(tau, Tensor):
            self.register_buffer("tau", tau, persistent=False)
        elif callable(tau):
            self.schedule = tau
            self._register(tau=_checked_tau(tau(0)), step=0)
            self.register_load_state_dict_post_hook(_refresh)
        else:
            either = "a number, a tensor, a Parameter or a schedule (a callable from the step to a number)"
            self._register(tau=_checked_tau(number("tau", tau, expected=either)))

    def _register(self, **numbers: float) -> None:
        """Buffers of numbers; the step is part of ``state_dict``."""
        self._numbers = numbers
        for name, value in numbers.items():
            # A tensor, not a float: torch.compile would make a new graph for every value of a float attribute.
            with torch.inference_mode(False):  # else no gradient could pass through a module made in inference mode
                self.register_buffer(name, torch.tensor(value), persistent=name == "step")

    @property
    def current_step(self) -> int:
        """The step of the schedule; 0 without a schedule."""
        if self.schedule is None:
            return 0
        return int(self._numbers["step"]) if self.step.is_meta else int(self.step)

    def reset_parameters(self) -> None:
        """``tau`` as it was given; of a schedule ``schedule(0)``.

        Raises:
            ValueError: ``tau`` was given as a tensor on the meta device, which has no value.
        """
        if self.schedule is not None:
            self.set_step(0)
        elif self._numbers:
            self.tau.fill_(self._numbers["tau"])
        elif self._start is not None:
            with torch.no_grad():
                self.tau.copy_(self._start)
        else:
            raise ValueError(
                "tau must have a value to be reset to, but it was given as a tensor on the meta device; give a number, "
                "or load a state_dict"
            )

    def set_step(self, step: int) -> None:
        """Set ``tau`` to ``schedule(step)``; without a schedule do nothing."""
        if self.schedule is not None:
            self._numbers = {"tau": _checked_tau(self.schedule(step)), "step": int(step)}
            self.step.fill_(self._numbers["step"])
            self.tau.fill_(self._numbers["tau"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GumbelSoftmax:
        """Casts and moves. ``to_empty`` and a move from the meta device would leave buffers without values."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, new in self._buffers.items():
            old = before[name]
            if new is None or old is None or new is old or new.is_meta or new.requires_grad:
                continue
            if not old.is_meta:
                new.copy_(old)
            elif name in self._numbers:
                new.fill_(self._numbers[name])
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        # A number is not in the state_dict, so `assign=True` cannot bring it from the meta device.
        if self.tau.is_meta and self._numbers and local_metadata.get("assign_to_params_buffers", False):
            device = self.step.device if self.schedule is not None else "cpu"
            self.tau = torch.full((), self._numbers["tau"], dtype=self.tau.dtype, device=device)

    def forward(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        *,
        noise: Tensor | KeyedNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A relaxed choice, or a one-hot one, in the shape of the logits.

        Args:
            logits: any shape, any floating dtype; -inf forbids an item.
            mask: bool, broadcasts to logits; True where an item is allowed.
            noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``; used in training only.
            generator: one 64-bit seed is drawn from it, in training only; default PyTorch's global generator.

        Raises:
            ValueError, TypeError: where :func:`argumbel.gumbel_softmax` does.
        """
        if self.training:
            return gumbel_softmax(
                logits, self.tau, self.hard, dim=self.dim, mask=mask, noise=noise, generator=generator
            )
        return gumbel_softmax(logits, self.tau, True, dim=self.dim, mask=mask, noise=torch.zeros_like(logits))

    def extra_repr(self) -> str:
        tau = repr(self.schedule) if self.schedule is not None else f"{self.tau.tolist()}"
        return f"tau={tau}, hard={self.hard}, dim={self.dim}"


def set_step(model: nn.Module, step: int) -> None:
    """``for m in model.modules(): m.set_step(step)`` where ``m`` is a ``GumbelSoftmax``: moves every scheduled tau.

    Call it once per optimiser step. The step is stored in ``state_dict``, so a resumed model has its tau.

    Args:
        model: any module; modules inside it are found.
        step: the number of optimiser steps taken, at least 0.

    Raises:
        ValueError: a schedule gives a negative, infinite or NaN tau at ``step``.

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


def _checked_tau(tau: float | Tensor) -> float:
    if isinstance(tau, Tensor) and tau.ndim == 0:  # as a schedule may compute it
        tau = tau.item()
    return float(number("tau", tau, least=0, below=math.inf, remedy="0 gives the exact argmax"))


def _refresh(module: GumbelSoftmax, _incompatible_keys: Any) -> None:
    if not module.step.is_meta:
        module.set_step(int(module.step))
