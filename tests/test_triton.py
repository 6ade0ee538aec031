"""The Triton kernels are the reference: compiled where there is a GPU, else in Triton's interpreter, on the CPU.

Whatever the interpreter cannot say of a GPU is asked of the machine code, which needs none (``tests/ptx.py``).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels

from . import oracles
from .statistics import check_draws, check_frequency
from .test_kernels import LAWS, SINGLE, check_error, exact_max, exact_noise, keys_of, logits, relaxed_case

pytest.importorskip("triton", minversion="3.6")
import triton
import triton.language as tl

from argumbel.kernels import dispatch
from argumbel.kernels import noise as reference
from argumbel.kernels.law import LAW_RACES
from argumbel.kernels.triton import law, linear, race, softmax, topk
from argumbel.kernels.triton import noise as tiles

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
# NumPy, which the interpreter runs on, warns of infinities that are meant.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
SHAPES = [(3, 1), (3, 2), (2, 5), (3, 65), (70, 3), (9, 17), (2, 3, 4, 7), (2, 1023), (2, 2500), (0, 5)]
ON_GPU = pytest.mark.skipif(not HAS_GPU, reason="asks what only a GPU can answer")


@pytest.fixture(autouse=True)
def _by_triton() -> Iterator[None]:
    """Where there is no GPU, tensors of the CPU go to the interpreter, but inside ``exactly``."""
    if HAS_GPU:
        yield
        return
    assert tiles.INTERPRETED
    with kernels.use("triton"):
        yield


def exactly(call: Callable[[], tuple[Tensor, ...] | Tensor]) -> tuple[Tensor, ...] | Tensor:
    """What the CPU's own kernels, or the reference, make of it."""
    with kernels.use(None):
        return call()


def there(x: Tensor) -> Tensor:
    return x.to(DEVICE)


def here(x: Tensor) -> Tensor:
    return x.cpu()


def cases(dtype: torch.dtype) -> list[tuple[tuple[int, ...], int]]:
    """Shapes, and which of their keys: all in float32, some in the other dtypes."""
    shapes = SHAPES if dtype == torch.float32 else [(3, 65), (70, 3), (2, 1023), (0, 5)]
    return [(shape, which) for shape in shapes for which in range(7 if shape in [(3, 65), (2, 3, 4, 7)] else 1)]


# --- noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", SINGLE)
def test_noise_is_the_reference_to_the_bit(law: str, dtype: torch.dtype) -> None:
    for shape, which in cases(dtype):
        exact = exactly(lambda: exact_noise(law, dtype, shape, which))  # noqa: B023
        ours = getattr(keys_of(shape)[which], law)(shape, dtype=dtype, device=DEVICE)
        assert ours.dtype == dtype
        assert torch.equal(here(ours), exact)


@pytest.mark.parametrize("law", LAWS)
def test_both_ends_are_refined_as_in_the_reference(law: str) -> None:
    """Of 40,000 numbers five take more bits; and keys of seed 0 within 2^-26 of an end."""
    key = ag.KeyedNoise(0x0123456789ABCDEF)
    exact = exactly(lambda: getattr(key, law)((40, 1000)))
    assert torch.equal(here(getattr(key, law)((40, 1000), device=DEVICE)), exact)
    u = exactly(lambda: key.uniform((40, 1000), dtype=torch.float64))
    assert (torch.minimum(u, 1 - u) < 2.0**-14).sum() >= 3
    far = ag.KeyedNoise(0, rows=[649, 840, 950], items=[201668, 257644, 72913])
    exact = exactly(lambda: getattr(far, law)((3, 3)))
    assert torch.equal(here(getattr(far, law)((3, 3), device=DEVICE)), exact)


@triton.jit
def bounds(words, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tiles.gumbel_bound(tl.load(words + at)))


def test_the_bound_of_a_number_is_above_it_and_near_to_a_large_one() -> None:
    """Whatever the second word: at both ends, about powers of two, where floats round, and anywhere."""
    edges = torch.tensor([sign * (1 << k) for k in range(32) for sign in (1, -1)])
    about = (edges[:, None] + torch.arange(-40, 41)).flatten() % 2**32
    first = torch.cat([torch.arange(3000), 2**32 - 1 - torch.arange(3000), about, torch.randint(2**32, (21_584,))])
    ours = torch.empty(len(first), device=DEVICE)
    bounds[(len(first) // 1024,)](there(first.int()), ours, BLOCK=1024)
    for second in (0, 2**32 - 1):
        exact = reference.gumbel(first, torch.full_like(first, second), torch.float32)
        assert (here(ours) >= exact).all()
        large = (exact > 2) & (first > 100)
        assert (here(ours) - exact)[large].max() < 0.14


def test_float64_noise_is_that_of_the_reference() -> None:
    noise = ag.KeyedNoise(3).gumbel((3, 5), dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(here(noise), exactly(lambda: ag.KeyedNoise(3).gumbel((3, 5), dtype=torch.float64)))


# --- the race ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
def test_gumbel_max_is_the_reference_to_the_bit(dtype: torch.dtype) -> None:
    for shape, which in cases(dtype):
        exact = exactly(lambda: exact_max(dtype, shape, which))  # noqa: B023
        values, indices = ag.gumbel_max(there(logits(shape, dtype)), noise=keys_of(shape)[which])
        assert values.dtype == dtype
        assert torch.equal(here(indices), exact[1])
        assert torch.equal(here(values), exact[0])


@pytest.mark.parametrize("n", [2048, 5000])
def test_rows_in_segments(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program for a row, several, and segments of several tiles."""
    x, noise = logits((2, n)), ag.KeyedNoise(5)
    exact = exactly(lambda: ag.gumbel_max(x, noise=noise))
    for programs in (1, 4, 10_000):
        monkeypatch.setattr(race, "PROGRAMS", programs)
        values, indices = ag.gumbel_max(there(x), noise=noise)
        assert torch.equal(here(indices), exact[1])
        assert torch.equal(here(values), exact[0])
    assert race.segments(2, n, 256, 4, 9) == (2, triton.cdiv(n, 512))
    assert race.segments(1, n, 256, 10_000, 3)[0] <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_gumbel_topk_is_the_reference_to_the_bit(dtype: torch.dtype, k: int) -> None:
    for shape in [(3, 65), (20, 50), (2, 2500)]:
        for which in range(7 if shape == (3, 65) else 1):
            x, noise = logits(shape, dtype), keys_of(shape)[which]
            exact = exactly(lambda: ag.gumbel_topk(x, k, noise=noise))  # noqa: B023
            values, indices = ag.gumbel_topk(there(x), k, noise=noise)
            assert torch.equal(here(indices), exact[1])
            assert torch.equal(here(values), exact[0])


@pytest.mark.parametrize("k", [topk.SMALL_K, topk.SMALL_K + 1])
def test_topk_of_long_rows_by_both_ways(k: int) -> None:
    x, noise = logits((1, 3000)), ag.KeyedNoise(5)
    exact = exactly(lambda: ag.gumbel_topk(x, k, noise=noise))
    values, indices = ag.gumbel_topk(there(x), k, noise=noise)
    assert torch.equal(here(values), exact[0])
    assert torch.equal(here(indices), exact[1])


def test_ties_go_to_the_first() -> None:
    """Items that share an id have the same noise, so equal logits tie; the lowest index wins, in whichever tile or
    segment. Where logits dwarf the noise, too."""
    for n in (5, 64, 2500):
        for height in (0.0, 2.0**26):
            x, noise = torch.full((4, n), height), ag.KeyedNoise(1, items=there(torch.arange(n) % 4))
            g = exactly(lambda: ag.KeyedNoise(1).gumbel((4, 4)))
            first = g.argmax(-1)
            assert torch.equal(here(ag.gumbel_max(there(x), noise=noise).indices), first)
            assert torch.equal(here(ag.gumbel_softmax(there(x), hard=True, noise=noise)).argmax(-1), first)
            two = here(ag.gumbel_topk(there(x), 2, noise=noise).indices)
            assert torch.equal(two % 4, torch.stack([first, first if n > 7 else two[:, 1] % 4], -1))
            assert height or torch.equal(two[:, 0], first)


def test_gradients_of_values_are_those_of_their_items() -> None:
    for call in (
        lambda x: ag.gumbel_max(x, noise=ag.KeyedNoise(1)),
        lambda x: ag.gumbel_topk(x, 3, noise=ag.KeyedNoise(1)),
    ):
        x = there(torch.randn(4, 9)).requires_grad_()
        values, indices = call(x)
        (grad,) = torch.autograd.grad(values.sum(), x)
        expected = torch.zeros_like(x).scatter(-1, indices.reshape(4, -1), 1.0)
        assert torch.equal(grad, expected)


def test_layouts() -> None:
    noise = ag.KeyedNoise(2)
    wide = there(torch.randn(5, 40))
    views = [wide[:, 1:18], wide[::2], wide.t(), wide[:1].expand(6, 40), wide[:, ::2], wide[:, :1]]
    for view in views:
        for call in (
            lambda x: ag.gumbel_max(x, noise=noise).indices,
            lambda x: ag.gumbel_softmax(x, 0.5, noise=noise),
            lambda x: ag.gumbel_topk(x, 1, noise=noise).values,
            lambda x: ag.categorical(x, generator=torch.Generator(DEVICE).manual_seed(1)),
        ):
            assert torch.equal(call(view), call(view.clone(memory_format=torch.contiguous_format)))


def test_places_beyond_the_support_get_no_gradient() -> None:
    """There, where rows may not be looked at, they are marked, all by the same index."""
    x = there(torch.tensor([[0.0, -torch.inf, -torch.inf, 1.0]])).requires_grad_()
    values, indices = kernels.gumbel_topk(x, 3, (1, None, None))[:2]
    assert (indices < 0).sum() == 1
    (grad,) = torch.autograd.grad(values[indices >= 0].sum(), x)
    assert grad.tolist() == [[1.0, 0.0, 0.0, 1.0]]


def test_winners_of_many_parts() -> None:
    """More than a tile of them; ties go to the larger rest, then to the first part, NaN to the row."""
    values = torch.randn(5, 2500)
    values[1, 1999], values[2, 7], values[3] = 9.0, torch.nan, -torch.inf
    values[1, 30], values[0, 50], values[0, 700], values[0, 1900] = 9.0, 512.0, 512.0, 512.0
    rests = torch.zeros(5, 2500)
    rests[0, 700], rests[0, 1900] = 1e-5, 1e-5
    items = torch.arange(2500).expand(5, 2500) * 3
    best, index = there(torch.empty(5)), there(torch.empty(5, dtype=torch.int64))
    race.settle(there(values), there(rests), there(items.contiguous()), best, index)
    exact = values.max(-1)
    assert index.tolist() == [2100, 90, -1, -1, int(exact.indices[4]) * 3]
    assert best.isnan().tolist() == [False, False, True, True, False]


def test_rows_too_long_for_the_kernels_run_on_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, noise = torch.randn(2, 40), ag.KeyedNoise(1)
    exact = exactly(lambda: ag.gumbel_max(x, noise=noise))[1]
    monkeypatch.setattr(dispatch, "LONGEST_ROW", 39)
    for module in (race, topk, tiles, softmax, law):
        monkeypatch.setattr(module, "launch", None)
    assert torch.equal(here(ag.gumbel_max(there(x), noise=noise).indices), exact)
    one, key = there(torch.ones(1)), (1, None, None)
    reasons = kernels.explain(kernels.linear_gumbel_max, there(x), there(torch.randn(40, 40)), None, one, key)
    assert reasons["triton"] == "a row is longer than 39"
    assert reasons["reference"] == "runs"
    assert ag.gumbel_softmax(there(x)).shape == ag.gumbel((2, 40), device=DEVICE).shape


# --- bad rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [9, 2500])
def test_bad_rows_are_marked(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with NaN, with +inf, with nothing allowed; one with a single item, and a sound one."""
    monkeypatch.setattr(softmax, "LONGEST_TILE", 1024)
    x = torch.zeros(5, n)
    x[0, n // 2], x[1, -1], x[2], x[3, 1:] = torch.nan, torch.inf, -torch.inf, -torch.inf
    x = there(x)
    seed = there(torch.tensor(1))
    values, indices = race.gumbel_max(x, (seed, None, None))
    assert indices.tolist()[:4] == [-1, -1, -1, 0]
    assert values.isnan().tolist() == [True, True, True, False, False]
    values, indices = topk.gumbel_topk(x, 2, (seed, None, None))
    assert indices[:4].tolist() == [[-1, -1]] * 3 + [[0, -1]]
    assert values.isnan().sum(-1).tolist() == [2, 2, 2, 1, 0]
    draws, log_z = law.categorical(x, torch.Size([2]), True, (seed,))
    assert draws[:, :4].tolist() == [[-1, -1, -1, 0]] * 2
    assert log_z.isnan().tolist() == [True, True, True, False, False]
    for tau in (1.0, 0.0):
        y = softmax.gumbel_softmax(x, there(torch.tensor([tau])), False, (seed, None, None))
        assert y.isnan().all(-1).tolist() == [True, True, True, False, False]
        torch.testing.assert_close(here(y[3:].sum(-1)), torch.ones(2))


def test_empty_tensors() -> None:
    x = there(torch.empty(0, 5, requires_grad=True))
    assert ag.gumbel_max(x).values.shape == (0,)
    assert ag.gumbel_topk(x, 2).values.shape == (0, 2)
    assert ag.categorical(x, (3,)).shape == (3, 0)
    (grad,) = torch.autograd.grad(ag.gumbel_softmax(x, hard=True).sum(), x)
    assert grad.shape == (0, 5)
    assert ag.gumbel_topk(there(torch.zeros(3, 5)), 0).values.shape == (3, 0)
    assert ag.gumbel((0, 3), device=DEVICE).shape == (0, 3)


# --- the relaxed race --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("tau", [0.1, 1.0, "rows"])
@pytest.mark.parametrize("longest", [4096, 16])
def test_relaxed_samples_and_gradients_err_no_more_than_plain_torch(
    dtype: torch.dtype, tau: float | str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft and hard, forward and backward, in one tile and in segments."""
    monkeypatch.setattr(softmax, "LONGEST_TILE", longest)
    monkeypatch.setattr(softmax, "BLOCK", 64)
    for shape in [(3, 5), (2, 3, 4, 7), (3, 65), (2, 500)]:
        x, own, y, unit = exactly(lambda: relaxed_case(shape, dtype, tau))  # noqa: B023
        noise = keys_of(shape)[0]
        upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        winner = exactly(lambda: exact_max(dtype, shape, 0))[1]  # noqa: B023
        g, t = upstream.double(), own.double()
        exact = y * (g - (y * g).sum(-1, keepdim=True)) / t
        stored = y.to(dtype).double()
        plain_y = exactly(
            lambda: torch.softmax((x.float() + exact_noise("gumbel", torch.float32, shape, 0)) / own, -1)  # noqa: B023
        ).to(dtype)
        plain_grad = (stored * (g - (stored * g).sum(-1, keepdim=True)) / t).to(dtype)
        size = (g.abs() + (y * g.abs()).sum(-1, keepdim=True)) / t
        for hard in (False, True):
            a = there(x).requires_grad_()
            ours = ag.gumbel_softmax(a, there(own) if tau == "rows" else tau, hard=hard, noise=noise)
            (grad,) = torch.autograd.grad(ours, a, there(upstream))
            assert ours.dtype == grad.dtype == dtype
            if hard:
                assert torch.equal(here(ours), torch.nn.functional.one_hot(winner, shape[-1]).to(dtype))
            else:
                assert (ours[a == -torch.inf] == 0).all()
                check_error(here(ours), plain_y, y, y * unit)
            check_error(here(grad), plain_grad, exact, size * (y * unit + torch.finfo(dtype).tiny))


def test_the_temperature_has_its_gradient() -> None:
    x, noise = torch.randn(3, 40), ag.KeyedNoise(1)

    def gradient(device: torch.device) -> Tensor:
        tau = torch.full((3, 1), 0.7, device=device, requires_grad=True)
        y = ag.gumbel_softmax(x.to(device), tau, noise=noise)
        return torch.autograd.grad((y**2).sum(), tau)[0]

    exact = exactly(lambda: gradient(torch.device("cpu")))
    torch.testing.assert_close(here(gradient(DEVICE)), exact)


@pytest.mark.parametrize("longest", [4096, 16])
def test_cold_rows_are_exactly_one_hot(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the best keys tie, which no quotient by a temperature tells apart; and their gradient is zero."""
    monkeypatch.setattr(softmax, "LONGEST_TILE", longest)
    x = there(torch.full((2, 100), 2.0**26))
    key = (there(torch.tensor(1)), None, None)
    tau = there(torch.tensor([0.0, 1.0]))
    y = softmax.gumbel_softmax(x, tau, False, key)
    first = ag.gumbel_max(x, noise=ag.KeyedNoise(1)).indices
    assert torch.equal(here(y[0]), torch.nn.functional.one_hot(here(first[0]), 100).float())
    assert (y[1] > 0).sum() > 1
    grad = softmax.gumbel_softmax_backward_keyed(x, there(torch.randn(2, 100)), tau, key)
    assert (grad[0] == 0).all()
    assert (grad[1] != 0).any()


@pytest.mark.parametrize("longest", [4096, 16])
def test_a_temperature_without_end_or_none(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At infinity all that is allowed is alike; NaN is not taken for cold."""
    monkeypatch.setattr(softmax, "LONGEST_TILE", longest)
    x = torch.randn(2, 37)
    x[:, 3] = -torch.inf
    key = (there(torch.tensor(1)), None, None)
    y = softmax.gumbel_softmax(there(x), there(torch.tensor([torch.inf, torch.nan])), False, key)
    expected = torch.full((37,), 1 / 36)
    expected[3] = 0
    torch.testing.assert_close(here(y[0]), expected)
    assert y[1, :3].isnan().all()


def test_a_temperature_first_seen_in_inference_mode_can_be_trained_with() -> None:
    x = there(torch.randn(3, 600)).requires_grad_()
    with torch.inference_mode():
        ag.gumbel_softmax(x, 0.371)
    ag.gumbel_softmax(x, 0.371).square().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("which", ["rows", "items"])
def test_ids_written_to_before_the_backward_pass_are_an_error(which: str) -> None:
    ids = {"rows": there(torch.arange(2)), "items": there(torch.arange(600))}
    x = there(torch.randn(2, 600)).requires_grad_()
    y = ag.gumbel_softmax(x, hard=True, noise=ag.KeyedNoise(1, **ids))
    ids[which] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_seed_written_to_before_the_backward_pass_is_an_error() -> None:
    seed = there(torch.tensor(3))
    x = there(torch.randn(2, 600)).requires_grad_()
    y = ag.gumbel_softmax(x, hard=True, noise=ag.KeyedNoise(seed))
    seed += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- law functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
def test_law_of_categorical_in_one_block(dtype: torch.dtype) -> None:
    x = logits((10,), dtype)
    generator = torch.Generator(DEVICE).manual_seed(1)
    check_draws(here(ag.categorical(there(x), (2500,), generator=generator)), oracles.softmax(x))


def test_many_draws_of_a_few_rows_make_no_copies_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[0.0, 1.0, -1.0], [2.0, -torch.inf, 0.0]])
    sizes = []

    def launch(kernel: object, programs: int, source: Tensor, *rest: object, **constants: object) -> None:
        sizes.append(source.untyped_storage().nbytes())
        tiles.launch(kernel, programs, source, *rest, **constants)

    monkeypatch.setattr(race, "launch", launch)
    draws = here(ag.categorical(there(x), (2000,), generator=torch.Generator(DEVICE).manual_seed(1)))
    assert sizes == [24]
    for row in range(2):
        check_draws(draws[:, row], oracles.softmax(x[row]))


@pytest.mark.parametrize("log_z", [False, True])
def test_law_of_categorical_over_blocks(log_z: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight, tiles of four of them; a whole block forbidden, and a rare item beside a common one."""
    monkeypatch.setattr(law, "BLOCK", 8)
    x = 2 * torch.randn(37, generator=torch.Generator().manual_seed(1))
    x[8:16] = -torch.inf
    x[3], x[33:] = -3, torch.tensor([1.0, -torch.inf, 3.0, -2.0])
    draws, z = law.categorical(there(x.expand(1, 37)), torch.Size([1500]), log_z, (there(torch.tensor(7)),))
    check_draws(here(draws).flatten(), oracles.softmax(x))
    if log_z:
        torch.testing.assert_close(here(z), x.double().logsumexp(-1, keepdim=True), rtol=1e-6, atol=1e-6)


def test_draws_are_the_race_of_blocks_and_then_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """The algorithm in plain PyTorch, from the same noise, far from zero and with logits far apart."""
    monkeypatch.setattr(law, "BLOCK", 64)
    n, seed, blocks, tile = 1000, 11, 16, 16
    x = logits((3, n)) + torch.tensor([[0.0], [3000.0], [-3000.0]])
    draws, log_z = law.categorical(there(x), torch.Size([5]), True, (there(torch.tensor(seed)),))
    torch.testing.assert_close(here(log_z), x.double().logsumexp(-1), rtol=2e-7, atol=2e-6)
    g = exactly(lambda: ag.KeyedNoise(seed ^ LAW_RACES["categorical"]).gumbel((15, tile + 4 + 64 + 28)))
    padded = torch.nn.functional.pad(x, (0, blocks * 64 - n), value=-torch.inf).double().unflatten(-1, (blocks, 64))
    for row in range(15):
        weights = padded[row % 3]
        block = int((weights.logsumexp(-1) + g[row, :blocks]).argmax())
        after = (blocks + tile) // tile * tile
        item = int((weights[block] + g[row, after : after + 64]).argmax())
        assert int(draws[row // 3, row % 3]) == block * 64 + item


def test_a_rare_block_is_drawn_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "BLOCK", 8)
    x = torch.full((16,), -5.0)
    x[3] = 0.0
    draws, _ = law.categorical(there(x.expand(1, 16)), torch.Size([1500]), True, (there(torch.tensor(7)),))
    p = oracles.softmax(x)
    check_frequency(int((draws >= 8).sum()), 1500, float(p[8:].sum()))


# --- linear ------------------------------------------------------------------------------------------------------


def head(dtype: torch.dtype, rows: int, n: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    hidden, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, depth), (n, depth)))
    bias = torch.randn(n, generator=generator)
    bias[::5] = -torch.inf
    return hidden, weight, bias


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("temperature", [0.7, 0, "rows"])
def test_linear_gumbel_max_is_that_of_the_logits(dtype: torch.dtype, temperature: float | str) -> None:
    for rows, n, depth in [(3, 300, 70), (1, 5, 3), (20, 129, 33)]:
        hidden, weight, bias = head(dtype, rows, n, depth)
        own = torch.linspace(0, 2, rows) if temperature == "rows" else temperature
        ids = torch.randint(0, 1 << 40, (n,), generator=torch.Generator().manual_seed(1))
        for noise in (ag.KeyedNoise(3), ag.KeyedNoise(3, rows=torch.arange(7, 7 + rows), items=ids)):
            for b in (bias, None):
                exact = exactly(
                    lambda: ag.linear_gumbel_max(hidden, weight, bias=b, temperature=own, noise=noise)  # noqa: B023
                )
                values, indices = ag.linear_gumbel_max(
                    there(hidden),
                    there(weight),
                    bias=None if b is None else there(b),
                    temperature=there(own) if isinstance(own, Tensor) else own,
                    noise=noise,
                )
                assert torch.equal(here(indices), exact[1])
                torch.testing.assert_close(here(values), exact[0], rtol=1e-5, atol=1e-4)


def test_linear_draws_follow_the_law() -> None:
    """Many rows of the same hidden state: two tiles of 128 items, of which a few hold most."""
    hidden, weight, bias = head(torch.bfloat16, 1, 150, 20)
    x = (hidden.float() @ weight.float().T + bias).squeeze(0) / 1.5
    count = 4000 if HAS_GPU else 400
    generator = torch.Generator(DEVICE).manual_seed(1)
    draws = ag.linear_categorical(
        there(hidden).expand(count, 20), there(weight), bias=there(bias), temperature=1.5, generator=generator
    )
    group = torch.arange(150) * 7 % 6
    check_draws(group[here(draws)], torch.zeros(6).double().index_add(0, group, x.double().softmax(0)))
    assert (bias[here(draws)] > -torch.inf).all()


def test_linear_draws_are_the_race_of_a_few_items_and_then_of_one() -> None:
    """The algorithm in plain PyTorch, from the same noise."""
    hidden, weight, bias = head(torch.float32, 6, 300, 40)
    temperature, seed = torch.tensor([0.5, 1.0, 2.0, 0.5, 3.0, 9.0]), 12
    key = there(torch.tensor(seed))
    _, draws = linear.linear_categorical(there(hidden), there(weight), there(bias), there(temperature), (key,))
    few, blocks, tile = linear.FEW, 19, 32
    x = ((hidden.double() @ weight.double().T + bias) / temperature[:, None]).float()
    x = torch.nn.functional.pad(x, (0, blocks * few - 300), value=-torch.inf).unflatten(-1, (blocks, few))
    after = (blocks + tile) // tile * tile
    g = exactly(lambda: ag.KeyedNoise(seed ^ LAW_RACES["linear_categorical"]).gumbel((6, after + few)))
    for row in range(6):
        block = int((x[row].double().logsumexp(-1) + g[row, :blocks]).argmax())
        assert int(draws[row]) == block * few + int((x[row, block] + g[row, after:]).argmax())


def test_linear_draws_at_temperature_zero_are_the_argmax() -> None:
    hidden, weight, bias = head(torch.float32, 6, 300, 40)
    greedy = (hidden @ weight.T + bias).argmax(-1)
    temperature = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    draws = ag.linear_categorical(there(hidden), there(weight), bias=there(bias), temperature=there(temperature))
    cold = temperature == 0
    assert torch.equal(here(draws)[cold], greedy[cold])


def test_linear_takes_a_bias_of_any_layout() -> None:
    hidden, weight, bias = (there(x) for x in head(torch.float32, 4, 300, 20))
    spread = torch.stack([bias, torch.full_like(bias, torch.nan)], -1)[:, 0]
    one, noise = bias.new_zeros(1).expand(300), ag.KeyedNoise(3)
    for view in (spread, one):
        ours = ag.linear_gumbel_max(hidden, weight, bias=view, noise=noise)
        assert torch.equal(ours.indices, ag.linear_gumbel_max(hidden, weight, bias=view.clone(), noise=noise).indices)
    draws = ag.linear_categorical(hidden, weight, bias=spread)
    assert (bias[draws] > -torch.inf).all()


def test_linear_rows_without_a_temperature_are_marked() -> None:
    hidden, weight, bias = (there(x) for x in head(torch.float32, 4, 300, 20))
    temperature = there(torch.tensor([1.0, torch.inf, torch.nan, -1.0]))
    key = (there(torch.tensor(1)), None, None)
    assert (linear.linear_gumbel_max(hidden, weight, bias, temperature, key)[1] < 0).tolist() == [
        False,
        True,
        True,
        True,
    ]
    draws = linear.linear_categorical(hidden, weight, bias, temperature, key[:1])[1]
    assert (draws < 0).tolist() == [False, True, True, True]


def test_float32_products_are_as_pytorch_is_told() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for precision, tf32 in (("highest", False), ("high", True)):
            torch.set_float32_matmul_precision(precision)
            assert linear._is_tf32() == tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_linear_rows_of_nan_are_marked() -> None:
    hidden, weight, bias = (there(x) for x in head(torch.float32, 4, 300, 20))
    hidden[1, 3] = torch.nan
    one = there(torch.ones(1))
    seed = there(torch.tensor(1))
    heights, draws = linear.linear_categorical(hidden, weight, bias, one, (seed,))
    assert (draws < 0).tolist() == heights.isnan().tolist() == [False, True, False, False]
    values, indices = linear.linear_gumbel_max(
        hidden, weight, torch.full_like(bias, -torch.inf), one, (seed, None, None)
    )
    assert (indices == -1).all()
    assert values.isnan().all()


def test_linear_without_features_or_rows() -> None:
    bias = there(torch.tensor([0.0, 50.0, 0.0]))
    draws = ag.linear_categorical(there(torch.empty(2, 0)), there(torch.empty(3, 0)), bias=bias)
    assert draws.tolist() == [1, 1]
    assert ag.linear_categorical(there(torch.empty(0, 4)), there(torch.randn(3, 4))).shape == (0,)
    assert ag.linear_gumbel_max(there(torch.empty(0, 4)), there(torch.randn(3, 4))).values.shape == (0,)


def test_shards_have_the_winner_of_the_whole() -> None:
    hidden, weight, _ = (there(x) for x in head(torch.float32, 5, 300, 20))
    whole = ag.linear_gumbel_max(hidden, weight, noise=ag.KeyedNoise(4))
    ids = there(torch.arange(300))
    parts = []
    for own in (ids[::2], ids[1::2]):
        choice = ag.linear_gumbel_max(hidden, weight[own], noise=ag.KeyedNoise(4, items=own))
        parts.append((choice.values, own[choice.indices]))
    (a, i), (b, j) = parts
    assert torch.equal(torch.where(a > b, i, j), whole.indices)


def test_linear_values_have_their_gradient() -> None:
    hidden, weight, bias = (there(x).requires_grad_() for x in head(torch.float32, 3, 50, 8))
    noise = ag.KeyedNoise(4)
    logits = (hidden @ weight.T + bias) / 0.7
    values, indices = ag.linear_gumbel_max(hidden, weight, bias=bias, temperature=0.7, noise=noise)
    plainly = logits.gather(-1, indices[:, None]).sum()
    for ours, exact in zip(
        torch.autograd.grad(values.sum(), (hidden, weight, bias)),
        torch.autograd.grad(plainly, (hidden, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(ours, exact)


# --- compiled code -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_draws_what_eager_code_draws() -> None:
    x, seed = there(torch.randn(3, 40)), there(torch.tensor(5))
    hidden, weight, _ = (there(x) for x in head(torch.float32, 3, 40, 8))

    def everything(x: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        noise = ag.KeyedNoise(seed)
        y = ag.gumbel_softmax(x, 0.5, hard=True, noise=noise)
        return (
            noise.gumbel((3, 4), device=x.device),
            *ag.gumbel_max(x, noise=noise),
            *ag.gumbel_topk(x, 2, noise=noise),
            y,
            ag.gumbel_softmax(x, 0.5, noise=noise),
            *ag.linear_gumbel_max(hidden, weight, temperature=0.7, noise=noise),
        )

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")(x, seed)
    assert all(torch.equal(a, b) for a, b in zip(compiled, everything(x, seed), strict=True))

    def gradient(x: Tensor) -> Tensor:
        return ag.gumbel_softmax(x, 0.5, hard=True, noise=ag.KeyedNoise(seed)).square().sum()

    grads = []
    for f in (gradient, torch.compile(gradient, fullgraph=True, backend="aot_eager")):
        a = x.clone().requires_grad_()
        f(a).backward()
        grads.append(a.grad)
    torch.testing.assert_close(*grads)
    draw = torch.compile(lambda: ag.linear_categorical(hidden, weight), fullgraph=True, backend="aot_eager")
    draws = draw()
    assert ((draws >= 0) & (draws < 40)).all()
    draws = torch.compile(ag.categorical, fullgraph=True, backend="aot_eager")(x)
    assert ((draws >= 0) & (draws < 40)).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["linear_gumbel_max", "linear_categorical"])
def test_operators_are_registered_as_torch_wants_them(name: str) -> None:
    hidden, weight, bias = (there(x) for x in head(torch.float32, 3, 40, 8))
    ids = (None, None) if name == "linear_gumbel_max" else ()
    arguments = (hidden, weight, bias, there(torch.ones(1)), there(torch.tensor(1)), *ids)
    torch.library.opcheck(getattr(torch.ops.argumbel, name).default, arguments)


def test_transforms_run_on_the_reference() -> None:
    x = there(torch.randn(4, 6))
    noise = ag.KeyedNoise(3, rows=[0])
    one = torch.func.vmap(lambda row: ag.gumbel_max(row[None], noise=noise).indices)(x)
    assert one.shape == (4, 1)
    grad = torch.func.grad(lambda a: (ag.gumbel_softmax(a, 0.5, noise=ag.KeyedNoise(3)) ** 2).sum())(x)
    a = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad((ag.gumbel_softmax(a, 0.5, noise=ag.KeyedNoise(3)) ** 2).sum(), a)
    torch.testing.assert_close(grad, exact)


def test_what_triton_lacks_runs_elsewhere() -> None:
    """float64 logits, posterior noise, and draws without replacement, which are the keyed race."""
    x = torch.randn(3, 20)
    wide = ag.gumbel_max(there(x.double()), noise=ag.KeyedNoise(1))
    assert torch.equal(here(wide.indices), exactly(lambda: ag.gumbel_max(x.double(), noise=ag.KeyedNoise(1)))[1])
    index = torch.tensor([3, 0, 19])
    ours = ag.posterior_gumbel(there(x), there(index), noise=ag.KeyedNoise(1))
    exact = exactly(lambda: ag.posterior_gumbel(x, index, noise=ag.KeyedNoise(1)))
    torch.testing.assert_close(here(ours), exact, rtol=1e-5, atol=1e-5)
    draw = ag.sample_without_replacement(there(x), 5)
    assert all(len(set(row)) == 5 for row in draw.indices.tolist())


def test_functions_of_law_are_independent_from_equal_seeds() -> None:
    """Each has its own random numbers. Of 300 choices among 400 items more than 15 equal ones: below 1e-13."""
    x = there(torch.zeros(300, 400))
    one, ones = there(torch.ones(300, 1)), there(torch.zeros(400, 1))

    def draw(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return function(*inputs, generator=torch.Generator(DEVICE).manual_seed(7))

    draws = [
        draw(ag.gumbel_max, x).indices,
        draw(ag.categorical, x),
        draw(ag.sample_without_replacement, x, 3).indices[:, 0],
        draw(ag.linear_categorical, one, ones),
    ]
    for first, second in itertools.combinations(draws, 2):
        assert (first == second).sum() <= 15


# --- far from 0 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e6, -1.6e7, -300.0, None])
@pytest.mark.parametrize(("rows", "n"), [(70, 3), (5, 48), (3, 600), (2, 2500), (1, 9000)])
def test_far_from_0_it_is_the_reference(rows: int, n: int, offset: float | None) -> None:
    """Logits beside which float32 rounds the noise away: equal sums are settled alike, and rows near 0 stay."""
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(n))
    x = torch.full_like(x, torch.finfo(x.dtype).min) if offset is None else x + offset
    x[1::3] = torch.randn(n)
    key, k = ag.KeyedNoise(11), min(n, 7)
    grad = torch.randn(rows, n)

    def keyed(to: Callable[[Tensor], Tensor]) -> list[Tensor]:
        a = to(x).requires_grad_()
        y, hard = ag.gumbel_softmax(a, 0.7, noise=key), ag.gumbel_softmax(a, 0.7, True, noise=key)
        zeros = to(torch.zeros(rows, 1)), to(torch.zeros(n, 1))
        indices = (
            ag.gumbel_max(a.detach(), noise=key).indices,
            *ag.gumbel_topk(a.detach(), k, noise=key),
            ag.linear_gumbel_max(*zeros, bias=to(x[0]), noise=key).indices,
        )
        grads = (torch.autograd.grad((s * to(grad)).sum(), a)[0] for s in (y, hard))
        return [here(part.detach()) for part in (*indices, hard, y, *grads)]

    found, expected = keyed(there), exactly(lambda: tuple(keyed(lambda t: t.clone())))
    for ours, exact in zip(found[:5], expected[:5], strict=True):
        assert torch.equal(ours, exact)
    for ours, exact in zip(found[5:], expected[5:], strict=True):
        torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-6)


def test_far_from_0_the_first_of_a_tile_are_different_items() -> None:
    """Pairs of sum and rest may be equal, too: of equal logits under equal noise, here by equal ids."""
    items = torch.zeros(1100, dtype=torch.int64)
    items[3::5] = torch.arange(3, 1100, 5)
    noise = ag.KeyedNoise(2, items=there(items))
    indices = here(ag.gumbel_topk(there(torch.full((2, 1100), 1e6)), 60, noise=noise).indices)
    assert all(len(set(row)) == 60 for row in indices.tolist())


@pytest.mark.parametrize("offset", [1e6, None])
def test_draws_far_from_0(offset: float | None) -> None:
    x = torch.tensor([0.5, 0.3, 0.2]).log()
    x = torch.full_like(x, torch.finfo(x.dtype).min) if offset is None else x + offset
    draws = ag.categorical(there(x), (20_000,), generator=torch.Generator(DEVICE).manual_seed(3))
    check_draws(here(draws), oracles.softmax(x))


# --- the device --------------------------------------------------------------------------------------------------


def test_machine_code() -> None:
    """Every kernel that is launched compiles for a GPU. A number of Gumbel noise is sixteen fused multiply-adds, of
    logistic noise as many, and nothing else is fused; nothing of the noise is flushed to zero."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.ptx"],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    launched = {
        f"{path.stem}.{name}"
        for path in Path(tiles.__file__).parent.glob("*.py")
        for name in re.findall(r"(?<!def )\blaunch\(\s*(\w+)", path.read_text())
    }
    assert {case["kernel"] for case in found} == launched, "each kernel needs a Case in tests/ptx.py"
    assert all(case["binary"] for case in found)
    for case in found:
        if case["only_noise_fused"]:
            assert case["fused"] == 16 * case["numbers"]
            assert not case["flushing"]


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    with pytest.warns(RuntimeWarning, match=r"argumbel finds no Triton.*: pip install triton"):
        indices = ag.gumbel_max(there(torch.zeros(3, 4)), noise=ag.KeyedNoise(1)).indices
    assert torch.equal(here(indices), exactly(lambda: ag.gumbel_max(torch.zeros(3, 4), noise=ag.KeyedNoise(1)))[1])


def test_it_is_imported_only_when_a_tensor_arrives() -> None:
    code = "import sys, torch, argumbel; argumbel.gumbel_max(torch.zeros(3)); assert 'argumbel.kernels.triton' not in "
    subprocess.run([sys.executable, "-c", code + "sys.modules"], check=True, timeout=120)


@ON_GPU
def test_nothing_waits_for_the_device_and_all_can_be_captured() -> None:
    x = there(torch.randn(3, 5000))
    hidden, weight, bias = (there(x) for x in head(torch.bfloat16, 3, 300, 64))
    seed = there(torch.tensor(5))

    def everything() -> list[Tensor]:
        noise = ag.KeyedNoise(seed)
        return [
            ag.categorical(x, (2,)),
            ag.gumbel_max(x, noise=noise).indices,
            ag.gumbel_topk(x, 5, noise=noise).indices,
            ag.gumbel_softmax(x, 0.5, noise=noise),
            ag.gumbel_softmax(x, 0.5, hard=True, noise=ag.KeyedNoise(3)),
            ag.linear_categorical(hidden, weight, bias=bias, temperature=0.7),
            ag.linear_gumbel_max(hidden, weight, noise=noise).indices,
        ]

    everything()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything()
    graph.replay()
    first = [y.clone() for y in captured]
    seed += 1
    graph.replay()
    for place in (1, 2, 3, 6):  # keyed
        assert torch.equal(first[place], eager[place])
        assert not torch.equal(first[place], captured[place])
    assert not torch.equal(first[0], captured[0])  # the generator moves on


@ON_GPU
def test_ten_million_choices_are_those_of_the_cpu() -> None:
    for rows, n in [(1_000_000, 10), (10_000, 1000)]:
        for start in range(0, 5_000_000, 1_000_000):
            ids = torch.arange(start, start + rows)
            x = 2 * torch.randn(rows, n)
            noise = ag.KeyedNoise(9, rows=ids)
            exact = ag.gumbel_max(x, noise=noise).indices
            assert torch.equal(here(ag.gumbel_max(there(x), noise=noise).indices), exact)
