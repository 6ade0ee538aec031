"""Linear chains: the best sequence of classes, and sums over all sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cpu
from .dispatch import refuses_half
from .gibbs import gibbs
from .operator import Operator

__all__ = ["chain_log_partition", "chain_marginals", "viterbi"]


# --- the best sequence -----------------------------------------------------------------------------------------------


def _reference(x: Tensor, key: tuple[()]) -> tuple[Tensor, Tensor, bool]:
    x = x.double()
    best, before = torch.zeros_like(x[..., 0, 0, :]), []
    for t in range(x.shape[-3]):
        best, a = (x[..., t, :, :] + best.unsqueeze(-1)).max(-2)
        before.append(a)
    path = [best.argmax(-1, keepdim=True)]
    for a in reversed(before):
        path.append(a.gather(-1, path[-1]))
    return torch.cat(path[::-1], -1), best.amax(-1), False


def _outputs(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lead, steps = x.shape[:-3], x.shape[-3]
    return x.new_empty((*lead, steps + 1), dtype=torch.int64), x.new_empty(lead, dtype=torch.float64)


def _cpu(x: Tensor, key: tuple[()]) -> tuple[Tensor, Tensor, bool]:
    path, best = _outputs(x)
    cpu.call("viterbi", x.flatten(-3), cpu.NO_KEY, x.shape[-1], path.data_ptr(), best.data_ptr())
    return path, best, False


#: ``viterbi(x, ()) -> (path, best, bad)``: the sequence of classes with the largest sum of x, int64 ``(*batch, steps +
#: 1)``, and this sum, float64. x is ``(*batch, steps, n, n)`` without NaN and +inf: x[t, a, b] is the score of class a
#: at place t followed by class b at t + 1. Of equal sequences the one with the lowest last class,
#: and of these the one with the lowest class before it, and so on. Sums are of float64.
viterbi = Operator(
    "viterbi(Tensor x) -> (Tensor, Tensor)",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    triton=False,
    float64=True,
    refuses=refuses_half,
)


# --- sums over all sequences -----------------------------------------------------------------------------------------


def _log_z(x: Tensor) -> Tensor:
    """From the front to the end: the sum of all that can lead to each class."""
    total = x[..., 0, :, :].logsumexp(-2)
    for t in range(1, x.shape[-3]):
        total = (x[..., t, :, :] + total.unsqueeze(-1)).logsumexp(-2)
    return total.logsumexp(-1)


#: ``chain_log_partition(x)``: the log of the sum, over all sequences of classes, of the exponential of their sum of x,
#: float64 ``(*batch, steps, n, n)`` as :data:`viterbi` takes it. ``chain_marginals(x)`` is its gradient: how likely
#: each pair of neighbouring classes is.
chain_log_partition, chain_marginals = gibbs(
    "chain_log_partition(Tensor x)",
    3,
    _log_z,
    cpu=lambda x: (x.shape[-1],),
)
