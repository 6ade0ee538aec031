"""The noise contract of the public functions: its law, its purity, and the arguments noise= and generator=."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import argumbel as ag
from argumbel.noise import logistic

from . import oracles
from .statistics import check_cdf, check_frequency, check_independent, check_mean, quantile_bins
from .strategies import DTYPES, ids, seeds

LAWS = {
    "gumbel": oracles.gumbel_cdf,
    "exponential": lambda e: -np.expm1(-e),
    "uniform": lambda u: u,
    "logistic": scipy.special.expit,
}
FLOATS = (torch.float32, torch.float64)
KAPPA = [0.0, oracles.EULER, *(math.factorial(n - 1) * scipy.special.zeta(n) for n in range(2, 7))]  # cumulants

# Keys of seed 0, found by search, whose first word lies within 44 of an end: (row, item).
HIGHEST = (649, 201668)
LOWEST = (840, 257644)


def draws(n: int, dtype: torch.dtype = torch.float32, seed: int = 0, law: str = "gumbel") -> torch.Tensor:
    return getattr(ag.KeyedNoise(seed), law)((n // 500, 500), dtype=dtype)


def size(backend: str) -> int:
    return 200_000 if backend == "reference" else 2_000_000


# --- law ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_distribution_function(backend: str, dtype: torch.dtype, law: str) -> None:
    check_cdf(draws(200_000, dtype, law=law), LAWS[law])


@pytest.mark.parametrize("dtype", FLOATS)
def test_moments(backend: str, dtype: torch.dtype) -> None:
    """Mean .5772157, variance 1.6449341, median .3665129, skewness 1.1395471."""
    g = draws(size(backend), dtype, seed=1).double().numpy()
    centred = g - 0.5772157
    variance = 1.6449341
    fourth = KAPPA[4] + 3 * KAPPA[2] ** 2
    third = 1.1395471 * variance**1.5
    sixth = KAPPA[6] + 15 * KAPPA[4] * KAPPA[2] + 10 * KAPPA[3] ** 2 + 15 * KAPPA[2] ** 3
    check_mean(centred, 0, variance)
    check_mean(centred**2, variance, fourth - variance**2)
    check_mean(centred**3, third, sixth - third**2)
    check_frequency((g < 0.3665129).sum(), g.size, 0.5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_range(backend: str, dtype: torch.dtype) -> None:
    g = draws(size(backend), dtype, seed=2)
    assert g.isfinite().all()
    assert g.min() > -3.9
    assert g.max() < 46
    u = draws(size(backend), dtype, seed=2, law="uniform")
    assert u.min() > 0
    assert u.max() < 1
    assert draws(size(backend), dtype, seed=2, law="exponential").min() > 0


def test_keys_far_out_in_the_tails(backend: str) -> None:
    """Values beyond any that a 32-bit uniform can give, or rounds to."""
    for (row, item), dtype in [(k, d) for k in (HIGHEST, LOWEST) for d in FLOATS]:
        noise = ag.KeyedNoise(0, [row], [item])
        u, rest = oracles.uniform(0, row, item)
        assert min(u, rest) < 44 * 2.0**-32
        expected = oracles.gumbel(u, rest)
        assert noise.gumbel((1, 1), dtype=dtype).item() == pytest.approx(expected, rel=4e-7)
        assert noise.exponential((1, 1), dtype=dtype).item() == pytest.approx(math.exp(-expected), rel=4e-7)
        odds = math.log(rest) - math.log(u)
        assert abs(noise.logistic((1, 1), dtype=dtype).item()) == pytest.approx(abs(odds), rel=4e-7)
        if (row, item) == HIGHEST:
            assert noise.uniform((1, 1), dtype=dtype).item() == pytest.approx(u, rel=4e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_infinite_or_at_an_end_in_any_dtype(backend: str, dtype: torch.dtype) -> None:
    for row, item in (HIGHEST, LOWEST):
        noise = ag.KeyedNoise(0, [row], [item])
        assert 0 < noise.uniform((1, 1), dtype=dtype).item() < 1
        assert 0 < noise.exponential((1, 1), dtype=dtype).item() < 46
        assert noise.gumbel((1, 1), dtype=dtype).isfinite().all()
        assert noise.logistic((1, 1), dtype=dtype).isfinite().all()


# --- one u behind all laws and dtypes ----------------------------------------------------------------------------


def test_float32_and_float64_noise_are_of_the_same_key(backend: str) -> None:
    """float32 sees u by steps below 2e-6 of its distance from the nearer end, and rounds."""
    single, double = draws(100_000), draws(100_000, torch.float64)
    assert ((single - double).abs() <= 2.5e-6 + 4e-7 * double.abs()).all()
    assert (single.double() != double).float().mean() > 0.99


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-7), (torch.float64, 1e-14)])
def test_laws_are_of_the_same_u(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    u, e, g, x = (draws(50_000, dtype, law=law).double() for law in ("uniform", "exponential", "gumbel", "logistic"))
    torch.testing.assert_close(e, (-g).exp(), rtol=8 * tolerance, atol=0)
    torch.testing.assert_close(u, -torch.expm1(-e), rtol=4 * tolerance, atol=0)
    torch.testing.assert_close(x, -torch.log(torch.expm1(e)), rtol=2 * tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("law", ["gumbel", "exponential", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_from_float32(backend: str, dtype: torch.dtype, law: str) -> None:
    assert torch.equal(draws(50_000, dtype, law=law), draws(50_000, law=law).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_uniform_stays_inside(backend: str, dtype: torch.dtype) -> None:
    u, whole = draws(50_000, dtype, law="uniform"), draws(50_000, law="uniform")
    assert u.min() > 0
    assert u.max() < 1
    assert (u.double() - whole.double()).abs().max() <= torch.finfo(dtype).eps / 2


def test_noise_is_the_number_its_key_gives(backend: str) -> None:
    """Against plain Python, from the key to the number."""
    rows, items = [0, 7, -1, (1 << 33) + 5], [0, 1, 2, 3, 4, 1 << 40, -6]
    g = ag.KeyedNoise(-3, rows, items).gumbel((4, 7), dtype=torch.float64)
    expected = [[oracles.gumbel(*oracles.uniform(-3, row, item)) for item in items] for row in rows]
    torch.testing.assert_close(g, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-14)
    single = ag.KeyedNoise(-3, rows, items).gumbel((4, 7))
    torch.testing.assert_close(single, torch.tensor(expected), rtol=1e-6, atol=3e-6)


STREAM = [  # (seed, row, item), its Gumbel and its logistic number in float32
    ((0, 0, 0), "0x1.5984b2p-1", "0x1.a3442cp-2"),
    ((0, 0, 1), "-0x1.81d62ep-1", "-0x1.ff5356p+0"),
    ((0, 0, 2), "-0x1.24939cp-2", "-0x1.0617fep+0"),
    ((0, 0, 3), "0x1.28da32p-4", "-0x1.b6a3e4p-2"),
    ((1, 2, 3), "0x1.9bf35ep+1", "0x1.99617cp+1"),
    ((-1, -2, -3), "0x1.fba266p-4", "-0x1.667f60p-2"),
    ((1 << 63, 1 << 40, 1 << 62), "0x1.6df7f0p+0", "0x1.4eb668p+0"),
    ((0, 0, 20349), "0x1.6ca6bcp+3", "0x1.6ca6b0p+3"),  # first word within 2^16 of an end
    ((0, 0, 74581), "-0x1.453e08p+1", "-0x1.962322p+3"),
    ((0, 0, 5586), "0x1.3962a6p+3", "0x1.39626ap+3"),  # within 2^18, so it takes the second word too
    ((0, 0, 28429), "-0x1.2422c8p+1", "-0x1.399374p+3"),
    ((0, 0, 1466), "0x1.30da42p+3", "0x1.30d9f6p+3"),  # just beyond, so it does not
    ((0, 0, 29621), "-0x1.1ef86cp+1", "-0x1.2d2c2ep+3"),
]


@pytest.mark.parametrize(("key", "gumbel", "odds"), STREAM)
def test_the_stream_is_part_of_the_contract(backend: str, key: tuple[int, int, int], gumbel: str, odds: str) -> None:
    """These numbers may not change, on any machine; if they must, CHANGELOG.md and kernels/README.md say so."""
    noise = ag.KeyedNoise(key[0], [key[1]], [key[2]])
    assert noise.gumbel((1, 1)).item() == float.fromhex(gumbel)
    assert noise.logistic((1, 1)).item() == float.fromhex(odds)
    assert oracles.gumbel(*oracles.uniform(*key)) == pytest.approx(float.fromhex(gumbel), rel=2e-6)


# --- purity ------------------------------------------------------------------------------------------------------


@given(seed=seeds, rows=st.lists(ids, max_size=5), items=st.lists(ids, min_size=1, max_size=6), data=st.data())
def test_any_part_equals_the_whole(seed: int, rows: list[int], items: list[int], data: st.DataObject) -> None:
    law, dtype = data.draw(st.sampled_from(sorted(LAWS))), data.draw(st.sampled_from(FLOATS))
    whole = getattr(ag.KeyedNoise(seed, rows, items), law)((len(rows), len(items)), dtype=dtype)
    some = data.draw(st.lists(st.sampled_from(range(len(rows))), max_size=3)) if rows else []
    few = data.draw(st.lists(st.sampled_from(range(len(items))), min_size=1, max_size=3))
    part = ag.KeyedNoise(seed, [rows[i] for i in some], [items[j] for j in few])
    assert torch.equal(getattr(part, law)((len(some), len(few)), dtype=dtype), whole[some][:, few])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 500])
def test_default_ids_count_from_zero(backend: str, n: int) -> None:
    whole = ag.KeyedNoise(9).gumbel((2, 3, n))
    assert torch.equal(whole, ag.KeyedNoise(9, rows=range(6), items=range(n)).gumbel((2, 3, n)))
    assert torch.equal(whole, ag.KeyedNoise(9, rows=torch.arange(6).reshape(2, 3)).gumbel((2, 3, n)))
    assert torch.equal(whole.reshape(6, n), ag.KeyedNoise(9).gumbel((6, n)))
    assert torch.equal(whole[0, 0], ag.KeyedNoise(9).gumbel((n,)))
    assert torch.equal(whole[..., : n // 2], ag.KeyedNoise(9).gumbel((2, 3, n // 2)))
    assert torch.equal(whole[1], ag.KeyedNoise(9, rows=[3, 4, 5]).gumbel((3, n)))


def test_item_ids_may_differ_by_row(backend: str) -> None:
    whole = ag.KeyedNoise(9).gumbel((3, 50))
    items = torch.stack([torch.randperm(50)[:7] for _ in range(3)])
    assert torch.equal(ag.KeyedNoise(9, items=items).gumbel((3, 7)), whole.gather(1, items))
    shared = ag.KeyedNoise(9, items=items[:1]).gumbel((3, 7))
    assert torch.equal(shared, whole[:, items[0]])


def test_noise_does_not_depend_on_the_number_of_threads(backend: str) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ag.KeyedNoise(4).gumbel((300, 1001))
        torch.set_num_threads(3)
        assert torch.equal(ag.KeyedNoise(4).gumbel((300, 1001)), one)
    finally:
        torch.set_num_threads(threads)


def test_seeds_are_64_bits(backend: str) -> None:
    assert torch.equal(ag.KeyedNoise(-1).gumbel((5,)), ag.KeyedNoise((1 << 64) - 1).gumbel((5,)))
    assert torch.equal(ag.KeyedNoise(torch.tensor(-1)).gumbel((5,)), ag.KeyedNoise(-1).gumbel((5,)))
    values = {ag.KeyedNoise(seed).gumbel((1,)).item() for seed in (0, 1, 1 << 32, 1 << 63, -1)}
    assert len(values) == 5


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (0, 3), (2, 0, 3), (2, 3, 4, 5)])
def test_shapes(backend: str, shape: tuple[int, ...]) -> None:
    assert ag.KeyedNoise(0).gumbel(shape).shape == shape
    assert ag.gumbel(shape).shape == shape
    assert ag.gumbel(torch.Size(shape)).shape == shape
    assert logistic(list(shape)).shape == shape


def test_a_scalar_is_item_zero_of_row_zero(backend: str) -> None:
    assert ag.KeyedNoise(5).gumbel(()).item() == ag.KeyedNoise(5).gumbel((2, 3))[0, 0].item()


def test_dtype_and_device(backend: str) -> None:
    assert ag.gumbel((2,)).dtype == torch.float32
    for dtype in DTYPES:
        assert ag.gumbel((2,), dtype=dtype).dtype == dtype
        assert ag.KeyedNoise(0).logistic((2,), dtype=dtype, device="cpu").dtype == dtype
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert ag.gumbel((2,)).dtype == torch.float64
        assert ag.KeyedNoise(0).uniform((2,)).dtype == torch.float64
    finally:
        torch.set_default_dtype(previous)
    assert ag.gumbel((2, 3), device="meta").shape == (2, 3)


# --- independence ------------------------------------------------------------------------------------------------


def pair_of(which: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two arrays of noise under keys that are neighbours in some way."""
    noise, rows, items = ag.KeyedNoise(11), torch.arange(n), torch.arange(n)
    if which == "seeds":
        return noise.gumbel((n, n)), ag.KeyedNoise(12).gumbel((n, n))
    if which == "seeds, one high bit apart":
        return noise.gumbel((n, n)), ag.KeyedNoise(11 + (1 << 63)).gumbel((n, n))
    if which == "row and item swapped":
        square = noise.gumbel((n, n))
        above = torch.triu_indices(n, n, 1)
        return square[above[0], above[1]], square[above[1], above[0]]
    whole = noise.gumbel((n + 4, n + 4))
    first = whole[:n, :n]
    if which == "rows":
        return first, whole[1 : n + 1, :n]
    if which == "items":
        return first, whole[:n, 1 : n + 1]
    if which == "blocks of items":
        return first, whole[:n, 4 : n + 4]
    if which == "high bits of rows":
        return first, ag.KeyedNoise(11, rows=rows + (1 << 32)).gumbel((n, n))
    assert which == "high bits of items"
    return first, ag.KeyedNoise(11, items=items + (1 << 34)).gumbel((n, n))


NEIGHBOURS = [
    "rows",
    "items",
    "blocks of items",
    "seeds",
    "seeds, one high bit apart",
    "row and item swapped",
    "high bits of rows",
    "high bits of items",
]


@pytest.mark.parametrize("which", NEIGHBOURS)
def test_neighbouring_keys_are_independent(backend: str, which: str) -> None:
    """No correlation, and no structure on a ten by ten grid of quantiles."""
    a, b = (x.double().flatten().numpy() for x in pair_of(which, 300))
    check_mean((a - oracles.EULER) * (b - oracles.EULER), 0, KAPPA[2] ** 2)
    bins = [quantile_bins(x, oracles.gumbel_cdf, 10) for x in (a, b)]
    check_independent(*bins, np.full(10, 0.1), np.full(10, 0.1))


def test_rows_do_not_share_noise(backend: str) -> None:
    g = ag.gumbel((64, 2000))
    correlation = np.corrcoef(g.double().numpy())
    off = correlation[np.triu_indices(64, 1)]
    assert abs(off).max() < scipy.stats.norm.isf(1e-6 / 2 / off.size) / math.sqrt(2000)
    assert g.unique().numel() > 0.99 * g.numel()


# --- noise and generator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [ag.gumbel, logistic])
def test_a_generator_is_reproducible_and_advances_by_one_seed(backend: str, draw) -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = draw((3, 4), generator=generator), draw((30, 40), generator=generator)
    after = generator.get_state()
    generator.manual_seed(5)
    assert torch.equal(draw((3, 4), generator=generator), first)
    assert torch.equal(draw((30, 40), generator=generator), second)
    assert not torch.equal(second[:3, :4], first)
    generator.manual_seed(5)
    for _ in range(2):
        torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=generator)
    assert torch.equal(generator.get_state(), after)


def test_the_global_generator_is_the_default(backend: str) -> None:
    torch.manual_seed(3)
    first, second = ag.gumbel((5,)), ag.gumbel((5,))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(ag.gumbel((5,)), first)
    state = torch.get_rng_state()
    ag.gumbel((5,), generator=torch.Generator())
    ag.KeyedNoise(0).gumbel((5,))
    assert torch.equal(torch.get_rng_state(), state)


def test_from_generator_is_what_functions_draw(backend: str) -> None:
    noise = ag.KeyedNoise.from_generator(torch.Generator().manual_seed(1))
    drawn = ag.gumbel((4, 5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(noise.gumbel((4, 5)), drawn)


def test_seeds_from_a_generator_fill_64_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    seeds = [int(ag.KeyedNoise.from_generator(generator).seed) % (1 << 64) for _ in range(200)]
    assert len(set(seeds)) == 200
    for bit in range(64):
        check_frequency(sum(seed >> bit & 1 for seed in seeds), 200, 0.5)


# --- transforms --------------------------------------------------------------------------------------------------


def test_vmap_over_seeds() -> None:
    many = torch.tensor([3, 4, -5])
    mapped = torch.vmap(lambda seed: ag.KeyedNoise(seed).gumbel((2, 6)))(many)
    assert torch.equal(mapped, torch.stack([ag.KeyedNoise(seed).gumbel((2, 6)) for seed in many]))


def test_vmap_draws_differ() -> None:
    mapped = torch.vmap(lambda x: x + ag.gumbel((50,)), randomness="different")(torch.zeros(4, 1))
    assert mapped.flatten().unique().numel() == 200
    same = torch.vmap(lambda x: x + ag.gumbel((50,)), randomness="same")(torch.zeros(4, 1))
    assert torch.equal(same[0], same[3])


@pytest.mark.parametrize(
    ("backend", "law"),
    [*(("native", law) for law in LAWS), ("reference", "gumbel"), ("reference", "logistic")],
    indirect=["backend"],
)
def test_compiled_noise_is_eager_noise(backend: str, law: str) -> None:
    torch._dynamo.reset()
    draw = lambda seed: getattr(ag.KeyedNoise(seed), law)((3, 10))  # noqa: E731
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for seed in (1, -2):
        assert torch.equal(compiled(torch.tensor(seed)), draw(torch.tensor(seed)))


def test_compiled_gumbel_differs_from_call_to_call() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda: ag.gumbel((2, 5)), fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(), compiled())


def test_noise_does_not_change_under_autocast(backend: str) -> None:
    outside = ag.KeyedNoise(0).gumbel((3, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ag.KeyedNoise(0).gumbel((3, 40)), outside)


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ag.KeyedNoise(1.5), TypeError, r"seed must be an integer, but it is a float"),
        (lambda: ag.KeyedNoise(True), TypeError, r"seed must be an integer, but it is a bool"),
        (lambda: ag.KeyedNoise(1 << 64), ValueError, r"seed must fit 64 bits, but it is 18446744073709551616"),
        (lambda: ag.KeyedNoise(-(1 << 63) - 1), ValueError, r"seed must fit 64 bits"),
        (
            lambda: ag.KeyedNoise([1, 2]).gumbel((3, 4)),
            ValueError,
            r"seed must give one seed per row.* \(3,\).*is \(2,\)",
        ),
        (lambda: ag.KeyedNoise([1.5]), TypeError, r"seed must be a tensor of integers"),
        (lambda: ag.KeyedNoise([1 << 63]), ValueError, r"seed must be integers of 64 bits with a sign"),
        (lambda: ag.KeyedNoise(torch.tensor(1.0)), TypeError, r"seed must .* torch.float32"),
        (
            lambda: ag.KeyedNoise(0, rows=torch.zeros(2)),
            TypeError,
            r"rows must be a tensor of integers.*float32",
        ),
        (lambda: ag.KeyedNoise(0, rows=[1.5]), TypeError, r"rows must be a tensor of integers"),
        (lambda: ag.KeyedNoise(0, items=[True]), TypeError, r"items must be a tensor of integers"),
        (
            lambda: ag.KeyedNoise(0, items=torch.ones(2).bool()),
            TypeError,
            r"items must be a tensor of integers.*bool",
        ),
        (lambda: ag.KeyedNoise(0, rows=[1, 2]).gumbel((3, 4)), ValueError, r"rows must .* \(3,\).*is \(2,\)"),
        (lambda: ag.KeyedNoise(0, items=[1, 2]).gumbel((3, 4)), ValueError, r"items must .* \(4,\).*is \(2,\)"),
        (lambda: ag.KeyedNoise(0, items=[[1, 2]]).gumbel((2,)), ValueError, r"items must .* \(2,\)"),
        (lambda: ag.KeyedNoise(0).gumbel((3,), dtype=torch.int64), TypeError, r"dtype must be a floating .*int64"),
        (lambda: ag.gumbel((3,), dtype=torch.complex64), TypeError, r"dtype must be a floating .*complex64"),
        (lambda: logistic((3,), dtype=torch.bool), TypeError, r"dtype must be a floating .*bool"),
        (
            lambda: ag.gumbel((3,), generator=torch.Generator(), device="meta"),
            ValueError,
            r"generator must live .* on meta, but it is on cpu",
        ),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
