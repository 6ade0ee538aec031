"""What bad layers get: an error, or a mark where none can be raised."""

from __future__ import annotations

import math

import pytest
import torch

import argumbel as ag

from .heads import DRAW, generator

H, W, B = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(5)
NAN, INF = torch.full((2, 3), torch.nan), torch.full((5,), torch.inf)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize(
    ("own", "error", "match"),
    [
        ({"hidden": [[1.0]]}, TypeError, "hidden must be a floating tensor, but it is a list"),
        ({"hidden": H.long()}, TypeError, "hidden must be a floating tensor, but it is torch.int64"),
        ({"weight": W.long()}, TypeError, "weight must be a floating tensor"),
        ({"bias": B.long()}, TypeError, "bias must be a floating tensor"),
        ({"hidden": torch.tensor(1.0)}, ValueError, "hidden must have at least one dimension"),
        ({"weight": W.T}, ValueError, "weight must have a row for each item.*features.*its shape is"),
        ({"weight": W[0]}, ValueError, "weight must have a row"),
        ({"weight": W[:0]}, ValueError, "weight must have a row for each item, at least one"),
        ({"weight": W.double()}, TypeError, "weight must have the dtype of hidden, torch.float32"),
        ({"weight": W.to("meta")}, ValueError, "weight must be on the device of hidden, cpu, but it is on meta"),
        ({"bias": B[:4]}, ValueError, r"bias must have a number for each item, the shape \(5,\)"),
        ({"bias": B[:, None]}, ValueError, "bias must have a number"),
        ({"temperature": "1"}, TypeError, "temperature must be a number or a tensor"),
        ({"temperature": -1}, ValueError, "temperature must be at least 0 and finite, but it is -1"),
        ({"temperature": math.nan}, ValueError, "temperature must be at least 0"),
        ({"temperature": math.inf}, ValueError, "temperature must be at least 0 and finite"),
        (
            {"temperature": torch.tensor([1.0, -1.0])},
            ValueError,
            "temperature must be at least 0 and finite everywhere",
        ),
        ({"temperature": torch.tensor([1.0, math.nan])}, ValueError, "everywhere"),
        ({"temperature": torch.tensor([1.0, math.inf])}, ValueError, "everywhere"),
        ({"temperature": torch.ones(5)}, ValueError, r"temperature must be one number, or a tensor.*\(2,\)"),
        ({"temperature": torch.ones(2, 1)}, ValueError, "temperature must be one number, or a tensor with a number"),
        ({"hidden": NAN}, ValueError, "hidden must be finite"),
        ({"weight": NAN[:1].expand(5, 3)}, ValueError, "weight must be finite"),
        ({"bias": INF}, ValueError, r"bias must not be NaN or \+inf"),
        ({"bias": -INF}, ValueError, "bias must allow at least one item"),
        (
            {"hidden": H + 1e30, "weight": W + 1e30},
            ValueError,
            "logits.*must be finite in torch.float32, but some over",
        ),
        ({"noise": 3}, TypeError, "noise must be a tensor or an argumbel.KeyedNoise"),
        ({"noise": torch.zeros(5)}, ValueError, r"noise must have the shape \(2, 5\)"),
        ({"noise": torch.full((2, 5), torch.nan)}, ValueError, "noise must be finite"),
        ({"noise": ag.KeyedNoise(0), "generator": generator()}, ValueError, "both are given"),
        ({"noise": torch.zeros(2, 5), "generator": generator()}, ValueError, "both are given"),
        ({"noise": ag.KeyedNoise(0, items=range(4))}, ValueError, "items must give one id per item"),
        ({"noise": ag.KeyedNoise(0, rows=range(4))}, ValueError, "rows must give one id per row"),
    ],
)
def test_errors(
    backend: str, chunks_of_four: None, name: str, own: dict[str, object], error: type[Exception], match: str
) -> None:
    own = dict(own)
    hidden, weight = own.pop("hidden", H), own.pop("weight", W)
    with pytest.raises(error, match=match):
        DRAW[name](hidden, weight, **own)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_rows_are_marked_where_they_may_not_be_looked_at(
    backend: str, chunks_of_four: None, name: str, bad: float
) -> None:
    """In the middle of the vocabulary: the chunks after it must not hide it."""
    hidden, weight = torch.tensor([[0.0], [1.0]]), torch.zeros(12, 1)
    weight[5] = bad
    expected = [True, bad != -math.inf]  # 0 * inf is NaN, but -inf forbids an item
    draw = torch.vmap(lambda x, w, b: DRAW[name](x, w, bias=b), (0, None, None), randomness="different")
    assert (draw(hidden, weight, torch.zeros(12)) == -1).tolist() == expected
    assert (draw(hidden, torch.zeros(12, 1), torch.full((12,), -torch.inf)) == -1).all()
    values = torch.vmap(lambda x: ag.linear_gumbel_max(x, weight, noise=ag.KeyedNoise(0)).values)(hidden)
    assert values.isnan().tolist() == expected


@pytest.mark.parametrize("name", DRAW)
def test_bad_rows_are_marked_in_compiled_code(chunks_of_four: None, name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(DRAW[name], fullgraph=True, backend="aot_eager")
    hidden, weight, bias = torch.tensor([[0.0], [1.0]]), torch.zeros(9, 1), torch.zeros(9)
    assert (compiled(hidden, weight, bias=bias) >= 0).all()
    for bad, expected in ((math.nan, [True, True]), (math.inf, [True, True]), (-math.inf, [True, False])):
        weight[5] = bad
        assert (compiled(hidden, weight, bias=bias) == -1).tolist() == expected
    assert (compiled(hidden, torch.zeros(9, 1), bias=torch.full((9,), -torch.inf)) == -1).all()


def test_meta_tensors_have_shapes() -> None:
    hidden, weight = torch.zeros(2, 3, device="meta"), torch.zeros(9, 3, device="meta")
    assert ag.linear_gumbel_max(hidden, weight).values.shape == (2,)
    assert ag.linear_categorical(hidden, weight, temperature=torch.ones(2)).shape == (2,)
