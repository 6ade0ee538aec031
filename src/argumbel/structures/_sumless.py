"""Structures whose sum over all solutions is out of reach."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from ..noise import KeyedNoise
from ._base import Structure

__all__ = ["Sumless"]


class Sumless(Structure):
    """A structure without ``log_partition``, ``marginals`` and ``sample``: they say why, and what to use."""

    has_partition = False
    #: What the sum over all structures is, and what to call in its place.
    no_partition: str

    def _log_partition(self, x: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"structure must have a sum over all solutions for log_partition, marginals and sample, but it is a "
            f"{type(self).__name__}, whose sum is {self.no_partition}"
        )

    def _marginals(self, x: Tensor) -> NoReturn:
        self._log_partition(x)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> NoReturn:
        self._log_partition(x)
