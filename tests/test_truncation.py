"""A temperature and the limits top_k, top_p and min_p: which items are left, and draws among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels, sequences
from argumbel.kernels import cpu

from .statistics import check_draws

LIMITS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_k": 3},
    {"top_p": 0.9},
    {"min_p": 0.2},
    {"temperature": 1.5, "top_k": 6, "top_p": 0.8},
    {"temperature": 0.5, "top_p": 0.95, "min_p": 0.05},
    {"top_k": 4, "min_p": 0.3},
    {"temperature": 2, "top_k": 5, "top_p": 0.5, "min_p": 0.1},
]
LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.1, -torch.inf, 1.4, -0.5, 0.9])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def left(x: Tensor, temperature: float = 1, top_k: int | None = None, top_p: float = 1, min_p: float = 0) -> Tensor:
    """One limit after the other, as their definitions say, of logits that do not tie."""
    x = x.double() / temperature
    if top_k is not None:
        x = x.masked_fill(x < x.topk(min(top_k, x.shape[-1])).values[..., -1:], -torch.inf)
    if top_p < 1:
        falling, order = x.softmax(-1).sort(dim=-1, descending=True)
        gone = falling.cumsum(-1) - falling >= top_p
        x = x.masked_fill(gone.gather(-1, order.argsort(-1)), -torch.inf)
    p = x.softmax(-1)
    return (p >= min_p * p.amax(-1, keepdim=True)) & (p > 0)


def kept(x: Tensor, cut: Tensor, last: Tensor) -> Tensor:
    return kernels.tempered(x, torch.ones(1), cut, last) > -torch.inf


def cut_of(x: Tensor, temperature: float = 1, top_k: int | None = None, top_p: float = 1, min_p: float = 0) -> Tensor:
    limits = torch.tensor([top_k or x.shape[-1]]), *(torch.tensor([v], dtype=torch.float64) for v in (top_p, min_p))
    t = torch.tensor([temperature], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    cut, last, bad = kernels.truncation(x, t, *limits, ())
    assert not bad
    return kept(x, cut, last)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 65, 1000, 5000, 40_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("backend")
def test_what_is_left_is_what_the_definitions_leave(n: int, dtype: torch.dtype) -> None:
    for scale in (0.3, 1.0, 8.0):
        x = scale * torch.randn(3, n, generator=seeded(n), dtype=dtype)
        for limits in LIMITS:
            ours, exact = cut_of(x, **limits), left(x, **limits)
            if "top_p" in limits:  # float32 sums may move the end by one item
                assert ((ours != exact).sum(-1) <= 1).all()
            else:
                assert torch.equal(ours, exact)


CASES = {
    "ties": lambda x: (2 * x).round(),
    "all equal": lambda x: torch.full_like(x, 1.5),
    "peaked": lambda x: 20 * x,
    "forbidden": lambda x: x.masked_fill(x < 0.3, -torch.inf).index_fill(-1, torch.tensor([0]), 0.4),
    "one": lambda x: torch.full_like(x, -torch.inf).index_fill(-1, torch.tensor([x.shape[-1] - 1]), 3.0),
    "far": lambda x: x + 3e4,
    "lowest": lambda x: torch.full_like(x, torch.finfo(x.dtype).min),
}


@pytest.mark.skipif(cpu.library is None, reason="compares the compiled kernels with the reference")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernels_cut_where_the_reference_cuts(case: str, dtype: torch.dtype) -> None:
    for n in (1, 2, 65, 1100, 33_000):
        x = CASES[case](torch.randn(2, n, generator=seeded(n))).clamp(min=torch.finfo(dtype).min).to(dtype)
        x = torch.where(torch.arange(n) == 0, x.nan_to_num(neginf=0.0), x) if case == "forbidden" else x
        for limits in [
            *LIMITS,
            {"temperature": 1e-30, "top_p": 0.5},
            {"temperature": 0},
            {"top_p": 1e-9},
            {"min_p": 1},
        ]:
            ours = cut_of(x, **limits)
            with kernels.use("reference"):
                exact = cut_of(x, **limits)
            assert ((ours != exact).sum(-1) <= ("top_p" in limits)).all(), (n, limits)
            assert ours.any(-1).all()


@pytest.mark.usefixtures("backend")
def test_ties() -> None:
    """All that tie with the k-th are left, and of those at the end of top_p the first."""
    x = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0, 1.0])
    assert cut_of(x, top_k=3).all()
    assert cut_of(x, top_k=2).tolist() == [False, True, False, True, False, False]
    assert cut_of(torch.zeros(5), top_p=0.5).tolist() == [True, True, True, False, False]
    assert cut_of(x, top_p=0.85).tolist() == [True, True, True, True, False, False]
    assert cut_of(torch.zeros(5), min_p=1).all()
    assert cut_of(torch.zeros(5), temperature=0).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.usefixtures("backend")
def test_law(limits: dict[str, Any]) -> None:
    exact = (
        (LOGITS.double() / limits.get("temperature", 1)).masked_fill(~left(LOGITS, **limits), -torch.inf).softmax(-1)
    )
    check_draws(ag.categorical(LOGITS, (100_000,), generator=seeded(), **limits), exact)
    noise = ag.KeyedNoise(3)
    check_draws(ag.gumbel_max(LOGITS.expand(100_000, -1), noise=noise, **limits).indices, exact)


def test_law_where_little_is_left() -> None:
    """A thousandth of the weight: proposals from the whole row give up."""
    x = torch.randn(20_000, generator=seeded(1))
    exact = x.double().masked_fill(~left(x, top_k=20), -torch.inf).softmax(-1)
    order = exact.argsort(descending=True)[:20]
    place = torch.full((20_000,), -1).index_put((order,), torch.arange(20))
    check_draws(place[ag.categorical(x, (100_000,), top_k=20, generator=seeded())], exact[order])


@pytest.mark.parametrize("n", [8, 60, 600, 40_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("backend")
def test_the_keyed_draw_is_the_argmax_of_what_is_left(n: int, dtype: torch.dtype) -> None:
    x = (3 * torch.randn(70 if n < 100 else 2, n, generator=seeded())).to(dtype)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    for limits in LIMITS:
        noise = ag.KeyedNoise(5, rows=torch.arange(len(x)) * 3)
        scaled = (x.to(work) / limits.get("temperature", 1)).masked_fill(~cut_of(x, **limits), -torch.inf)
        ours, exact = ag.gumbel_max(x, noise=noise, **limits), ag.gumbel_max(scaled, noise=noise)
        assert torch.equal(ours.indices, exact.indices)
        torch.testing.assert_close(ours.values, exact.values.to(dtype))
        by_tensor = ag.gumbel_max(x, noise=noise.gumbel(x.shape, dtype=work), **limits)
        assert torch.equal(by_tensor.indices, exact.indices)


@pytest.mark.usefixtures("backend")
def test_limits_of_rows_dims_and_masks() -> None:
    x = torch.randn(4, 3, 9, generator=seeded())
    t, k = torch.tensor([0.0, 0.5, 1.0, 2.0])[:, None], torch.tensor([2, 9, 4])
    p, m = torch.tensor([[0.9], [0.5], [1.0], [0.7]]), torch.tensor([0.0, 0.2, 0.9])
    noise = ag.KeyedNoise(1)
    mask = torch.rand(4, 3, 9, generator=seeded()) < 0.7
    mask[..., 0] = True
    whole = ag.gumbel_max(x, temperature=t, top_k=k, top_p=p, min_p=m, mask=mask, noise=noise)
    other = ag.gumbel_max(
        x.movedim(-1, 0), temperature=t, top_k=k, top_p=p, min_p=m, mask=mask.movedim(-1, 0), dim=0, noise=noise
    )
    assert torch.equal(whole.indices, other.indices)
    for i in range(4):
        for j in range(3):
            one = {"temperature": t[i, 0].item(), "top_k": k[j].item(), "top_p": p[i, 0].item(), "min_p": m[j].item()}
            row = ag.KeyedNoise(1, rows=[3 * i + j])
            assert ag.gumbel_max(x[i, j], noise=row, mask=mask[i, j], **one).indices == whole.indices[i, j]
    draws = ag.categorical(x, (50,), temperature=t, top_k=k, top_p=p, min_p=m, mask=mask)
    assert (draws[:, 0] == x.masked_fill(~mask, -torch.inf)[0].argmax(-1)).all()
    assert mask.expand(50, 4, 3, 9).gather(-1, draws.unsqueeze(-1)).all()


@pytest.mark.usefixtures("backend")
def test_temperature_zero_is_the_argmax() -> None:
    x = torch.randn(5, 300, generator=seeded())
    for zero in (0, 1e-30, torch.tensor(0.0), torch.zeros(5)):
        found = ag.gumbel_max(x, temperature=zero)
        assert torch.equal(found.indices, x.argmax(-1))
        assert torch.equal(found.values, x.amax(-1))
        assert torch.equal(ag.categorical(x, (3,), temperature=zero), x.argmax(-1).expand(3, 5))
        best = ag.gumbel_topk(x, 4, temperature=zero)
        assert torch.equal(best.indices, x.topk(4).indices)
    mixed = ag.gumbel_topk(x, 4, temperature=torch.tensor([0, 1, 2, 0.5, 0]), noise=ag.KeyedNoise(2))
    assert torch.equal(mixed.indices[[0, 4]], x.topk(4).indices[[0, 4]])
    scaled = x / torch.tensor([1, 1, 2, 0.5, 1])[:, None]
    exact = ag.gumbel_topk(scaled, 4, noise=ag.KeyedNoise(2))
    assert torch.equal(mixed.indices[1:4], exact.indices[1:4])


@pytest.mark.usefixtures("backend")
def test_gradients() -> None:
    x = torch.randn(3, 10, generator=seeded(), dtype=torch.float32).requires_grad_()
    t = torch.tensor([0.5, 0.0, 2.0])
    values, indices = ag.gumbel_max(x, temperature=t, top_p=0.9, noise=ag.KeyedNoise(1))
    (grad,) = torch.autograd.grad(values.sum(), x)
    expected = torch.zeros(3, 10).scatter(-1, indices.unsqueeze(-1), torch.tensor([[2.0], [1.0], [0.5]]))
    torch.testing.assert_close(grad, expected)
    (grad,) = torch.autograd.grad(ag.gumbel_topk(x, 2, temperature=0.5, noise=ag.KeyedNoise(1)).values.sum(), x)
    torch.testing.assert_close(grad.sum(-1), torch.full((3,), 4.0))


@pytest.mark.parametrize("limits", [{"temperature": 0.7}, {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1}])
def test_modes(limits: dict[str, Any]) -> None:
    torch._dynamo.reset()
    x, noise = torch.randn(6, 50, generator=seeded()), ag.KeyedNoise(4)
    found = ag.gumbel_max(x, noise=noise, **limits)
    compiled = torch.compile(lambda x: ag.gumbel_max(x, noise=noise, **limits), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x).indices, found.indices)
    draw = torch.compile(lambda x: ag.categorical(x, (20,), **limits), fullgraph=True, backend="aot_eager")
    assert left(x, **limits).expand(20, 6, 50).gather(-1, draw(x).unsqueeze(-1)).all()
    tensors = {name: torch.full((6,), value) for name, value in limits.items()}
    rows = torch.arange(6)

    def one(x: Tensor, row: Tensor, limits: dict[str, Tensor]) -> Tensor:
        return ag.gumbel_max(x, noise=ag.KeyedNoise(4, rows=row[None]), **limits).indices

    assert torch.equal(torch.func.vmap(one)(x, rows, tensors), found.indices)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"temperature": -1}, ValueError, "temperature must be at least 0 and finite, but it is -1"),
        ({"temperature": "warm"}, TypeError, "temperature must be a number or a tensor, but it is a str"),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature must be one number.* \(2,\).* is \(3,\)"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, but it is 0; pass top_k=None"),
        ({"top_k": 1.5}, TypeError, "top_k must be an integer"),
        (
            {"top_k": torch.ones(2)},
            TypeError,
            "top_k must be an integer or a tensor of integers, but it is torch.float32",
        ),
        ({"top_p": 0}, ValueError, r"top_p must be above 0 and at most 1, but it is 0"),
        ({"top_p": torch.tensor([0.5, 1.5])}, ValueError, "top_p must be above 0 and at most 1 everywhere"),
        ({"top_p": True}, TypeError, "top_p must be a number or a tensor, but it is a bool"),
        ({"min_p": 2}, ValueError, r"min_p must be in \[0, 1\], but it is 2"),
        ({"min_p": torch.zeros(5)}, ValueError, r"min_p must be one number.* is \(5,\)"),
    ],
    ids=str,
)
def test_bad_limits(limits: dict[str, Any], error: type[Exception], message: str) -> None:
    for function in (ag.categorical, ag.gumbel_max):
        with pytest.raises(error, match=message):
            function(torch.zeros(2, 4), **limits)


@pytest.mark.usefixtures("backend")
def test_bad_logits() -> None:
    for worst in (torch.nan, torch.inf):
        x = torch.zeros(2, 5)
        x[1, 3] = worst
        for limits in ({"temperature": 0.5}, {"top_p": 0.5}, {"temperature": 0}):
            for function in (ag.categorical, ag.gumbel_max):
                with pytest.raises(ValueError, match=r"logits must not hold|logits must"):
                    function(x, **limits)
    with pytest.raises(ValueError, match="logits must allow"):
        ag.gumbel_max(torch.full((2, 3), -torch.inf), top_k=2)
    assert ag.categorical(torch.zeros(0, 4), top_p=0.5).shape == (0,)
    assert ag.gumbel_max(torch.zeros(0, 4), temperature=0.5).indices.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.usefixtures("backend")
def test_truncate(dtype: torch.dtype) -> None:
    x = torch.randn(4, 30, generator=seeded()).to(dtype)
    for limits in LIMITS:
        ours = ag.sequences.truncate(x, **limits)
        assert ours.dtype == dtype
        assert torch.equal(ours > -torch.inf, cut_of(x, **limits))
        work = x if dtype == torch.float64 else x.float()
        scaled = (work / limits.get("temperature", 1)).to(dtype)
        assert torch.equal(ours.masked_fill(ours == -torch.inf, 0), scaled.masked_fill(ours == -torch.inf, 0))
        assert torch.equal(ag.sequences.truncate(x.T, dim=0, **limits), ours.T)
    y = x.float().requires_grad_()
    (grad,) = torch.autograd.grad(ag.sequences.truncate(y, temperature=0.5, top_k=3).exp().sum(), y)
    assert ((grad != 0).sum(-1) == 3).all()
    assert torch.equal(ag.sequences.truncate(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "limits",
    [{"top_p": 0.7}, {"top_p": 0.02}, {"top_k": 40}, {"top_k": 3000, "min_p": 0.2}, {"top_k": 300, "top_p": 0.5}],
)
def test_few_draws_of_long_rows_with_ties(dtype: torch.dtype, limits: dict[str, Any]) -> None:
    """One draw of a row asks of single items whether they are left, many draws cut the row: the same law, also where
    the cut goes through items that tie."""
    x = (torch.randn(3000, generator=seeded(3)) * 2).round().mul(0.5).to(dtype)  # a dozen values
    probs = sequences.truncate(x.float(), **limits).double().softmax(-1)
    single = ag.categorical(x.expand(30_000, 3000), **limits, generator=seeded(4))
    many = ag.categorical(x, (30_000,), **limits, generator=seeded(4))
    values = x.float().unique()
    for draws in (single, many):
        assert bool((probs[draws] > 0).all())
        group = torch.bucketize(x.float()[draws], values)
        law = torch.stack([probs[x.float() == value].sum() for value in values])
        check_draws(group, law)
