"""The race of a linear layer by Triton: the winner of the logits, which are never written down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import argumbel as ag

from .on_triton import DEVICE, HAS_GPU, MARKS, exactly, head, here, there
from .statistics import check_draws
from .test_kernels import SINGLE

pytest.importorskip("triton", minversion="3.6")

from argumbel.kernels.law import LAW_RACES
from argumbel.kernels.triton import linear

pytestmark = MARKS


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
    count = 4000 if HAS_GPU else 200
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
