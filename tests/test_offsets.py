"""A common offset of the logits does not change the law: not where float32 would round the noise away beside it, and
not at a dtype's lowest finite number. The law asked for is that of the logits as their dtype holds them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import coupling, kernels, lazy, relax, reverse, subsets
from argumbel.kernels import race

from . import oracles
from .statistics import check_counts, check_draws

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
#: None: all logits are the dtype's lowest finite number.
OFFSETS = {
    torch.float32: (1e6, 1.6e7, -1e6, None),
    torch.bfloat16: (1e6, -300.0, None),
    torch.float64: (1e6, 2e15, None),
}
CASES = [(dtype, offset) for dtype in DTYPES for offset in OFFSETS[dtype]]
DRAWS = 100_000


def at(offset: float | None, dtype: torch.dtype, weights: tuple[float, ...] = (0.5, 0.3, 0.2)) -> Tensor:
    """Logits of one row at an offset; in bfloat16, where they would all be equal, several steps apart at -300."""
    if offset is None:
        return torch.full((len(weights),), torch.finfo(dtype).min, dtype=dtype)
    logits = torch.tensor(weights, dtype=torch.float64).log()
    return ((2 * logits if offset == -300 else logits) + offset).to(dtype)


def many(x: Tensor, rows: int = DRAWS) -> Tensor:
    return x.expand(rows, *x.shape).contiguous()


KEY = ag.KeyedNoise(11)
WINNERS: dict[str, Callable[[Tensor], Tensor]] = {
    "gumbel_max": lambda x: ag.gumbel_max(x, noise=KEY).indices,
    "gumbel_max of a tensor": lambda x: ag.gumbel_max(x, noise=KEY.gumbel(x.shape)).indices,
    "gumbel_topk": lambda x: ag.gumbel_topk(x, 1, noise=KEY).indices[..., 0],
    "gumbel_softmax": lambda x: ag.gumbel_softmax(x.float(), noise=KEY).argmax(-1),
    "gumbel_softmax of a tensor": lambda x: ag.gumbel_softmax(x, noise=KEY.gumbel(x.shape)).float().argmax(-1),
    "gumbel_softmax hard": lambda x: ag.gumbel_softmax(x, hard=True, noise=KEY).argmax(-1),
    "log_gumbel_softmax": lambda x: relax.log_gumbel_softmax(x, noise=KEY).float().argmax(-1),
    "relaxed_topk": lambda x: ag.relaxed_topk(x, 1, 0, noise=KEY).argmax(-1),
    "categorical": lambda x: ag.categorical(x, generator=torch.Generator().manual_seed(3)),
    "sample_without_replacement": lambda x: ag.sample_without_replacement(
        x, 1, generator=torch.Generator().manual_seed(3)
    ).indices[..., 0],
    **{
        f"straight_through {method}": lambda x, m=method: ag.straight_through(x, method=m, noise=KEY).argmax(-1)
        for method in relax.STRAIGHT_THROUGH
    },
}
#: Relaxed samples in bfloat16 tie, and float64 is cast to float32 for this one.
SKIPPED = {("gumbel_softmax", torch.float64), ("gumbel_softmax of a tensor", torch.bfloat16),
           ("log_gumbel_softmax", torch.bfloat16)}  # fmt: skip


@pytest.mark.parametrize(("dtype", "offset"), CASES)
@pytest.mark.parametrize("name", WINNERS)
def test_winners(backend: str, name: str, dtype: torch.dtype, offset: float | None) -> None:
    if (name, dtype) in SKIPPED:
        pytest.skip("its argmax ties in this dtype")
    x = at(offset, dtype)
    check_draws(WINNERS[name](many(x)), oracles.softmax(x))


@pytest.mark.parametrize(("dtype", "offset"), CASES)
@pytest.mark.parametrize("law", [False, True])
def test_the_first_two(backend: str, law: bool, dtype: torch.dtype, offset: float | None) -> None:
    x = at(offset, dtype, (0.4, 0.3, 0.2, 0.1))
    if law:
        indices = ag.sample_without_replacement(many(x), 2, generator=torch.Generator().manual_seed(5)).indices
    else:
        indices = ag.gumbel_topk(many(x), 2, noise=KEY).indices
        assert torch.equal(indices[:, 0], ag.gumbel_max(many(x), noise=KEY).indices)
    expected = oracles.plackett_luce(x, 2)
    found = torch.bincount(indices[:, 0] * 4 + indices[:, 1], minlength=16)
    check_counts([found[i * 4 + j] for i, j in expected], list(expected.values()))


@pytest.mark.parametrize("offset", [1e6, 1.6e7, None])
def test_the_first_two_of_many(backend: str, offset: float | None) -> None:
    """Where k is a small part of the items, sample_without_replacement has an algorithm of its own."""
    x = at(offset, torch.float32, tuple([0.3, 0.2, 0.1] + [0.4 / 1021] * 1021))
    indices = ag.sample_without_replacement(many(x, 20_000), 2, generator=torch.Generator().manual_seed(5)).indices
    p = torch.softmax(x.double(), -1)
    check_draws(indices[:, 0].clamp(max=3), [*p[:3], p[3:].sum()])
    first = indices[:, 0] == 0
    rest = p[1:] / p[1:].sum()
    check_draws(indices[first, 1].clamp(max=3) - 1, [*rest[:2], rest[2:].sum()])


def test_a_far_pair_behind_the_winner(backend: str) -> None:
    """The first may be near 0 and the second far from it: ties of the second are settled too."""
    x = torch.tensor([0.0, -1e6, -1e6, -1e6])
    indices = ag.gumbel_topk(many(x), 2, noise=KEY).indices
    assert bool((indices[:, 0] == 0).all())
    check_draws(indices[:, 1] - 1, [1 / 3] * 3)
    soft = ag.relaxed_topk(many(x, 1000), 2, 0, noise=ag.KeyedNoise(11))
    assert torch.equal(soft.topk(2).indices.sort().values, indices[:1000].sort().values)


# --- one order on all backends -----------------------------------------------------------------------------------

SHAPES = [*((rows, n) for rows in (1, 3, 64) for n in (1, 3, 10, 48, 49, 100, 512, 513, 5000)), (1, 200_000)]


def far_logits(rows: int, n: int, offset: float | None, dtype: torch.dtype) -> Tensor:
    if offset is None:
        return torch.full((rows, n), torch.finfo(dtype).min, dtype=dtype)
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    x = x + offset
    x[::3] -= offset  # some rows are ordinary
    return x.to(dtype)


def exact_order(x: Tensor, g: Tensor, k: int) -> list[list[int]]:
    """The first k of each row by exact arithmetic, on Python's fractions; rows far from 0 only."""
    from fractions import Fraction

    order = []
    for row, noise in zip(x.double().tolist(), g.double().tolist(), strict=True):
        sums = [Fraction(a) + Fraction(b) for a, b in zip(row, noise, strict=True)]
        order.append(sorted(range(len(sums)), key=lambda i: (-sums[i], i))[:k])
    return order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [1e6, 1.6e7, -1e6, -300.0, None])
@pytest.mark.parametrize("path", [*(kernels.cpu.library.paths() if kernels.cpu.library else [])])
def test_kernels_are_the_reference(path: str, offset: float | None, dtype: torch.dtype, threads: int) -> None:
    if dtype == torch.float16 and offset is not None:
        offset = max(-6e4, min(offset, 6e4))
    for rows, n in SHAPES:
        x, k = far_logits(rows, n, offset, dtype), min(n, 5)
        grad = torch.randn(rows, n, generator=torch.Generator().manual_seed(1)).to(dtype)

        def run(x: Tensor = x, k: int = k, n: int = n, grad: Tensor = grad) -> list[Tensor]:
            leaf = x.clone().requires_grad_()
            y = ag.gumbel_softmax(leaf, 0.7, noise=KEY)
            hard = ag.gumbel_softmax(leaf, 0.7, True, noise=KEY)
            return [
                *ag.gumbel_max(x, noise=KEY),
                *ag.gumbel_topk(x, k, noise=KEY),
                ag.gumbel_topk(x[1:3], n, noise=KEY).indices if n < 1000 else x,  # of rows far from 0
                hard.detach(),
                y.detach(),
                torch.autograd.grad((y * grad).sum(), leaf)[0],
                torch.autograd.grad((hard * grad).sum(), leaf)[0],
            ]

        with kernels.use(path):
            found = run()
        with kernels.use("reference"):
            expected = run()
        for a, b in zip(found[:6], expected[:6], strict=True):
            assert torch.equal(a, b), (rows, n)
        tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        for a, b in zip(found[6:], expected[6:], strict=True):
            torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("offset", [1e6, -1.6e7, -300.0, None])
def test_exact_sums_decide(backend: str, offset: float | None) -> None:
    for n in (3, 60, 700):
        x = far_logits(4, n, offset, torch.float32)
        far = slice(None) if offset is None else [1, 2]
        expected = exact_order(x[far], KEY.gumbel(x.shape)[far], 5)
        k = min(n, 5)
        assert ag.gumbel_topk(x, k, noise=KEY).indices[far].tolist() == expected
        assert ag.gumbel_max(x, noise=KEY).indices[far].tolist() == [row[0] for row in expected]


@pytest.mark.parametrize("offset", [1e6, -300.0, None])
@pytest.mark.parametrize("name", ["gumbel_max", "gumbel_topk", "gumbel_softmax", "hard", "backward"])
def test_parts_are_parts_of_the_whole(backend: str, name: str, offset: float | None) -> None:
    """Whichever way a row goes, to the bit."""

    def draw(x: Tensor, key: ag.KeyedNoise) -> Tensor:
        if name == "gumbel_max":
            return torch.stack([part.double() for part in ag.gumbel_max(x, noise=key)], -1)
        if name == "gumbel_topk":
            return torch.cat([part.double() for part in ag.gumbel_topk(x, 2, noise=key)], -1)
        if name != "backward":
            return ag.gumbel_softmax(x, 0.7, name == "hard", noise=key)
        leaf = x.clone().requires_grad_()
        y = ag.gumbel_softmax(leaf, 0.7, True, noise=key)
        return torch.autograd.grad((y * torch.arange(x.shape[-1])).sum(), leaf)[0]

    rows = torch.tensor([5, 1, 25, 7])
    for n in (3, 10, 48, 60, 512, 700):
        x = far_logits(30, n, offset, torch.float32)
        whole = draw(x, ag.KeyedNoise(1))
        part = draw(x[rows], ag.KeyedNoise(1, rows=rows))
        if name == "backward" and 4 * n <= 512:  # PyTorch's own nodes: equal up to rounding
            torch.testing.assert_close(whole[rows], part, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(whole[rows], part), n


def test_relaxed_samples_are_those_of_exact_sums(backend: str) -> None:
    x = far_logits(5, 40, 1e6, torch.float32)
    exact = torch.softmax((x.double() + KEY.gumbel(x.shape).double()) / 0.5, -1)
    leaf = x.clone().requires_grad_()
    for y in (
        ag.gumbel_softmax(x, 0.5, noise=KEY),
        ag.gumbel_softmax(leaf, 0.5, noise=KEY),
        ag.gumbel_softmax(x, 0.5, noise=KEY.gumbel(x.shape)),
        relax.log_gumbel_softmax(x, 0.5, noise=KEY).exp(),
    ):
        torch.testing.assert_close(y.detach().double(), exact, rtol=2e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace warns that it is old, and of every branch
def test_transforms_settle_too() -> None:
    """Where values may not be looked at, every row is settled."""
    x = far_logits(6, 12, 1e6, torch.float32)
    g = KEY.gumbel(x.shape)
    best = ag.gumbel_max(x, noise=g)
    three = ag.gumbel_topk(x, 3, noise=g)
    soft = ag.gumbel_softmax(x, noise=g)
    assert torch.equal(torch.func.vmap(lambda a, b: ag.gumbel_max(a, noise=b).indices)(x, g), best.indices)
    assert torch.equal(torch.func.vmap(lambda a, b: ag.gumbel_topk(a, 3, noise=b).indices)(x, g), three.indices)
    torch.testing.assert_close(torch.func.vmap(lambda a, b: ag.gumbel_softmax(a, noise=b))(x, g), soft)
    compiled = torch.compile(lambda a, b: ag.gumbel_topk(a, 3, noise=b), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, g).indices, three.indices)
    traced = torch.jit.trace(lambda a, b: ag.gumbel_max(a, noise=b).indices, (torch.zeros(6, 12), g), check_trace=False)
    assert torch.equal(traced(x, g), best.indices)


def test_what_rounding_takes_off() -> None:
    x, g = torch.tensor([1e6, -1e6, 255.0, 3e38, -torch.inf]), torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3])
    rest = race.rest_of(x, g, x + g)
    exact = torch.where(x == -torch.inf, 0, (x.double() + g.double()) - (x + g).double())
    assert rest[:2].tolist() == exact[:2].tolist()
    assert rest[2:].tolist() == [0, float(g[0]), 0]


# --- logits that are never written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e6, 1.6e7, -1e6, None])
@pytest.mark.parametrize("size", [2, 1024])
def test_linear(backend: str, size: int, offset: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two items, which are merged, and one chunk."""
    monkeypatch.setattr("argumbel.kernels.linear.CHUNK_ITEMS", size)
    monkeypatch.setattr("argumbel.kernels.linear.CHUNK_LOGITS", size)
    x = at(offset, torch.float32, (0.4, 0.3, 0.1, 0.1, 0.1))
    layer = {"hidden": torch.zeros(DRAWS, 1), "weight": torch.zeros(5, 1), "bias": x}
    best = ag.gumbel_max(many(x), noise=KEY)
    for noise in (KEY, KEY.gumbel((DRAWS, 5))):
        ours = ag.linear_gumbel_max(**layer, noise=noise)
        assert torch.equal(ours.indices, best.indices)
        assert torch.equal(ours.values, best.values)
    ids = ag.KeyedNoise(11, items=torch.arange(5) * 3 + 7)
    assert torch.equal(ag.linear_gumbel_max(**layer, noise=ids).indices, ag.gumbel_max(many(x), noise=ids).indices)
    drawn = ag.linear_categorical(**layer, generator=torch.Generator().manual_seed(4))
    check_draws(drawn, oracles.softmax(x))


# --- densities and scores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e6, 1.6e7, -1e6])
def test_densities(offset: float) -> None:
    """Those of the logits as float32 holds them, by float64."""
    x = torch.tensor([0.5, 0.3, 0.2]).log() + offset
    y = torch.tensor([0.2, 0.3, 0.5])
    agd = ag.distributions
    for make, value in (
        (lambda x: agd.RelaxedOneHotCategorical(torch.tensor(0.5), logits=x), y),
        (lambda x: agd.ExpRelaxedCategorical(torch.tensor(0.5), logits=x), y.log()),
        (lambda x: agd.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=x), torch.eye(3)[1]),
        (lambda x: agd.PlackettLuce(x, 2), torch.tensor([2, 0])),
    ):
        near = x.double() - offset
        torch.testing.assert_close(make(x).log_prob(value), make(near.float()).log_prob(value))


@pytest.mark.parametrize("offset", [1e6, 1.6e7, -1e6])
@pytest.mark.parametrize("name", ["reinforce", "reinforce_loo", "rebar"])
def test_estimators(name: str, offset: float) -> None:
    x = torch.tensor([0.5, 0.3, 0.2]).log() + offset
    near = (x.double() - offset).float()
    weight = torch.tensor([0.0, 0.0, 1.0])
    grads = []
    for logits in x, near:
        leaf = logits.clone().requires_grad_()
        estimate = getattr(ag.estimators, name)(lambda z: z @ weight, leaf, num_samples=2000, noise=KEY)
        estimate.backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


# --- what is known of a race, couplings, subsets ------------------------------------------------------------------


def pair(offset: float, n: int = 6, rows: int = 400) -> tuple[Tensor, Tensor]:
    """float32 logits far from 0, and the same near 0, exactly."""
    x = (torch.randn(rows, n, generator=torch.Generator().manual_seed(2)) + offset).float()
    return x, (x.double() - offset).float()


TREE = (6, 6, 7, 7, 8, 8, 9, 9, 9, -1)
KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "posterior_gumbel": lambda x: ag.posterior_gumbel(x, x.argmax(-1), noise=KEY),
    "posterior_gumbel of a tensor": lambda x: ag.posterior_gumbel(x, x.argmin(-1), noise=KEY.gumbel(x.shape)),
    "posterior_gumbel_topk": lambda x: ag.posterior_gumbel_topk(x, x.argsort(stable=True)[:, :3], noise=KEY),
    "posterior_gumbel_subset": lambda x: reverse.posterior_gumbel_subset(x, x.argsort(stable=True)[:, :3], noise=KEY),
    "top_down": lambda x: reverse.top_down(x, noise=KEY),
    "top_down of a tree": lambda x: reverse.top_down(x, TREE, noise=KEY),
    "inverse_cdf_gumbel": lambda x: (
        reverse.inverse_cdf_gumbel(x, torch.linspace(0.01, 0.99, len(x)).double(), noise=KEY).values
    ),
}


@pytest.mark.parametrize(("offset", "ulp"), [(1.5 * 2**20, 2**-3), (1.5 * 2**23, 1.0), (-1.5 * 2**20, 2**-3)])
@pytest.mark.parametrize("name", KNOWN)
def test_known_races(backend: str, name: str, offset: float, ulp: float) -> None:
    """The values are those near 0, moved and rounded once; the losers' by a few ulps, for they are kept in order."""
    x, near = pair(offset)
    moved, expected = KNOWN[name](x).double() - offset, KNOWN[name](near).double()
    if name != "posterior_gumbel_subset":  # whose least member may have had to be lifted
        torch.testing.assert_close(moved.amax(-1), expected.amax(-1), rtol=0, atol=0.501 * ulp)
    torch.testing.assert_close(moved, expected, rtol=0, atol=4 * ulp)


@pytest.mark.parametrize("offset", [2.0**20, 2.0**24, None])
def test_top_down_has_one_winner(backend: str, offset: float | None) -> None:
    x = at(offset, torch.float32, (0.4, 0.3, 0.2, 0.1))
    values = reverse.top_down(many(x), (4, 4, 5, 5, 6, 6, -1), noise=KEY)
    won = values[:, :4] == values[:, 6:]
    assert bool((won.sum(-1) == 1).all())
    check_draws(won.int().argmax(-1), oracles.softmax(x))


SAME: dict[str, Callable[[Tensor, Tensor], object]] = {
    "counterfactual": lambda x, y: ag.counterfactual(x, x.argmax(-1), y, 50, noise=KEY),
    "counterfactual_probs": lambda x, y: coupling.counterfactual_probs(x, x.argmax(-1), y),
    "maximal_coupling": lambda x, y: coupling.maximal_coupling(x, y, noise=KEY),
    "agreement_prob": coupling.agreement_prob,
    "posterior_noise": lambda x, y: reverse.posterior_noise(x, x.argmax(-1), noise=KEY),
    "topk_log_prob": lambda x, y: subsets.topk_log_prob(x, torch.tensor([0, 2]).expand(len(x), 2)),
    "topk_log_prob of a set": lambda x, y: subsets.topk_log_prob(
        x, torch.tensor([0, 2]).expand(len(x), 2), ordered=False
    ),
    "inclusion_probs": lambda x, y: subsets.inclusion_probs(x, 2),
    "priority_sample": lambda x, y: subsets.priority_sample(x, 2, noise=KEY).indices,
    "entropy": lambda x, y: ag.distributions.RelaxedOneHotCategorical(torch.tensor(0.5), logits=x).entropy(
        20, generator=torch.Generator().manual_seed(0)
    ),
    "mode": lambda x, y: ag.distributions.ExpRelaxedCategorical(torch.tensor(0.5), logits=x).mode,
    "kl": lambda x, y: torch.distributions.kl_divergence(
        *(ag.distributions.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=v) for v in (x, y))
    ),
}


@pytest.mark.parametrize("offset", [1e6, 1.6e7, -1e6])
@pytest.mark.parametrize("name", SAME)
def test_what_an_offset_does_not_change(backend: str, name: str, offset: float) -> None:
    x, near = pair(offset)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    both = [SAME[name](logits, second) for logits, second in ((x, other), (near, other), (near, other + 0))]
    far, expected = ([r] if isinstance(r, Tensor) else list(r) for r in both[:2])
    for a, b in zip(far, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_lowest_finite_logits_are_equal() -> None:
    x = torch.full((4,), torch.finfo(torch.float32).min)
    torch.testing.assert_close(subsets.inclusion_probs(x, 2), torch.full((4,), 0.5))
    torch.testing.assert_close(subsets.topk_log_prob(x, torch.tensor([3, 1])), torch.tensor(1 / 12).log())
    torch.testing.assert_close(coupling.agreement_prob(x, torch.zeros(4)), torch.tensor(1.0))
    d = ag.distributions.RelaxedOneHotCategorical(torch.tensor(0.5), logits=x)
    torch.testing.assert_close(d.probs, torch.full((4,), 0.25))
    torch.testing.assert_close(d.logits, torch.full((4,), 0.25).log())


@pytest.mark.parametrize("offset", [1e6, 1.6e7, None])
def test_lazy_draws(offset: float | None) -> None:
    x = at(offset, torch.float32, (0.3, 0.2, 0.2, 0.1, 0.1, 0.1))
    draw = lazy.lazy_categorical(
        x[:2], torch.arange(2), 6, lambda ids: x[ids], (20_000,), bound=float(x[1]), generator=torch.Generator()
    )
    check_draws(draw.indices, oracles.softmax(x))
