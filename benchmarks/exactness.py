"""Is the law right where that is hard? The same questions to this library and to each peer, with counts.

A peer fails a question if a right law would give a count so extreme at most once in a million times. Each question is
asked with so many draws that the faults it looks for show; a contestant too slow for these many, in the seconds it is
given, has not passed but is *undecided*.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from typing import Any

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from tests.statistics import FAILURE_RATE
from torch import Tensor
from torch.distributions import Categorical, Gumbel

import argumbel as ag

from .measure import OURS, reason
from .peers import exponential_race, inversion, jitted, numpy_gumbel32

Draw = Callable[[Tensor, int], Tensor]  # (one row of logits, m) -> m independent draws from it
Noise = Callable[[int], tuple[int, float]]  # n numbers -> how many beyond a limit, and the largest
Device = str | torch.device

#: Just beyond -log(-log1p(-2^-24)), the largest Gumbel number that a float32 uniform can give.
LIMIT = 16.64


@dataclass
class Finding:
    """What one contestant did on one question; ``verdict`` is pass, fail, undecided, or cannot."""

    question: str
    contestant: str
    library: str
    measured: str
    expected: str
    verdict: str
    p_value: float | None = None


@dataclass(frozen=True)
class Question:
    name: str
    text: str
    ask: Callable[[Any, float, Device], tuple[str, str, float, bool]]  # -> measured, expected, p-value, is it decided
    contestants: dict[tuple[str, str], Any]  # (library, name) -> Draw or Noise


# ---------------------------------------------------------------------------------------------------------- contestants


def rows(function: Callable[[Tensor], Tensor]) -> Draw:
    """m draws as one call on m equal rows, as a batch would ask for them."""
    return lambda logits, m: function(logits.expand(m, -1))


def _jax_categorical(mode: str) -> Draw:
    calls: dict[Any, Any] = {}

    def draw(logits: Tensor, m: int) -> Tensor:
        import jax
        import jax.numpy as jnp

        key = (logits.data_ptr(), m)
        if key not in calls:
            calls.clear()
            x = jnp.asarray(logits.float().numpy()).astype(str(logits.dtype).removeprefix("torch."))
            calls[key] = jitted(lambda k, row: jax.random.categorical(k, row, shape=(m,), mode=mode), x)
        return torch.from_numpy(np.asarray(calls[key]()).astype(np.int64))

    return draw


def _gumbel_distribution(logits: Tensor) -> Tensor:
    zero, one = logits.new_zeros(()), logits.new_ones(())
    return (logits + Gumbel(zero, one).sample(logits.shape)).argmax(-1)


DRAWS: dict[tuple[str, str], Draw] = {
    (OURS, "categorical"): rows(ag.categorical),
    (OURS, "categorical, many draws"): lambda logits, m: ag.categorical(logits, (m,)),
    (OURS, "gumbel_max"): rows(lambda x: ag.gumbel_max(x).indices),
    (OURS, "gumbel_softmax(hard=True)"): rows(lambda x: ag.gumbel_softmax(x, hard=True).argmax(-1)),
    ("torch", "Categorical(logits=).sample()"): rows(lambda x: Categorical(logits=x).sample()),
    ("torch", "multinomial(p, m, True)"): lambda logits, m: torch.multinomial(torch.softmax(logits, -1), m, True),
    ("torch", "softmax / exponential_, argmax"): rows(exponential_race),
    ("torch", "searchsorted(softmax.cumsum, rand)"): rows(inversion),
    ("torch", "F.gumbel_softmax(hard=True)"): rows(lambda x: F.gumbel_softmax(x, hard=True).argmax(-1)),
    ("torch", "distributions.Gumbel, argmax"): rows(_gumbel_distribution),
    ("jax", "random.categorical, low"): _jax_categorical("low"),
    ("jax", "random.categorical, high"): _jax_categorical("high"),
}


def torch_noise(function: Callable[[int], Tensor], limit: float = LIMIT) -> Noise:
    def noise(n: int) -> tuple[int, float]:
        x = function(n)
        return int((x > limit).sum()), float(x.max())

    return noise


def _numpy_noise(function: Callable[[np.random.Generator, int], Any]) -> Noise:
    rng = np.random.default_rng(0)

    def noise(n: int) -> tuple[int, float]:
        x = function(rng, n)
        return int((x > LIMIT).sum()), float(x.max())

    return noise


def _jax_noise(mode: str) -> Noise:
    calls: dict[int, Any] = {}

    def noise(n: int) -> tuple[int, float]:
        import jax

        if n not in calls:

            def summary(key: Any) -> Any:
                x = jax.random.gumbel(key, (n,), mode=mode)
                return (x > LIMIT).sum(), x.max()

            calls[n] = jitted(summary)
        count, largest = calls[n]()
        return int(count), float(largest)

    return noise


NOISES: dict[tuple[str, str], Noise] = {
    (OURS, "gumbel"): torch_noise(lambda n: ag.gumbel((n,))),
    ("torch", "-empty.exponential_().log()"): torch_noise(lambda n: -torch.empty(n).exponential_().log()),
    ("torch", "distributions.Gumbel"): torch_noise(lambda n: Gumbel(torch.zeros(()), torch.ones(())).sample((n,))),
    ("numpy", "rng.gumbel (float64)"): _numpy_noise(lambda rng, n: rng.gumbel(size=n)),
    ("numpy", "-log(rng.standard_exponential(float32))"): _numpy_noise(lambda rng, n: numpy_gumbel32(rng, (n,))),
    ("jax", "random.gumbel, low"): _jax_noise("low"),
    ("jax", "random.gumbel, high"): _jax_noise("high"),
}


# ------------------------------------------------------------------------------------------------------------ questions


def _binomial(count: int, trials: int, p: float) -> float:
    return float(scipy.stats.binomtest(count, trials, p).pvalue)


def _shows(trials: int, p: float) -> bool:
    """Whether it would be noticed that what should occur never does."""
    return _binomial(0, trials, p) < FAILURE_RATE


def _chunks(total: int, chunk: int, seconds: float) -> Iterator[int]:
    """Sizes of calls that make up ``total``, or as many as fit the time."""
    start = time.perf_counter()
    for begin in range(0, total, chunk):
        if begin and time.perf_counter() - start > seconds:
            return
        yield min(chunk, total - begin)


def tail(
    noise: Noise, seconds: float, device: Device, limit: float = LIMIT, total: int = 1 << 28, chunk: int = 1 << 22
) -> tuple[str, str, float, bool]:
    count, n, largest = 0, 0, -math.inf
    for size in _chunks(total, chunk, 3 * seconds):
        beyond, top = noise(size)
        count, n, largest = count + beyond, n + size, max(largest, top)
    p = -math.expm1(-math.exp(-limit))
    p_value = 0.0 if math.isinf(largest) else _binomial(count, n, p)
    return f"{count} of {n:.2g}, largest {largest:.1f}", f"{n * p:.1f} ± {math.sqrt(n * p):.1f}", p_value, _shows(n, p)


def gap(draw: Draw, seconds: float, device: Device) -> tuple[str, str, float, bool]:
    logits = torch.full((64,), -17.0, device=device)
    logits[31] = 0.0
    count, n = 0, 0
    for size in _chunks(1 << 25, 1 << 16, 2 * seconds):
        count, n = count + int((draw(logits, size) != 31).sum()), n + size
    weight = 63 * math.exp(-17)
    p = weight / (1 + weight)
    measured = f"{count / n / 63:.2e} ± {math.sqrt(max(count, 1)) / n / 63:.0e}"
    return measured, f"{p / 63:.2e}", _binomial(count, n, p), _shows(n, p)


def _share(index: Tensor, n: int) -> tuple[str, str, float]:
    """The share of draws in the lower half of n equally likely items; also looks at all 64ths."""
    m, half = index.numel(), n // 2
    lower = int((index < half).sum())
    p_value = _binomial(lower, m, half / n)
    if m >= 1280:
        counts = torch.bincount(torch.div(index * 64, n, rounding_mode="floor"), minlength=64).cpu().numpy()
        edges = np.ceil(np.arange(65) * n / 64)
        expected = np.diff(edges) / n * m
        p_value = min(1.0, 2 * min(p_value, float(scipy.stats.chisquare(counts, expected).pvalue)))
    error = math.sqrt(max(lower * (m - lower), 1) / m**3)
    return f"{lower / m:.3f} ± {error:.3f} of {m:,}", f"{half / n:.3f}", p_value


def ties(draw: Draw, seconds: float, device: Device) -> tuple[str, str, float, bool]:
    logits = torch.zeros(4096, dtype=torch.bfloat16, device=device)
    index = torch.cat([draw(logits, size) for size in _chunks(1 << 14, 1 << 11, seconds)])
    return *_share(index, 4096), index.numel() >= 2048


def many_items(draw: Draw, seconds: float, device: Device) -> tuple[str, str, float, bool]:
    n = (1 << 24) + 1
    logits = torch.zeros(n, device=device)
    index = torch.cat([draw(logits, size) for size in _chunks(4000, 1, 2 * seconds)])
    measured, expected, p_value = _share(n - 1 - index, n)  # the upper half
    return measured, expected, p_value, index.numel() >= 128


def forbidden(draw: Draw, seconds: float, device: Device) -> tuple[str, str, float, bool]:
    logits = torch.randn(4096, generator=torch.Generator().manual_seed(0)).to(device).half()
    logits[0::2] = -torch.inf  # the first too: it is what argmax says of a row of NaN
    index = torch.cat([draw(logits, size) for size in _chunks(1 << 16, 1 << 11, seconds)])
    wrong = int(((index % 2 == 0) | (index < 0) | (index >= 4096)).sum())
    return f"{wrong:,} of {index.numel():,}", "0", 0.0 if wrong else 1.0, index.numel() >= 1 << 14


def _without(names: set[str]) -> dict[tuple[str, str], Draw]:
    return {key: draw for key, draw in DRAWS.items() if key[1] not in names}


QUESTIONS: list[Question] = [
    Question("tail", f"Gumbel numbers beyond {LIMIT} (a float32 uniform reaches 16.64), float32", tail, NOISES),
    Question("gap", "probability of a class 17 below the best, float32 (per class, 63 of them)", gap, DRAWS),
    Question("ties", "share of the lower half among 4096 equal logits, bfloat16", ties, DRAWS),
    Question(
        "items",
        "share of the upper half among 2^24 + 1 equal logits, float32",
        many_items,
        _without({"categorical, many draws"}),
    ),
    Question("forbidden", "forbidden items drawn, or NaN (every other logit is -inf), float16", forbidden, DRAWS),
]


def ask(question: Question, seconds: float, device: Device = "cpu") -> Iterator[Finding]:
    """The findings on every contestant, each within about ``seconds``."""
    for (library, name), contestant in question.contestants.items():
        finding = Finding(question.name, name, library, "", "", "cannot")
        if library != OURS and util.find_spec(library) is None:
            finding.measured = f"{library} is not installed"
        else:
            try:
                torch.manual_seed(0)
                measured, expected, p_value, decided = question.ask(contestant, seconds, device)
                finding.measured, finding.expected, finding.p_value = measured, expected, p_value
                finding.verdict = "fail" if p_value < FAILURE_RATE else "pass" if decided else "undecided"
            except Exception as error:
                finding.measured = reason(error)
        yield finding
