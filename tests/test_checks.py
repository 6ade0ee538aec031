"""What bad input gets: an error that says what was expected and what came; a mark where none can be raised."""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.relax import log_gumbel_softmax

from .strategies import DTYPES

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "categorical": ag.categorical,
    "gumbel_max": ag.gumbel_max,
    "gumbel_topk": lambda x, k=2, **own: ag.gumbel_topk(x, k, **own),
    "sample_without_replacement": lambda x, k=2, **own: ag.sample_without_replacement(x, k, **own),
    "gumbel_softmax": ag.gumbel_softmax,
    "gumbel_softmax hard": lambda x, **own: ag.gumbel_softmax(x, hard=True, **own),
    "log_gumbel_softmax": log_gumbel_softmax,
    "gumbel_sigmoid": ag.gumbel_sigmoid,
    "relaxed_topk": lambda x, k=2, **own: ag.relaxed_topk(x, k, **own),
    "straight_through gumbel": ag.straight_through,
    "straight_through softmax": lambda x, **own: ag.straight_through(x, method="softmax", **own),
}
RACES = [name for name in FUNCTIONS if name != "gumbel_sigmoid"]
RELAXED = [
    name for name in FUNCTIONS if "soft" in name or "sigmoid" in name or name.startswith(("relaxed", "straight"))
]
FIRST_K = ["gumbel_topk", "sample_without_replacement", "relaxed_topk"]
NOISY = [name for name in FUNCTIONS if name not in ("categorical", "sample_without_replacement")]

NAN, INF = math.nan, math.inf


def raises(error: type[Exception], message: str) -> pytest.RaisesExc[Exception]:
    return pytest.raises(error, match=message)


# --- the dialect -------------------------------------------------------------------------------------------------

SOURCES = Path(ag.__file__).parent
TEXTS = ("ValueError", "TypeError", "RuntimeError", "ImportError", "FloatingPointError", "KeyError")


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of each error that a file raises or makes, with {} for what is filled in."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TEXTS:
            (text,) = node.args
            assert isinstance(text, (ast.Constant, ast.JoinedStr)), f"{file}:{node.lineno}: write the text out"
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)


@pytest.mark.parametrize("file", sorted(SOURCES.rglob("*.py")), ids=lambda f: f.relative_to(SOURCES).as_posix())
def test_errors_have_one_dialect(file: Path) -> None:
    """<name> must be <what>, but it is <what came>; <do this>"""
    for line, text in texts(file):
        assert re.fullmatch(r"\S.* must \S.*[^;], but .*; \S.*[^.]", text), f"{file}:{line}: {text}"


def test_no_text_of_an_error_stands_twice_in_a_package() -> None:
    for package in sorted({file.parent for file in SOURCES.rglob("*.py")} - {SOURCES}):
        found = [text for file in package.glob("*.py") for _, text in texts(file)]
        assert {text for text in found if found.count(text) > 1} == set()


# --- logits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 17, 63, 500])
def test_bad_rows(backend: str, name: str, dtype: torch.dtype, n: int) -> None:
    """One bad number anywhere in a batch of good rows is found."""
    for place in {0, 1, n // 2, n - 1}:
        x = torch.zeros(5, n, dtype=dtype)
        x[3, place] = NAN
        with raises(ValueError, r"logits .*must not be NaN, but some are"):
            FUNCTIONS[name](x)
        if name in RACES:
            x[3, place] = INF
            with raises(ValueError, r"logits must not be \+inf, but some are; .*forbid the others"):
                FUNCTIONS[name](x)
    if name in RACES:
        x = torch.zeros(5, n, dtype=dtype)
        x[4] = -INF
        with raises(ValueError, r"logits must allow at least one item in each row, but some row is -inf"):
            FUNCTIONS[name](x)


@pytest.mark.parametrize("name", RACES)
def test_bad_rows_along_another_dim(backend: str, name: str) -> None:
    x = torch.zeros(4, 3)
    x[:, 1] = -INF
    FUNCTIONS[name](x)
    with raises(ValueError, r"logits must allow at least one item in each row"):
        FUNCTIONS[name](x, dim=0)


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("tau", [0, 0.5, torch.tensor(0.5), torch.tensor([[0.5], [0.0], [1.0]])])
def test_bad_rows_at_any_temperature(backend: str, name: str, tau: float | Tensor) -> None:
    x = torch.zeros(3, 4)
    x[1, 2] = NAN
    with raises(ValueError, r"must not be NaN"):
        FUNCTIONS[name](x, tau=tau)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([0.0, 1.0], TypeError, r"logits must be a tensor, but it is a list"),
        (torch.tensor([0, 1]), TypeError, r"logits must have a floating dtype, but it is torch.int64; .*float\(\)"),
        (torch.tensor([True]), TypeError, r"logits must have a floating dtype, but it is torch.bool"),
        (torch.zeros(2, dtype=torch.complex64), TypeError, r"logits must have a floating dtype, .*complex64"),
    ],
)
def test_not_logits(name: str, x: Any, error: type[Exception], message: str) -> None:
    with raises(error, message):
        FUNCTIONS[name](x)


@pytest.mark.parametrize("name", RACES)
def test_dims(name: str) -> None:
    with raises(ValueError, r"logits must have at least one dimension"):
        FUNCTIONS[name](torch.tensor(0.0))
    for dim in (2, -3):
        with raises(ValueError, rf"dim must be in \[-2, 1\] for logits of shape \(3, 4\), but it is {dim}"):
            FUNCTIONS[name](torch.zeros(3, 4), dim=dim)
    for shape in ((3, 0), (0, 0), (0,)):
        with raises(ValueError, r"logits must have at least one item along dim .*, but the shape is"):
            FUNCTIONS[name](torch.zeros(shape))


# --- mask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RACES)
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(3), TypeError, r"mask must be a bool tensor, True where .*, but it is torch.float32; .*mask.bool"),
        ([True, False, True], TypeError, r"mask must be a bool tensor, .* but it is list"),
        (torch.ones(4).bool(), ValueError, r"mask must broadcast to the shape of logits, \(2, 3\), .* is \(4,\)"),
        (torch.ones(5, 2, 3).bool(), ValueError, r"mask must broadcast to the shape .*, but its shape is \(5, 2, 3\)"),
        (
            torch.tensor([[True, True, False], [False] * 3]),
            ValueError,
            r"logits must allow .* \(or masked\) throughout",
        ),
    ],
)
def test_masks(backend: str, name: str, mask: Any, error: type[Exception], message: str) -> None:
    with raises(error, message):
        FUNCTIONS[name](torch.zeros(2, 3), mask=mask)


# --- k -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIRST_K)
@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (-1, ValueError, r"k must be between 0 and the number of items, 4, but it is -1"),
        (5, ValueError, r"k must be between 0 and the number of items, 4, but it is 5"),
        (2.0, TypeError, r"k must be an integer, but it is a float; pass int\(k\)"),
        (True, TypeError, r"k must be an integer, but it is a bool"),
        (torch.tensor(2), TypeError, r"k must be an integer, but it is a Tensor"),
        (
            4,
            ValueError,
            r"k must be at most the number of allowed items in each row, but it is 4 and some row .* only 2",
        ),
        (
            3,
            ValueError,
            r"k must be at most the number of allowed items in each row, but it is 3 and some row .* only 2",
        ),
    ],
)
def test_k(backend: str, name: str, k: Any, error: type[Exception], message: str) -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, -INF, -INF, 1.0]])
    FUNCTIONS[name](x, 2)
    with raises(error, message):
        FUNCTIONS[name](x, k)


# --- tau and method ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize(
    ("tau", "error", "message"),
    [
        (-0.1, ValueError, r"tau must be at least 0, but it is -0.1; 0 gives the exact argmax"),
        (NAN, ValueError, r"tau must be at least 0, but it is nan"),
        (torch.tensor(-1.0), ValueError, r"tau must be at least 0 everywhere, but some of it is negative or NaN"),
        (torch.tensor([[1.0], [NAN]]), ValueError, r"tau must be at least 0 everywhere"),
        ("1", TypeError, r"tau must be a number or a tensor, but it is a str"),
        (None, TypeError, r"tau must be a number or a tensor, but it is a NoneType"),
        (torch.ones(4), ValueError, r"tau must broadcast against the shape of logits, \(2, 3\), but .* \(4,\)"),
    ],
)
def test_tau(backend: str, name: str, tau: Any, error: type[Exception], message: str) -> None:
    with raises(error, message):
        FUNCTIONS[name](torch.zeros(2, 3), tau=tau)


@pytest.mark.parametrize("name", [name for name in RELAXED if name != "gumbel_sigmoid"])
def test_tau_is_one_for_each_row(backend: str, name: str) -> None:
    for tau, dim in ((torch.ones(3), -1), (torch.ones(2, 3), -1), (torch.ones(2, 1), 0)):
        with raises(ValueError, r"tau must be the same for all items of a row .* but its shape is"):
            FUNCTIONS[name](torch.zeros(2, 3), tau=tau, dim=dim)


def test_method() -> None:
    with raises(ValueError, r"method must be one of .*'gumbel'.*'softmax'.*, but it is 'hard'"):
        ag.straight_through(torch.zeros(3), method="hard")


# --- noise and generator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (torch.zeros(3), ValueError, r"noise must have the shape \(2, 3\) of logits, but its shape is \(3,\)"),
        (torch.zeros(2, 3, 1), ValueError, r"noise must have the shape \(2, 3\) of logits, .* \(2, 3, 1\)"),
        (torch.zeros(2, 3).long(), TypeError, r"noise must have a floating dtype, but it is torch.int64"),
        (
            torch.zeros(2, 3, device="meta"),
            ValueError,
            r"noise must be on the device of logits, cpu, but it is on meta",
        ),
        (7, TypeError, r"noise must be a tensor or an argumbel.KeyedNoise, but it is a int"),
        (torch.tensor([[0.0, NAN, 0.0]] * 2), ValueError, r"noise.* must .*but some"),
        (ag.KeyedNoise(0, rows=[1, 2, 3]), ValueError, r"rows must give one id per row: .*but its shape is \(3,\)"),
        (ag.KeyedNoise(0, items=[1, 2]), ValueError, r"items must give one id per item: .*but its shape is \(2,\)"),
    ],
)
def test_noise(backend: str, name: str, noise: Any, error: type[Exception], message: str) -> None:
    with raises(error, message):
        FUNCTIONS[name](torch.zeros(2, 3), noise=noise)


@pytest.mark.parametrize("name", NOISY)
def test_noise_or_generator(backend: str, name: str) -> None:
    for noise in (torch.zeros(2, 3), ag.KeyedNoise(0)):
        with raises(ValueError, r"generator must be left out when noise is given, but both are given; pass"):
            FUNCTIONS[name](torch.zeros(2, 3), noise=noise, generator=torch.Generator())


@pytest.mark.parametrize("name", RACES)
def test_infinite_noise_is_not_a_choice(name: str) -> None:
    if name in NOISY:
        with raises(ValueError, r"noise must be finite, but some is not"):
            FUNCTIONS[name](torch.zeros(2, 3), noise=torch.tensor([[0.0, INF, 0.0]] * 2))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_generators_live_where_the_logits_do(name: str) -> None:
    with raises(ValueError, r"generator must live where the noise is wanted, on meta, but it is on cpu"):
        FUNCTIONS[name](torch.zeros(2, 3, device="meta"), generator=torch.Generator())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_error_leaves_no_trace(backend: str, name: str) -> None:
    """After a refusal the function works as before."""
    with raises(ValueError, "NaN"):
        FUNCTIONS[name](torch.full((3, 4), NAN))
    FUNCTIONS[name](torch.zeros(3, 4))


# --- where values may not be looked at ---------------------------------------------------------------------------

BAD = torch.tensor([[0.0, 1.0, 2.0], [NAN, 0.0, 0.0], [INF, 0.0, 0.0], [-INF, -INF, -INF], [0.0, 0.5, -INF]])
GOOD = torch.tensor([True, False, False, False, True])


def marked(name: str, result: Any) -> None:
    """Bad rows of BAD are index -1 and value NaN; good rows are as ever."""
    outputs = result if isinstance(result, tuple) else (result,)
    for y in outputs:
        y = y.reshape(5, -1)
        if not y.dtype.is_floating_point:
            assert (y[~GOOD] == -1).all()
            assert ((y[GOOD] >= 0) & (y[GOOD] < 3)).all()
            assert (y[4] < 2).all()
        elif name == "gumbel_sigmoid":  # each item is its own; infinities are certain
            assert torch.equal(y.isnan(), BAD.isnan())
            assert torch.equal(y[3], torch.zeros(3))
            assert y[2, 0] == 1
        else:
            assert y[~GOOD].isnan().all()
            assert not y[GOOD].isnan().any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_rows_under_vmap(name: str) -> None:
    marked(name, torch.vmap(FUNCTIONS[name], randomness="different")(BAD))


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("tau", [0, 1e-30, torch.tensor(0.0), torch.tensor(0.5)])
def test_bad_rows_under_vmap_at_any_temperature(name: str, tau: float | Tensor) -> None:
    marked(name, torch.vmap(lambda x: FUNCTIONS[name](x, tau=tau), randomness="different")(BAD))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_rows_when_compiled(name: str) -> None:
    torch._dynamo.reset()
    marked(name, torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")(BAD))


@pytest.mark.parametrize("name", ["categorical", "gumbel_max", "gumbel_softmax"])
def test_bad_rows_when_compiled_in_plain_torch(name: str) -> None:
    """float64 has no compiled kernel on any machine."""
    torch._dynamo.reset()
    marked(name, torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")(BAD.double()))


@pytest.mark.parametrize("name", NOISY)
def test_bad_rows_under_functional_gradients(name: str) -> None:
    """No error, and a gradient that is sound in the good rows."""

    def loss(x: Tensor) -> Tensor:
        y = FUNCTIONS[name](x, noise=torch.zeros(5, 3))
        y = (y[0] if isinstance(y, tuple) else y).reshape(5, -1)
        return torch.where(GOOD[:, None], y, 0).clamp(min=-9).sum()

    assert not torch.func.grad(loss)(BAD)[GOOD].isnan().any()


def test_places_beyond_the_support_under_vmap() -> None:
    x = torch.tensor([[0.0, 1.0, -INF, -INF], [0.0, 1.0, 2.0, 3.0]])
    for name in ("gumbel_topk", "sample_without_replacement"):
        values, indices = torch.vmap(functools.partial(FUNCTIONS[name], k=3), randomness="different")(x)
        assert values.isnan().tolist() == [[False, False, True], [False] * 3]
        assert (indices == -1).tolist() == [[False, False, True], [False] * 3]
        assert sorted(indices[0, :2].tolist()) == [0, 1]
    relaxed = torch.vmap(lambda a: ag.relaxed_topk(a, 3), randomness="different")(x)
    assert relaxed[0].isnan().all()
    assert not relaxed[1].isnan().any()
