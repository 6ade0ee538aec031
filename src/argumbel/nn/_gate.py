"""Gates that learn which parts of a network to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core.checks import number, sizes
from ..distributions import HardConcrete

__all__ = ["HardConcreteGate"]


class HardConcreteGate(nn.Module):
    """Gates ``z`` in [0, 1], exactly 0 or 1 with positive probability, that learn which parts of a network to keep.

    - ``train()``: ``z ~ HardConcrete(temperature, logits=log_alpha)``, random, differentiable in ``log_alpha``.
    - ``eval()``: ``z = clamp(sigmoid(log_alpha) * (zeta - gamma) + gamma, 0, 1)``, the ``deterministic_gate``. Not
      random.

    Multiply what is to be pruned by ``gate()``, and add ``weight * gate.l0()`` to the loss.

    Args:
        shape: shape of the gates, an int or a sequence of ints.
        temperature: above 0; divides the perturbed log odds. Functions of argumbel call it ``tau``; the name here
            is that of :class:`argumbel.distributions.HardConcrete`.
        gamma: lower end of the stretch, below 0.
        zeta: upper end of the stretch, above 1.
        keep: ``log_alpha`` starts at N(logit(keep), 0.01); between 0 and 1. One minus the dropout rate of the paper.

    Raises:
        ValueError: ``keep`` outside (0, 1); ``temperature`` not above 0; ``gamma`` not below 0; ``zeta`` not above 1.

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
        temperature: float | Tensor = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        keep: float = 0.5,
    ) -> None:
        super().__init__()
        keep = number("keep", keep)
        if not 0 < keep < 1:
            raise ValueError(f"keep must lie strictly between 0 and 1, but it is {keep}; at 0.5 a gate is undecided")
        self.temperature = temperature if isinstance(temperature, Tensor) else number("temperature", temperature)
        self.gamma, self.zeta, self.keep = number("gamma", gamma), number("zeta", zeta), keep
        self.log_alpha = nn.Parameter(torch.empty(sizes("shape", shape)))
        self.reset_parameters()
        # Bad arguments are refused here, not at the first step: torch.compile turns the checks of later calls off.
        self.distribution(validate_args=True)

    def reset_parameters(self) -> None:
        """``log_alpha ~ N(logit(keep), 0.01)``."""
        nn.init.normal_(self.log_alpha, math.log(self.keep) - math.log1p(-self.keep), 0.01)

    def distribution(self, validate_args: bool | None = None) -> HardConcrete:
        """The law of the gates in training."""
        return HardConcrete(
            self.temperature, logits=self.log_alpha, validate_args=validate_args, gamma=self.gamma, zeta=self.zeta
        )

    def l0(self) -> Tensor:
        """Expected number of gates that are not zero, ``sum P(z != 0)``: the differentiable L0 penalty, a scalar."""
        return self.distribution().prob_nonzero.sum()

    def forward(self, sample_shape: int | Sequence[int] = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Gates of shape ``(*sample_shape, *shape)``.

        Args:
            sample_shape: how many independent sets of gates: an int or a sequence of ints.
            generator: source of the noise, in training only; default PyTorch's global generator.
        """
        sample_shape = sizes("sample_shape", sample_shape)
        if self.training:
            return self.distribution().rsample(sample_shape, generator=generator)
        return self.distribution().deterministic_gate.expand(*sample_shape, *self.log_alpha.shape)

    def extra_repr(self) -> str:
        return f"{tuple(self.log_alpha.shape)}, temperature={self.temperature:g}, gamma={self.gamma}, zeta={self.zeta}"
