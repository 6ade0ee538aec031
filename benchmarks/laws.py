"""Is the operation right, at the very size that is about to be timed? Each check raises ``AssertionError`` if not.

Quick forms of what the tests do at length, with their statistics (a true law fails at most once in a million) and, for
keyed operations, the plain torch expression under the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from tests import statistics
from torch import Tensor

from argumbel import KeyedNoise
from argumbel.kernels import noise as reference

Draw = Callable[[Tensor, torch.Generator], Tensor]
SECONDS = 0.5  # for repeated calls of one check
UNIFORM = lambda u: u  # noqa: E731  the distribution function


def repeat(call: Callable[[], Tensor], draws: int) -> Tensor:
    """Results of as many calls as give ``draws`` numbers, or as time allows; stacked."""
    start, results = time.perf_counter(), [call()]
    while sum(r.numel() for r in results) < draws and time.perf_counter() - start < SECONDS:
        results.append(call())
    return torch.stack(results)


def check_categorical(logits: Tensor, indices: Tensor) -> None:
    """``indices`` (draws, rows) follow softmax(logits) (rows, n), however many items there are.

    The distribution function at a draw, smeared over its step, is uniform if the law is right: with the items in
    their order and with the items in the order of their probabilities. And log p has its mean.
    """
    assert int(indices.min()) >= 0
    assert int(indices.max()) < logits.shape[-1]
    generator = torch.Generator(logits.device).manual_seed(1)
    probs = torch.softmax(logits.double(), -1)
    chosen = torch.gather(probs, -1, indices.T).T
    assert bool((chosen > 0).all()), "an impossible item was drawn"
    smear = torch.rand(indices.shape, generator=generator, dtype=torch.float64, device=logits.device)
    below = probs.cumsum(-1).gather(-1, indices.T).T - chosen
    statistics.check_cdf((below + smear * chosen).flatten().cpu().numpy(), UNIFORM)
    ordered, place = probs.sort(-1)
    places = torch.arange(place.shape[-1], device=place.device).expand_as(place)
    rank = torch.empty_like(place).scatter_(-1, place, places)
    below = ordered.cumsum(-1).gather(-1, rank.gather(-1, indices.T)).T - chosen
    statistics.check_cdf((below + smear * chosen).flatten().cpu().numpy(), UNIFORM)
    information = torch.special.xlogy(probs, probs)
    mean = information.sum(-1)
    deviation = (torch.special.xlogy(information, probs).sum(-1) - mean**2).clamp(min=1e-12).sqrt()
    statistics.check_mean(((chosen.log() - mean) / deviation).flatten().cpu().numpy(), 0.0, 1.0)


def check_few_items(dtype: torch.dtype, draw: Draw, device: str | torch.device = "cpu") -> None:
    """Counts of every item, a forbidden one among them, in many short rows."""
    row = torch.tensor([0.0, -1.0, -torch.inf, 1.0, 0.5, -3.0, 0.25]).to(device, dtype)
    indices = draw(row.expand(20_000, 7), torch.Generator(device).manual_seed(2))
    statistics.check_draws(indices.cpu().numpy(), torch.softmax(row.double(), -1).cpu().numpy())


def check_gumbel(values: Tensor) -> None:
    statistics.check_cdf(values.double().numpy(), lambda g: np.exp(-np.exp(-g)))


def check_noise(
    noise: Callable[[torch.Generator], Tensor], dtype: torch.dtype, device: str | torch.device = "cpu"
) -> None:
    """The Gumbel law, the share beyond 10, and agreement with the plain torch reference to the bit."""
    sample = noise(torch.Generator(device).manual_seed(3)).flatten()
    if dtype != torch.bfloat16:  # rounded noise has the law between its grid points only
        statistics.check_cdf(sample[:1_000_000].double().cpu().numpy(), lambda g: np.exp(-np.exp(-g)))
    beyond = sample.new_tensor(10.0)  # a number of every dtype; what rounds to it lies on both sides
    step = 2.0**-5 if dtype == torch.bfloat16 else 0.0
    expected = -np.expm1(-np.exp(-(float(beyond) + step)))
    statistics.check_frequency(int((sample > beyond).sum()), sample.numel(), float(expected))
    seed, rows, items = torch.tensor(4), torch.arange(3), 10_007
    plain = reference.noise("gumbel", seed, rows, items, torch.float32).to(dtype)
    ours = KeyedNoise(4).gumbel((3, items), dtype=dtype, device=device)
    assert torch.equal(ours.cpu(), plain), "not the noise of the reference"


def keyed(logits: Tensor) -> tuple[KeyedNoise, Tensor]:
    """A key, and logits perturbed by its noise, in float32 or, of float64 logits, in float64."""
    noise, dtype = KeyedNoise(seed=5), torch.promote_types(logits.dtype, torch.float32)
    return noise, logits.to(dtype) + noise.gumbel(logits.shape, dtype=dtype, device=logits.device)


def check_race(values: Tensor, indices: Tensor, keys: Tensor, k: int) -> None:
    """The k largest keys of each row in falling order, to the bit, and items that have them (keys may tie)."""
    assert torch.equal(values, keys.topk(k, -1).values.to(values.dtype)), "not the values of the plain expression"
    assert torch.equal(keys.gather(-1, indices).to(values.dtype), values), "the indices are of other items"
    ordered = indices.sort(-1).values
    assert bool((ordered.diff(dim=-1) > 0).all()), "an item was drawn twice"


def check_close(ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    """No more than four times as far from the float64 result as the plain float32 expression is."""
    allowed = 4 * float((plain.to(ours.dtype).double() - exact).abs().max())
    error = float((ours.double() - exact).abs().max())
    assert error <= allowed, f"error {error:.1e}, where the plain expression has {allowed / 4:.1e}"


def check_without_replacement(logits: Tensor, k: int, draw: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Keys and indices of k of n from one row have the joint law of the race, also where n is large.

    exp(-key) are arrival times: each gap, times the weight that is still left, is a standard exponential number. And
    given what is gone, the next item is drawn from what is left: counted in groups of items that lie together, by
    place and by weight.
    """
    probs = torch.softmax(logits.double(), -1)
    log_z = torch.logsumexp(logits.double(), -1)
    gaps: list[Tensor] = []
    drawn: list[Tensor] = []
    gone: list[Tensor] = []
    start = time.perf_counter()
    while not drawn or (k * len(drawn) < 2000 and time.perf_counter() - start < 2 * SECONDS):
        keys, indices = draw()
        assert len(indices.unique()) == k, "an item was drawn twice"
        assert bool((keys[1:] <= keys[:-1]).all()), "keys must fall"
        weight = probs[indices]
        before = weight.cumsum(0) - weight
        times = (log_z - keys.double()).exp()
        gaps.append(torch.diff(times, prepend=times.new_zeros(1)) * (1 - before))
        drawn.append(indices)
        gone.append(before)
    early = torch.cat([g[:1000] for g in gaps])  # later gaps come near the spacing of float32 keys
    statistics.check_cdf(early.numpy(), lambda x: -np.expm1(-x))
    statistics.check_mean(torch.cat(gaps).numpy(), 1.0, 1.0)
    groups = max(2, min(32, k * len(drawn) // 50))
    for order in (torch.arange(len(probs)), probs.argsort()):
        group = torch.empty_like(order)
        group[order] = (probs[order].cumsum(0) * groups).long().clamp(max=groups - 1)
        mass = torch.zeros(groups, dtype=torch.float64).index_add_(0, group, probs)
        surprise, variance = torch.zeros(groups, dtype=torch.float64), torch.zeros(groups, dtype=torch.float64)
        for indices, before in zip(drawn, gone, strict=True):
            own = torch.nn.functional.one_hot(group[indices], groups).double()
            taken = own * probs[indices].unsqueeze(-1)
            expected = (mass - (taken.cumsum(0) - taken)) / (1 - before).unsqueeze(-1)
            surprise += (own - expected).sum(0)
            variance += (expected * (1 - expected)).sum(0)
        z = float((surprise.abs() / variance.sqrt()).max())
        bound = float(statistics.scipy.stats.norm.isf(statistics.FAILURE_RATE / 2 / groups))
        assert z < bound, f"some items are drawn too often or too seldom: {z:.1f} standard deviations"
