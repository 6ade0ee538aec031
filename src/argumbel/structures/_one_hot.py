"""One item of n: the plain categorical choice, as a structure."""

from __future__ import annotations

import torch
from torch import Tensor

from ..noise import KeyedNoise
from ._base import Structure

__all__ = ["OneHot"]


class OneHot(Structure):
    """One of n items. ``log_partition`` is the logsumexp, ``marginals`` the softmax, ``sample`` the Gumbel-max trick.

    Scores and indicators have the shape ``(*batch, n)``. The methods are those of every structure (:class:`Structure`).

    Example:
        >>> import torch
        >>> from argumbel.structures import OneHot
        >>> OneHot().argmax(torch.tensor([0.0, 2.0, 1.0]))
        tensor([0., 1., 0.])

    Source: Gumbel 1954, "Statistical theory of extreme values and some practical applications".
    """

    noun = "choice"
    trace_is_argmax = True

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if event[0] < 1:
            raise ValueError(
                f"{name} must have at least one item, but they have none; leave out a choice without items"
            )

    def _argmax(self, x: Tensor) -> Tensor:
        return _one_hot(x.argmax(-1, keepdim=True), x)

    def _log_partition(self, x: Tensor) -> Tensor:
        return x.logsumexp(-1)

    def _marginals(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        return self._argmax(x + noise.gumbel(x.shape, dtype=x.dtype, device=x.device))

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = x.argmax(-1, keepdim=True)
        return _one_hot(chosen, x), chosen, torch.ones_like(x, dtype=torch.bool).unsqueeze(-2)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        (n,) = event
        return torch.eye(n, dtype=torch.bool, device="cpu")


def _one_hot(index: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, index, True)
