"""Which of many weighted items arrive within a stretch of time: the race in the domain of time, where no item needs a
logarithm but those that arrive. A bar that falls gives a reservoir, a stretch gives one bucket of a permutation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cpu
from .dispatch import Key, refuses_half, seed_tensor
from .noise import TRANSFORMS, words
from .operator import Operator

__all__ = ["arrivals"]


def _reference(
    weights: Tensor, law: str, lo: float, bars: Tensor, groups: Tensor | None, first: int, key: Key
) -> tuple[Tensor, Tensor, bool]:
    seed, rows, items = key
    if items is None:
        items = torch.arange(weights.shape[0], device=weights.device) + first
    rows = torch.zeros_like(items) if rows is None else rows
    drawn = [
        words(seed_tensor(seed, weights.device), rows, items.unsqueeze(-1), stream).squeeze(-1) for stream in (0, 1)
    ]
    w = weights.double()
    times = TRANSFORMS[law](drawn[0], drawn[1], torch.float64) / w
    ends = bars if groups is None else bars[groups.long()]
    positions = ((times > lo) & (times <= ends) & (w > 0)).nonzero().squeeze(-1)
    return times[positions], positions, not bool(((w >= 0) & w.isfinite()).all())


def _outputs(weights: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return weights.new_empty(count, dtype=torch.float64), weights.new_empty(count, dtype=torch.int64)


def _cpu(
    weights: Tensor, law: str, lo: float, bars: Tensor, groups: Tensor | None, first: int, key: Key
) -> tuple[Tensor, Tensor, bool]:
    # Room for all, of which the system gives only the pages that are written to.
    n = weights.shape[0]
    times, positions = weights.new_empty(n, dtype=torch.float64), weights.new_empty(n, dtype=torch.int64)
    count = torch.zeros(1, dtype=torch.int64, device="cpu")
    bars, groups = bars.contiguous(), None if groups is None else groups.contiguous()
    of = 0 if groups is None else groups.data_ptr()
    bad = cpu.call(
        "arrivals", weights, key, cpu.LAWS[law], lo, bars.data_ptr(), of, bars.shape[0], first,
        times.data_ptr(), positions.data_ptr(), count.data_ptr(),
    )  # fmt: skip
    found = int(count)
    return times[:found].clone(), positions[:found].clone(), bad


#: ``arrivals(weights, law, lo, bars, groups, first, key) -> (times, positions, bad)``: of ``n`` items of weight 0 or
#: more, the float64 times ``noise / weight`` with ``lo < time <= bar``, in the order of their positions. The law of the
#: noise is "exponential", "uniform" or "odds", which is u / (1 - u). ``bars`` are float64: one, or one per group
#: (``groups``, int32, says of which group an item is). Item i has the id ``first + i``, or its id in the key: ``items``
#: of shape ``(n,)``, and beside them ``rows`` of that shape (an id is then 128 bits). An item of weight 0 never comes;
#: a weight that is negative, infinite or NaN is bad.
arrivals = Operator(
    "arrivals(Tensor weights, str law, float lo, Tensor bars, Tensor? groups, SymInt first, "
    "Tensor seed, Tensor? rows, Tensor? items) -> (Tensor, Tensor)",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    triton=False,
    float64=True,
    refuses=refuses_half,
)
