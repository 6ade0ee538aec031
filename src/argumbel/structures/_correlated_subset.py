"""Sets of k of n items in a row, where neighbours have scores together."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import count
from ..kernels import best_subset, correlated_log_partition, correlated_marginals, sample_subset
from ..noise import KeyedNoise
from ._base import Structure, compact
from ._subset import Subset

__all__ = ["CorrelatedSubset"]


class CorrelatedSubset(Structure):
    """k of n items in a row, where two neighbours that are both chosen have a score of their own: ``score(S)`` is the
    sum of ``a_i`` over the items i in S, and of ``b_i`` over those i for which both i and i + 1 are in S.

    Scores and indicators have the shape ``(*batch, 2 n - 1)``: n numbers for the items, then n - 1 for the pairs
    (0, 1), (1, 2), ... The indicator of a pair is 1 where both of its items are chosen. A positive score of a pair
    makes neighbours likely to be chosen together, as in phrases of a text; -inf keeps them apart. The methods are those
    of every structure (:class:`Structure`), but there is no ``trace``: no race of items finds the best set.

    All methods go along the items; of each item it matters whether the item before was chosen, and how many are still
    to be chosen. Of sets with equal scores ``argmax`` has the one that contains the first item in which they differ.

    Args:
        k: the number of items in a set, at least 1.

    Cost: ``4 n k`` additions in logarithms, by n operations of PyTorch one after another.

    Example:
        >>> import torch
        >>> from argumbel.structures import CorrelatedSubset
        >>> scores = torch.tensor([1.0, 0.0, 0.0, 0.9, 0.0, 0.0, 2.0])  # of four items, and of three pairs
        >>> CorrelatedSubset(2).argmax(scores)  # items 2 and 3, which are a good pair
        tensor([0., 0., 1., 1., 0., 0., 1.])

    Source: Paulus et al. 2020, "Gradient estimation with stochastic softmax tricks" (correlated k-subsets).
    """

    noun = "subset of k items"
    has_trace = False

    def __init__(self, k: int) -> None:
        self.k = count("k", k, least=1)

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if event[0] % 2 == 0 or event[0] < 2 * self.k - 1:
            raise ValueError(
                f"{name} must have 2 n - 1 numbers for n items, at least k = {self.k}, and the pairs of neighbours, "
                f"but the last dimension has {event[0]}; pass torch.cat([items, pairs], -1)"
            )

    def _argmax(self, x: Tensor) -> Tensor:
        return best_subset(x, self.k, ())[0]

    def _log_partition(self, x: Tensor) -> Tensor:
        return correlated_log_partition(x, self.k)

    def _marginals(self, x: Tensor) -> Tensor:
        return correlated_marginals(x, self.k)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        n = (x.shape[-1] + 1) // 2
        g = noise.logistic((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
        return sample_subset(compact(x), g, self.k, True, ())[0]

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        (parts,) = event
        items = Subset(self.k).enumerate((parts + 1) // 2)
        return torch.cat([items, items[:, :-1] & items[:, 1:]], -1)
