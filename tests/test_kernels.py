"""The compiled kernels: every path this machine can run, on any number of threads, is the reference.

On a machine without them the same tests run the reference against itself.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import argumbel as ag
from argumbel import kernels
from argumbel.kernels import cpu
from argumbel.kernels import noise as reference
from argumbel.reverse import posterior_gumbel

from . import oracles
from .conftest import PATHS
from .statistics import check_draws, check_frequency

SINGLE = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [
    *((3, n) for n in (1, 2, 3, 4, 5, 10, 15, 16, 17, 63, 64, 65, 128, 500, 1023, 1025, 5000)),
    *((rows, n) for rows in (1, 70, 300) for n in (1, 3, 65)),
    (1, 70_000),
    (2, 3, 4, 7),
    (0, 5),
]
LAWS = ["uniform", "exponential", "gumbel", "logistic"]


def plain() -> contextlib.AbstractContextManager[None]:
    """The reference instead of the kernels."""
    return kernels.use("reference")


def logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Ordinary ones, some forbidden items, and a few far apart."""
    x = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))
    if shape[-1] > 3:
        x[..., 1::7] = -torch.inf
        x[..., 2::11] -= 200
    return x.to(dtype)


def keys_of(shape: tuple[int, ...]) -> list[ag.KeyedNoise]:
    """Default ids, ids by row, ids by item, by both, item ids that differ by row, and seeds of rows."""
    *lead, n = shape
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(-(1 << 62), 1 << 62, tuple(lead), generator=generator)
    items = torch.randint(-(1 << 62), 1 << 62, (n,), generator=generator)
    each = torch.randint(0, 1 << 40, shape, generator=generator)
    seeds = torch.randint(-(1 << 63), (1 << 63) - 1, tuple(lead), generator=generator)
    return [
        ag.KeyedNoise(0x0123456789ABCDEF),
        ag.KeyedNoise(-1, rows=rows),
        ag.KeyedNoise(3, items=items),
        ag.KeyedNoise(3, items=torch.arange(5, 5 + n)),
        ag.KeyedNoise(3, rows=rows.flatten(), items=items),
        ag.KeyedNoise(3, items=each),
        ag.KeyedNoise(3, rows=rows, items=each[:1].expand(shape) if lead else each),
        ag.KeyedNoise(seeds),
        ag.KeyedNoise(seeds.flatten(), rows=rows, items=items),
    ]


KEYS = len(keys_of((2, 3)))


def views_of(x: Tensor) -> list[Tensor]:
    """The same numbers in other layouts."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan, dtype=x.dtype)
    wide[..., 1:-2] = x
    tall = torch.full((2 * x.shape[0], *x.shape[1:]), torch.nan, dtype=x.dtype)
    tall[::2] = x
    shifted = torch.full((x.numel() + 1,), torch.nan, dtype=x.dtype)
    shifted[1:] = x.flatten()
    spread = torch.full((*x.shape, 2), torch.nan, dtype=x.dtype)
    spread[..., 0] = x
    return [
        wide[..., 1:-2],
        tall[::2],
        shifted[1:].reshape(x.shape),
        spread[..., 0],
        x.movedim(-1, 0).contiguous().movedim(0, -1),
    ]


# --- noise -------------------------------------------------------------------------------------------------------


@functools.cache
def exact_noise(law: str, dtype: torch.dtype, shape: tuple[int, ...], which: int) -> Tensor:
    with plain():
        return getattr(keys_of(shape)[which], law)(shape, dtype=dtype)


def cases(dtype: torch.dtype) -> list[tuple[tuple[int, ...], int]]:
    """Shapes, and which of their keys: all in float32, some in the other dtypes, whose noise is the same, rounded."""
    shapes = SHAPES if dtype == torch.float32 else [(3, 65), (70, 3), (2, 5000), (0, 5)]
    return [(shape, which) for shape in shapes for which in range(KEYS if math.prod(shape) < 2000 else 1)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [*SINGLE, torch.float64])
def test_noise_is_the_reference(path: str, threads: int, law: str, dtype: torch.dtype) -> None:
    """To the bit, also in float64."""
    for shape, which in cases(dtype):
        ours = getattr(keys_of(shape)[which], law)(shape, dtype=dtype)
        assert torch.equal(ours, exact_noise(law, dtype, shape, which))


@pytest.mark.parametrize("law", LAWS)
def test_both_ends_are_refined_as_in_the_reference(path: str, law: str) -> None:
    """Of half a million numbers one in 8192 takes more bits; and keys of seed 0 within 2^-26 of an end."""
    assert torch.equal(
        getattr(ag.KeyedNoise(0x0123456789ABCDEF), law)((500, 1001)), exact_noise(law, torch.float32, (500, 1001), 0)
    )
    far = ag.KeyedNoise(0, rows=[649, 840, 950], items=[201668, 257644, 72913])
    for dtype in SINGLE:
        ours = getattr(far, law)((3, 3), dtype=dtype)
        with plain():
            assert torch.equal(ours, getattr(far, law)((3, 3), dtype=dtype))
    u = far.uniform((3, 3), dtype=torch.float64).diagonal()
    assert torch.minimum(u, 1 - u).max() < 2.0**-26


# --- the race ----------------------------------------------------------------------------------------------------


@functools.cache
def exact_max(dtype: torch.dtype, shape: tuple[int, ...], which: int) -> tuple[Tensor, Tensor]:
    with plain():
        return ag.gumbel_max(logits(shape, dtype), noise=keys_of(shape)[which])


@pytest.mark.parametrize("dtype", SINGLE)
def test_gumbel_max_is_the_reference_to_the_bit(path: str, threads: int, dtype: torch.dtype) -> None:
    for shape, which in cases(dtype):
        values, indices = ag.gumbel_max(logits(shape, dtype), noise=keys_of(shape)[which])
        exact = exact_max(dtype, shape, which)
        assert torch.equal(indices, exact.indices)
        assert torch.equal(values, exact.values)


@pytest.mark.parametrize("dtype", SINGLE)
def test_exact_sums_break_ties(path: str, dtype: torch.dtype) -> None:
    """Where logits dwarf the noise, rounded sums tie; the exact sum of an equal logit is largest where the noise is."""
    for n in (5, 64, 1000, 5000):
        x = torch.full((20, n), 2.0**15 if dtype == torch.float16 else 2.0**26, dtype=dtype)
        first = ag.KeyedNoise(1).gumbel((20, n)).argmax(-1)
        assert torch.equal(ag.gumbel_max(x, noise=ag.KeyedNoise(1)).indices, first)
        hard = ag.gumbel_softmax(x, hard=True, noise=ag.KeyedNoise(1))
        assert torch.equal(hard, torch.nn.functional.one_hot(first, n).to(dtype))


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_gumbel_topk_is_the_reference_to_the_bit(path: str, threads: int, dtype: torch.dtype, k: int) -> None:
    for shape in [(3, 65), (70, 50), (3, 500), (2, 5000), (1, 70_000)]:
        for which in range(KEYS if math.prod(shape) < 2000 else 1):
            noise, x = keys_of(shape)[which], logits(shape, dtype)
            values, indices = ag.gumbel_topk(x, k, noise=noise)
            exact = (x.float() + exact_noise("gumbel", torch.float32, shape, which)).topk(k, -1)
            assert torch.equal(values, exact.values.to(dtype))
            assert torch.equal(indices, exact.indices)


@pytest.mark.parametrize("k", [1, 3, 8, 16, 17])
def test_first_k_of_short_rows(path: str, k: int) -> None:
    """Rows go side by side up to k = 16. Equal sums come in the order of their items."""
    for dtype in SINGLE:
        for shape in [(300, 10), (70, 48), (8, 25), (9, 130), (3, 512)]:
            noise = ag.KeyedNoise(4)
            for x in (logits(shape, dtype), torch.full(shape, 200, dtype=dtype), torch.full(shape, 3e4, dtype=dtype)):
                if k > (x > -torch.inf).sum(-1).min():
                    continue
                ours = ag.gumbel_topk(x, k, noise=noise)
                with plain():
                    exact = ag.gumbel_topk(x, k, noise=noise)
                sums = (x.float() + noise.gumbel(shape)).sort(dim=-1, descending=True, stable=True)
                near = exact if x.max() > 256 else sums
                assert torch.equal(ours.values, near.values[:, :k].to(dtype))
                assert torch.equal(ours.indices, near.indices[:, :k])


def test_topk_of_everything(path: str) -> None:
    for n in (1, 2, 31, 64, 65, 1000):
        x = torch.randn(5, n)
        ours = ag.gumbel_topk(x, n, noise=ag.KeyedNoise(1))
        keys = (x + ag.KeyedNoise(1).gumbel((5, n))).sort(-1, descending=True)
        assert torch.equal(ours.values, keys.values)
        assert torch.equal(ours.indices, keys.indices)


# --- the relaxed race --------------------------------------------------------------------------------------------


def check_error(ours: Tensor, plainly: Tensor, exact: Tensor, unit: Tensor) -> None:
    """In units of what rounding each step once would cost: no more than twice the error of plain torch, and a few."""
    floor = torch.finfo(ours.dtype).tiny
    error, accepted = (((y.double() - exact).abs() / (unit + floor)).max().item() for y in (ours, plainly))
    assert error <= 2 * accepted + 4


def relaxed_case(shape: tuple[int, ...], dtype: torch.dtype, tau: float | str) -> tuple[Tensor, ...]:
    """Logits, temperatures (one, or one a row), y = softmax(z) of z = keys / tau in float64, and the relative error to
    expect of y: from z in float32, and from the result in its dtype."""
    x = logits(shape, dtype)
    own = torch.rand((*shape[:-1], 1), generator=torch.Generator().manual_seed(1)) + 0.1
    own = own if tau == "rows" else torch.tensor(tau)
    keys = (x.float() + exact_noise("gumbel", torch.float32, shape, 0)).double()
    z = (keys - keys.amax(-1, keepdim=True)) / own.double()
    y = torch.softmax(z, -1)
    unit = torch.finfo(dtype).eps / 2 + torch.finfo(torch.float32).eps / 2 * z.clamp(min=-800).abs()
    return x, own, y, unit


RELAXED_SHAPES = [shape for shape in SHAPES if math.prod(shape) and math.prod(shape) <= 20_000]


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0, "rows"])
def test_gumbel_softmax_errs_no_more_than_plain_torch(
    path: str, threads: int, dtype: torch.dtype, tau: float | str
) -> None:
    for shape in RELAXED_SHAPES:
        x, own, y, unit = relaxed_case(shape, dtype, tau)
        noise = keys_of(shape)[0]
        plainly = torch.softmax((x.float() + exact_noise("gumbel", torch.float32, shape, 0)) / own, -1).to(dtype)
        for temperature in (own,) if tau == "rows" else (own, tau):
            ours = ag.gumbel_softmax(x, temperature, noise=noise)
            assert ours.dtype == dtype
            assert (ours[x == -torch.inf] == 0).all()
            check_error(ours, plainly, y, y * unit)
        hard = ag.gumbel_softmax(x, own, hard=True, noise=noise)
        winner = exact_max(dtype, shape, 0).indices
        assert torch.equal(hard, torch.nn.functional.one_hot(winner, shape[-1]).to(dtype))


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("tau", [0.1, 1.0, "rows"])
@pytest.mark.parametrize("hard", [False, True])
def test_gradients_err_no_more_than_plain_torch(
    path: str, threads: int, dtype: torch.dtype, tau: float | str, hard: bool
) -> None:
    """Plain torch, too, goes back from the sample as it stands in its dtype."""
    for shape in RELAXED_SHAPES:
        x, own, y, unit = relaxed_case(shape, dtype, tau)
        upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        g, t = upstream.double(), own.double()
        exact = y * (g - (y * g).sum(-1, keepdim=True)) / t
        stored = y.to(dtype).double()
        plainly = (stored * (g - (stored * g).sum(-1, keepdim=True)) / t).to(dtype)
        a, b = x.clone().requires_grad_(), own.clone().requires_grad_()
        ours, tau_grad = torch.autograd.grad(
            ag.gumbel_softmax(a, b, hard=hard, noise=keys_of(shape)[0]), (a, b), upstream
        )
        assert ours.dtype == dtype
        assert tau_grad.dtype == own.dtype
        size = (g.abs() + (y * g.abs()).sum(-1, keepdim=True)) / t
        error = size * (y * unit + torch.finfo(dtype).tiny)  # the smallest samples may be zero
        check_error(ours, plainly, exact, error)
        z = y.clamp(min=1e-300).log()
        exact_tau = -(exact * z).sum(-1, keepdim=True)
        unit_tau = (error * (z.abs() + 1)).sum(-1, keepdim=True)
        if tau != "rows":
            exact_tau, unit_tau = exact_tau.sum(), unit_tau.sum()
        check_error(tau_grad, exact_tau, exact_tau, unit_tau)


# --- the race given its winner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("known", [False, True])
def test_posterior_gumbel_errs_no_more_than_rounding(path: str, threads: int, dtype: torch.dtype, known: bool) -> None:
    """Against its formula in float64, from the same noise: values, and their gradient."""
    for shape in [shape for shape in SHAPES if math.prod(shape)]:
        for which in range(KEYS if math.prod(shape) < 2000 else 1):
            x = logits(shape, dtype)
            index = x.float().nan_to_num(neginf=-1000).argsort(-1)[..., -min(shape[-1], 2)]  # the second best won
            value = x.float().amax(-1) - 3 if known else None
            upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
            a = x.clone().requires_grad_()
            ours = posterior_gumbel(a, index, value=value, noise=keys_of(shape)[which])
            (ours_grad,) = torch.autograd.grad(ours, a, upstream)
            assert ours.dtype == ours_grad.dtype == dtype
            assert torch.equal(ours.argmax(-1), index)
            with plain():
                g = keys_of(shape)[which].gumbel(shape, dtype=torch.float32).double()
                b = x.double().requires_grad_()
                exact = posterior_gumbel(b, index, value=None if value is None else value.double(), noise=g)
                (exact_grad,) = torch.autograd.grad(exact, b, upstream.double())
            forbidden = x == -torch.inf
            assert (ours[forbidden] == -torch.inf).all()
            size = exact.masked_fill(forbidden, 0).abs() + exact.amax(-1, keepdim=True).abs() + 1
            error = (ours.double() - exact).masked_fill(forbidden, 0).abs() / size
            # The winner stands a step above what rounds to it: two roundings at most.
            assert error.max() <= 2 * torch.finfo(dtype).eps + 4 * torch.finfo(torch.float32).eps
            size = upstream.double().abs() + min(1, 10 / shape[-1]) * upstream.double().abs().sum(-1, keepdim=True)
            error = (ours_grad.double() - exact_grad).abs() / size
            assert error.max() <= torch.finfo(dtype).eps + 100 * torch.finfo(torch.float32).eps


# --- law functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 63, 64, 65, 128, 500])
def test_law_of_categorical_on_every_path(path: str, n: int, dtype: torch.dtype) -> None:
    x = logits((n,), dtype)
    generator = torch.Generator().manual_seed(n)
    check_draws(ag.categorical(x, (20_000,), generator=generator), oracles.softmax(x))
    check_draws(ag.categorical(x.expand(20_000, n), generator=generator), oracles.softmax(x))


def drawn_in_three_ways(x: Tensor, seed: int) -> Iterator[Tensor]:
    """Many draws of a row, a few of each of some rows, one of each of many."""
    (n,) = x.shape
    generator, rows = torch.Generator().manual_seed(seed), 5_000_000 // n
    yield ag.categorical(x, (20_000,), generator=generator)
    yield ag.categorical(x.expand(rows // 20, n), (n // 33,), generator=generator)
    yield ag.categorical(x.expand(rows, n), generator=generator)


@pytest.mark.parametrize("n", [1023, 1025, 5000, 70_000])
def test_law_of_categorical_over_many_items(path: str, n: int) -> None:
    """A few weighty items among a crowd, by groups of items that no block respects: many draws of a row, a few of each
    of some rows, one of each of many."""
    x = torch.zeros(n)
    x[n // 2], x[-1], x[0] = math.log(n / 2), math.log(n / 2), math.log(n / 4)
    x[5::7] = -3
    group, weights = torch.arange(n) % 23, oracles.softmax(x)
    law = np.bincount(group, weights)
    for draws in drawn_in_three_ways(x, n):
        if draws.numel() > 2000:
            check_draws(group[draws], law)
        check_frequency(int((draws >= n // 3).sum()), draws.numel(), weights[n // 3 :].sum())
        check_frequency(int((x[draws] == -3).sum()), draws.numel(), weights[x == -3].sum())


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 100.0])
def test_rejection_is_exact_whatever_the_logits(path: str, scale: float) -> None:
    """One draw of each of many rows of two tiles and a bit: by item where a few hold all, by group where none does."""
    x = scale * torch.randn(2100, generator=torch.Generator().manual_seed(1))
    x[::5] = -torch.inf
    weights = torch.softmax(x.double(), 0)
    group = torch.zeros(2100, dtype=torch.int64)
    group[weights.argsort()] = (torch.linspace(0, 1, 2100) ** 3 * 40).long()
    draws = ag.categorical(x.expand(20_000, 2100), generator=torch.Generator().manual_seed(2))
    assert (x[draws] > -torch.inf).all()
    check_draws(group[draws], np.bincount(group, weights, minlength=41))


def test_log_partition(path: str, threads: int) -> None:
    for n in (1, 3, 64, 65, 1000, 5000, 70_000):
        for dtype in SINGLE:
            x = logits((3, n), dtype)
            _, log_z, bad = kernels.categorical(x, torch.Size([]), True, (3,))
            torch.testing.assert_close(log_z.double(), x.double().logsumexp(-1), rtol=2e-6, atol=2e-6)
            assert not bad


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, g: ag.categorical(x, (3,), generator=g),
        lambda x, g: ag.sample_without_replacement(x, 2, generator=g).indices,
        lambda x, g: ag.sample_without_replacement(x, 2, generator=g).values,
    ],
)
def test_law_functions_do_not_depend_on_threads_or_layout(path: str, draw: Callable[..., Tensor]) -> None:
    before = torch.get_num_threads()
    try:
        for shape in [(1, 70_000), (300, 65), (3, 5000), (40, 1)]:
            x = logits(shape) if shape[1] > 1 else torch.zeros(40, 2)
            results = []
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                results.append(draw(x, torch.Generator().manual_seed(1)))
            for view in views_of(x):
                results.append(draw(view, torch.Generator().manual_seed(1)))
            assert all(torch.equal(result, results[0]) for result in results)
    finally:
        torch.set_num_threads(before)


# --- layouts and bad rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("shape", [(4, 1), (5, 17), (3, 65), (2, 3, 130)])
def test_layouts(path: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, noise = logits(shape, dtype), ag.KeyedNoise(2)
    upstream = torch.randn(shape).to(dtype)

    def results(view: Tensor, grad: Tensor) -> list[Tensor]:
        a = view.detach().requires_grad_()
        y = ag.gumbel_softmax(a, 0.5, noise=noise)
        return [*ag.gumbel_max(view, noise=noise), y, *torch.autograd.grad(y, a, grad)]

    exact = results(x, upstream)
    for view, grad in zip(views_of(x), views_of(upstream), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results(view, grad), exact, strict=True))
    row = x[:1].expand(shape) if x.ndim == 2 else x[:1, :1].expand(shape)
    copy = row.clone(memory_format=torch.contiguous_format)
    assert all(torch.equal(a, b) for a, b in zip(results(row, upstream), results(copy, upstream), strict=True))


@pytest.mark.parametrize(("dtype", "n"), [*((dtype, n) for dtype in SINGLE for n in (1, 2, 33)), (torch.float32, 130)])
def test_bad_numbers_are_found_in_every_place(path: str, dtype: torch.dtype, n: int) -> None:
    calls = [ag.categorical, ag.gumbel_max, ag.gumbel_softmax, lambda x: ag.gumbel_topk(x, 1)]
    calls += [lambda x: ag.gumbel_softmax(x, hard=True), lambda x: ag.sample_without_replacement(x, 1)]
    for call in calls:
        for place in range(n):
            for bad, message in ((torch.nan, "must not be NaN"), (torch.inf, r"must not be \+inf")):
                x = logits((3, n), dtype).clamp(min=-300)
                x[1, place] = bad
                with pytest.raises(ValueError, match=message):
                    call(x)
        x = logits((3, n), dtype)
        x[2] = -torch.inf
        with pytest.raises(ValueError, match="at least one item in each row"):
            call(x)


@pytest.mark.parametrize("dtype", SINGLE)
def test_bad_numbers_are_found_in_every_tile(path: str, dtype: torch.dtype) -> None:
    for call in (ag.categorical, lambda x: ag.categorical(x, (100,)), ag.gumbel_max, ag.gumbel_softmax):
        for place in (0, 63, 64, 1023, 1024, 1087, 2098, 2099):
            for bad in (torch.nan, -torch.nan, torch.inf):
                x = logits((3, 2100), dtype).clamp(min=-300)
                x[1, place] = bad
                with pytest.raises(ValueError, match="logits must not be"):
                    call(x)


# --- operators ---------------------------------------------------------------------------------------------------


def operators() -> dict[str, tuple[object, ...]]:
    x = torch.randn(3, 5, requires_grad=True)
    y, seed, tau = torch.softmax(torch.randn(3, 5), -1), torch.tensor(7), torch.tensor([0.5])
    rows, items = torch.arange(3), torch.arange(5)
    return {
        "keyed_noise": ("gumbel", [3, 5], torch.float32, "cpu", seed, rows, None),
        "gumbel_max": (x, seed, rows, items),
        "gumbel_topk": (x, 2, seed, None, None),
        "sample_without_replacement": (x.detach(), 2, seed),
        "gumbel_softmax": (x, tau, False, seed, None, items),
        "gumbel_sigmoid": (x, tau, False, seed, None, items),
        "gumbel_softmax_backward": (y, torch.randn(3, 5), tau),
        "categorical": (x.detach(), [4], True, seed),
        "gumbel_softmax_backward_keyed": (x.detach(), torch.randn(3, 5), tau, seed, None, items),
        "posterior_gumbel": (x, torch.tensor([0, 4, 2]), None, seed, rows, items),
        "linear_gumbel_max": (x.detach(), torch.randn(7, 5), None, tau, seed, rows, None),
        "linear_categorical": (x.detach(), torch.randn(7, 5), torch.randn(7), tau, seed),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of opcheck, 2.14
@pytest.mark.parametrize("name", operators())
def test_operators_are_registered_as_torch_wants_them(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.argumbel, name).default, operators()[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_constant_seed_in_compiled_code(backend: str) -> None:
    """The compiler folds what depends on constants alone: it runs the operator while it compiles."""

    @functools.partial(torch.compile, fullgraph=True, backend=backend)
    def perturbed(x: Tensor) -> Tensor:
        return x + ag.KeyedNoise(3).gumbel((2, 3))

    assert torch.equal(perturbed(torch.zeros(2, 3)), ag.KeyedNoise(3).gumbel((2, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, on the first dual number
def test_forward_mode_duals() -> None:
    x, direction = torch.randn(3, 5), torch.randn(3, 5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        values, indices = ag.gumbel_max(dual, noise=ag.KeyedNoise(1))
        assert torch.equal(forward_ad.unpack_dual(values).tangent, direction.gather(1, indices[:, None])[:, 0])
        y = forward_ad.unpack_dual(ag.gumbel_softmax(dual, 0.5, noise=ag.KeyedNoise(1)))
        expected = y.primal * (direction - (y.primal * direction).sum(-1, keepdim=True)) / 0.5
        torch.testing.assert_close(y.tangent, expected)


# --- processes and threads ---------------------------------------------------------------------------------------


def test_paths() -> None:
    if cpu.library is not None:
        assert cpu.library.active() in PATHS
        with pytest.raises(ValueError, match="no compiled path 'v9' on this machine"):
            cpu.library.use("v9")


def in_a_process(kernels_wanted: str, code: str) -> subprocess.CompletedProcess[str]:
    """Fresh Python, warnings as errors, ARGUMBEL_KERNELS set."""
    environment = {**os.environ, cpu.VARIABLE: kernels_wanted}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_environment_variable_picks_the_path() -> None:
    """The reference when asked for, silently; and it draws what this process draws."""
    code = (
        "import torch, argumbel as ag\n"
        "from argumbel.kernels import cpu\n"
        "x = torch.linspace(-3, 3, 99).expand(20, 99)\n"
        "y = ag.gumbel_softmax(x.clone().requires_grad_(), hard=True, noise=ag.KeyedNoise(5))\n"
        "y.sum().backward()\n"
        "print(cpu.library and cpu.library.active(), *ag.gumbel_max(x, noise=ag.KeyedNoise(5)).indices.tolist())"
    )
    x = torch.linspace(-3, 3, 99).expand(20, 99)
    mine = ag.gumbel_max(x, noise=ag.KeyedNoise(5)).indices.tolist()
    for wanted in {"reference", PATHS[-1]}:
        run = in_a_process(wanted, code)
        assert run.returncode == 0, run.stderr
        active, *indices = run.stdout.split()
        assert active == ("None" if wanted == "reference" else wanted)
        assert [int(i) for i in indices] == mine


def test_a_path_that_is_not_there_is_an_error() -> None:
    run = in_a_process("v9", "import argumbel")
    assert run.returncode != 0
    assert f"ImportError: {cpu.VARIABLE}" in run.stderr
    assert "v9" in run.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_children_draw(threads: int) -> None:
    """As the workers of a data loader do, after the parent's threads have run."""
    x = torch.randn(64, 3000)
    mine = ag.gumbel_max(x, noise=ag.KeyedNoise(1)).indices
    child = os.fork()
    if child == 0:
        same = False
        try:
            if cpu.library is None:  # torch's own threads do not survive a fork, which is why data loaders say this
                torch.set_num_threads(1)
            same = torch.equal(ag.gumbel_max(x, noise=ag.KeyedNoise(1)).indices, mine)
            torch.set_num_threads(1)
            same = same and ag.gumbel((1000, 1000)).isfinite().all().item()
        finally:
            os._exit(0 if same else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert torch.equal(ag.gumbel_max(x, noise=ag.KeyedNoise(1)).indices, mine)


def test_calls_from_many_threads_at_once(threads: int) -> None:
    x = torch.randn(200, 1000)

    def draw(seed: int) -> Tensor:
        return ag.gumbel_softmax(x, noise=ag.KeyedNoise(seed))

    expected = [draw(seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(draw, range(16)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_reference_words_are_the_library_s(path: str) -> None:
    """The public noise is the transform of the reference's own words."""
    first, second = (reference.words(torch.tensor(3), torch.arange(4), 9, stream) for stream in (0, 1))
    assert torch.equal(ag.KeyedNoise(3).gumbel((4, 9)), reference.gumbel(first, second, torch.float32))
