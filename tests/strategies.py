"""Hypothesis strategies: the logits that go wrong somewhere. Ties, -inf, hundreds apart, length one, empty batches."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_VALUES = {
    "ordinary": st.floats(-4, 4, width=16),
    "ties": st.sampled_from([0.0, 0.0, 1.0]),
    "huge": st.sampled_from([-900.0, -300.0, -17.0, 0.0, 17.0, 300.0, 900.0]),
    "forbidden": st.sampled_from([-math.inf, -math.inf, 0.0, -300.0, 2.5]),
}

batch_shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def logits(
    draw: st.DrawFn,
    *,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    max_items: int = 9,
    batch: st.SearchStrategy[tuple[int, ...]] = batch_shapes,
) -> Tensor:
    """Logits with items in the last dimension, of which each row allows at least one."""
    shape, n = draw(batch), draw(st.integers(1, max_items))
    values = _VALUES[draw(st.sampled_from(sorted(_VALUES)))]
    rows = math.prod(shape)
    x = torch.tensor(draw(st.lists(values, min_size=rows * n, max_size=rows * n)), dtype=torch.float64)
    x = x.reshape(rows, n)
    allowed = torch.tensor(draw(st.lists(st.integers(0, n - 1), min_size=rows, max_size=rows)), dtype=torch.int64)
    some = x.gather(1, allowed[:, None]).clamp(min=-300)
    return x.scatter(1, allowed[:, None], some).reshape(*shape, n).to(draw(st.sampled_from(dtypes)))


ids = st.one_of(
    st.integers(-3, 9), st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from([1 << 32, (1 << 32) + 1, 1 << 62])
)
seeds = st.one_of(st.integers(0, 3), st.integers(-(1 << 63), (1 << 64) - 1))
