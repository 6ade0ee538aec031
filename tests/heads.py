"""Linear layers whose logits are a race: the draws by name, small layers, and all their logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import argumbel as ag
from argumbel.kernels import linear as chunks

DRAW: dict[str, Callable[..., Tensor]] = {
    "linear_categorical": ag.linear_categorical,
    "linear_gumbel_max": lambda *layer, **own: ag.linear_gumbel_max(*layer, **own).indices,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(*rows: int, d: int = 8, n: int = 100, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """hidden and weight, in numbers that half precision holds."""
    g = generator(n)
    return tuple(torch.randn(shape, generator=g).to(torch.float16).to(dtype) for shape in ((*rows, d), (n, d)))


def full(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, temperature: float | Tensor = 1) -> Tensor:
    """All the logits."""
    work = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    x = functional.linear(hidden.to(work), weight.to(work), None if bias is None else bias.to(work))
    return x / (temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature)


def as_bias(x: Tensor, *rows: int) -> tuple[Tensor, Tensor]:
    """A layer without features: its logits are its bias, to the bit, in all rows."""
    return torch.zeros(*rows, 0, dtype=x.dtype), torch.zeros(len(x), 0, dtype=x.dtype)


def set_chunk(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ITEMS", items)
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 0)
