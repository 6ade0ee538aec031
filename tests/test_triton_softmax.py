"""The relaxed race by Triton, and its gradients, beside plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import argumbel as ag

from .on_triton import DEVICE, MARKS, exactly, here, there
from .test_kernels import SINGLE, check_error, exact_max, exact_noise, keys_of, relaxed_case

pytest.importorskip("triton", minversion="3.6")

from argumbel.kernels.triton import softmax

pytestmark = MARKS


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
