"""Draws under fixed keys and seeds, recorded in ``golden.json``. A change of any draw is a change of a random stream.

``python -m tests.golden`` writes the file anew; do that only for a change that the changelog announces.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import argumbel as ag
from argumbel import coupling, noise, partition, relax, reverse, subsets

FILE = Path(__file__).with_name("golden.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def logits(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers that no random stream decides, some of them forbidden."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    x = 3 * torch.sin(1.7 * i) + torch.cos(i * i)
    return x.masked_fill(i % 11 == 10, -torch.inf).to(dtype).reshape(shape)


def finite(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return logits(*shape, dtype=dtype).clamp(min=-5)


def seeded(draw: Callable[[torch.Generator], object]) -> object:
    return draw(torch.Generator().manual_seed(7))


def _cases() -> dict[str, Callable[[], object]]:
    key = ag.KeyedNoise
    ids = key(-5, rows=torch.tensor([9, 2, 2**40]), items=torch.arange(30) * 3 + 2**33)
    cases: dict[str, Callable[[], object]] = {}
    for law in ("gumbel", "exponential", "uniform", "logistic"):
        for name, dtype in DTYPES.items():
            cases[f"noise/{law}/{name}"] = lambda law=law, dtype=dtype: getattr(key(3), law)((3, 30), dtype=dtype)
        cases[f"noise/{law}/ids"] = lambda law=law: getattr(ids, law)((3, 30))
    for name, dtype in DTYPES.items():
        for shape in ((3, 30), (40, 7), (2, 3000)):
            where = f"{name}/{'x'.join(map(str, shape))}"
            x, y = logits(*shape, dtype=dtype), finite(*shape, dtype=dtype)
            first = y.argmax(-1)
            cases |= {
                f"gumbel_max/{where}": lambda x=x: ag.gumbel_max(x, noise=key(3)),
                f"gumbel_topk/{where}": lambda x=x: ag.gumbel_topk(x, 3, noise=key(3)),
                f"gumbel_softmax/{where}": lambda x=x: ag.gumbel_softmax(x, 0.7, noise=key(3)),
                f"gumbel_softmax hard/{where}": lambda x=x: ag.gumbel_softmax(x, 0.7, True, noise=key(3)),
                f"log_gumbel_softmax/{where}": lambda x=x: relax.log_gumbel_softmax(x, 0.7, noise=key(3)),
                f"gumbel_sigmoid/{where}": lambda y=y: ag.gumbel_sigmoid(y, 0.7, noise=key(3)),
                f"posterior_gumbel/{where}": lambda y=y, i=first: ag.posterior_gumbel(y, i, noise=key(3)),
                f"categorical/{where}": lambda x=x: seeded(lambda g: ag.categorical(x, (5,), generator=g)),
                f"without replacement/{where}": lambda x=x: seeded(
                    lambda g: ag.sample_without_replacement(x, 2, generator=g)
                ),
            }
    x, y, first = logits(3, 30), finite(3, 30), finite(3, 30).argmax(-1)
    two = finite(3, 30).topk(2).indices
    hidden, weight = finite(4, 5), finite(50, 5)
    cases |= {
        "gumbel_max/ids": lambda: ag.gumbel_max(x, noise=ids),
        "gumbel_max/dim": lambda: ag.gumbel_max(x.T, dim=0, noise=key(3)),
        "gumbel_max/generator": lambda: seeded(lambda g: ag.gumbel_max(x, generator=g)),
        "gumbel_softmax/generator": lambda: seeded(lambda g: ag.gumbel_softmax(x, generator=g)),
        "gumbel/generator": lambda: seeded(lambda g: ag.gumbel((3, 4), generator=g)),
        "logistic/generator": lambda: seeded(lambda g: noise.logistic((3, 4), generator=g)),
        "truncated_gumbel": lambda: ag.truncated_gumbel(y, 0.5, noise=key(3)),
        "relaxed_topk": lambda: ag.relaxed_topk(x, 3, 0.7, noise=key(3)),
        "relaxed_topk successive": lambda: ag.relaxed_topk(x, 3, 0.7, method="successive", noise=key(3)),
        "posterior_noise": lambda: reverse.posterior_noise(y, first, noise=key(3)),
        "posterior_gumbel_topk": lambda: ag.posterior_gumbel_topk(y, two, noise=key(3)),
        "posterior_gumbel_subset": lambda: reverse.posterior_gumbel_subset(y, two, noise=key(3)),
        "top_down": lambda: reverse.top_down(y, noise=key(3)),
        "inverse_cdf_gumbel": lambda: reverse.inverse_cdf_gumbel(y, torch.tensor([0.2, 0.5, 0.9]), noise=key(3)),
        "linear_gumbel_max": lambda: ag.linear_gumbel_max(hidden, weight, temperature=0.8, noise=key(3)),
        "linear_categorical": lambda: seeded(lambda g: ag.linear_categorical(hidden, weight, generator=g)),
        "counterfactual": lambda: ag.counterfactual(y, first, -y, 8, noise=key(3)),
        "gumbel_coupling": lambda: coupling.gumbel_coupling(y, -y, noise=key(3)),
        "maximal_coupling": lambda: seeded(lambda g: coupling.maximal_coupling(y, -y, generator=g)),
        "priority_sample": lambda: subsets.priority_sample(finite(30), 4, noise=key(3)),
        "log_partition": lambda: partition.log_partition(ag.gumbel_max(x.expand(50, 3, 30), noise=key(3)).values),
    }
    for method in relax.STRAIGHT_THROUGH:
        cases[f"straight_through/{method}"] = lambda method=method: ag.straight_through(x, method=method, noise=key(3))
    return cases


CASES = _cases()


def draw(name: str) -> list[Tensor]:
    """The tensors that a case gives, in float64 or int64, flat."""
    result = CASES[name]()
    parts = [result] if isinstance(result, Tensor) else [part for part in result if isinstance(part, Tensor)]
    return [(part.double() if part.is_floating_point() else part.long()).flatten() for part in parts]


def kept(values: Tensor) -> list[float | int]:
    """What is recorded of long results: about 32 numbers spread over them."""
    step = max(1, values.numel() // 32)
    return values[::step].tolist()


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: [kept(part) for part in draw(name)] for name in CASES}, indent=0) + "\n")
