"""The inputs of a benchmark: the same for every contestant, made once, outside the time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TAU = 0.5
NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Size:
    """A shape (items in the last dimension), a dtype, and where the operation takes one: k, the number of draws, or the
    features of the linear layer that the items belong to."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    k: int = 0
    draws: int = 0
    depth: int = 0

    @property
    def elements(self) -> int:
        """What time is divided by: draws where there are many from one row, else logits."""
        return self.draws or math.prod(self.shape)

    def __str__(self) -> str:
        parts = [" x ".join(f"{n:,}" for n in self.shape)]
        if self.k:
            parts = [f"k = {self.k:,} of {parts[0]}"]
        if self.draws:
            parts = [f"{self.draws:,} draws of {parts[0]}"]
        if self.depth:
            parts.append(f"D = {self.depth:,}")
        return " ".join([*parts, *([NAMES[self.dtype]] if self.dtype in NAMES else [])])


class Problem:
    """Standard normal logits of a size, and what contestants derive from them once."""

    def __init__(self, size: Size, device: str | torch.device = "cpu") -> None:
        self.size, self.k, self.draws, self.tau = size, size.k, size.draws, TAU
        self.device = torch.device(device)
        generator = torch.Generator(device).manual_seed(20170401)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        if size.depth:
            self.hidden = normal(*size.shape[:-1], size.depth).to(size.dtype)
            self.weight = (normal(size.shape[-1], size.depth) / size.depth**0.5).to(size.dtype)
            self.logits = F.linear(self.hidden, self.weight)
        else:
            self.logits = normal(*size.shape).to(size.dtype)
        self.upstream = normal(*size.shape).to(size.dtype)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    @cached_property
    def exact_logits(self) -> Tensor:
        """Those whose law is wanted: of a linear layer, before they are rounded to half precision."""
        return F.linear(self.hidden.double(), self.weight.double()) if self.size.depth else self.logits

    @cached_property
    def probs(self) -> Tensor:
        """float32, as samplers take them."""
        return torch.softmax(self.logits.float(), -1)

    @cached_property
    def leaf(self) -> Tensor:
        return self.logits.clone().requires_grad_()

    @cached_property
    def weights(self) -> Tensor:
        """float32, positive, not normalised."""
        return self.logits.exp()

    @cached_property
    def weights64(self) -> Any:
        return self.weights.double().numpy()

    @cached_property
    def probs64(self) -> Any:
        return self.weights64 / self.weights64.sum()

    @cached_property
    def jax_logits(self) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(self.logits.float().numpy()).astype(str(self.size.dtype).removeprefix("torch."))

    @cached_property
    def jax_probs(self) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(self.probs64.astype("float32"))
