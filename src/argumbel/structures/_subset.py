"""Sets of k of n items."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .._core.checks import count
from ..kernels import sample_subset, subset_log_partition, subset_marginals
from ..noise import KeyedNoise
from ._base import Structure, compact

__all__ = ["Subset"]


class Subset(Structure):
    """k of n items: ``P(S) = exp(sum of scores over S) / Z``.

    Scores and indicators have the shape ``(*batch, n)``, for any n of at least k. The methods are those of every
    structure (:class:`Structure`).

    - ``argmax`` is the k items with the largest scores, and ``trace`` takes them one after another, the largest first:
      under Gumbel noise the Plackett-Luce law of :func:`argumbel.gumbel_topk`.
    - ``log_partition`` is the logarithm of an elementary symmetric polynomial of ``exp(scores)``, ``marginals`` is how
      likely each item is in S. Only positive numbers are added, so the results are exact at any temperature.
      ``stochastic_softmax`` is :func:`argumbel.relaxed_topk`.
    - ``sample`` goes along the items, and chooses each given how many are still to be chosen. The law differs from
      the Plackett-Luce law: near it, but not equal.

    Args:
        k: the number of items in a set, at least 1.

    Cost: ``n min(k, n - k + 1)`` multiplications for each of log_partition, marginals and sample.

    Example:
        >>> import torch
        >>> from argumbel.structures import Subset
        >>> pair = Subset(2)
        >>> pair.argmax(torch.tensor([1.0, 0.0, 2.0]))
        tensor([1., 0., 1.])
        >>> pair.log_partition(torch.zeros(4)).exp()  # 6 pairs of 4 items
        tensor(6.)
        >>> pair.marginals(torch.zeros(4))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])

    Source: Chen, Dempster and Liu 1994, "Weighted finite population sampling to maximize entropy" (the law and its
    samples); Ahmed et al. 2023, "SIMPLE: a gradient estimator for k-subset sampling" (marginals); Kool, van Hoof and
    Welling 2019, "Stochastic beams and where to find them" (trace).
    """

    noun = "subset of k items"
    trace_is_argmax = True

    def __init__(self, k: int) -> None:
        self.k = count("k", k, least=1)

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if event[0] < self.k:
            raise ValueError(
                f"{name} must have at least k = {self.k} items, but the last dimension has {event[0]}; pass more "
                "items, or a smaller k"
            )

    def _argmax(self, x: Tensor) -> Tensor:
        last = x.topk(self.k, -1).values[..., -1:]
        above, equal = x > last, x == last
        return above | (equal & (equal.cumsum(-1) <= self.k - above.sum(-1, keepdim=True)))

    def _log_partition(self, x: Tensor) -> Tensor:
        return subset_log_partition(x, self.k)

    def _marginals(self, x: Tensor) -> Tensor:
        return subset_marginals(x, self.k)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        g = noise.logistic(x.shape, dtype=x.dtype, device=x.device)
        return sample_subset(compact(x), g, self.k, False, ())[0]

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = x.sort(dim=-1, descending=True, stable=True).indices[..., : self.k]
        steps = torch.arange(self.k, device=x.device)
        won_at = torch.full(x.shape, self.k, dtype=torch.int64, device=x.device).scatter(
            -1, chosen, steps.expand(chosen.shape)
        )
        return won_at < self.k, chosen, won_at.unsqueeze(-2) >= steps.unsqueeze(-1)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        (n,) = event
        sets = torch.tensor(list(itertools.combinations(range(n), self.k)), device="cpu")
        return torch.zeros(len(sets), n, dtype=torch.bool, device="cpu").scatter(-1, sets, True)
