"""Any logits, in any layout, in any mode: no crash, no NaN, and the choices of the reference.

A longer search by hand: ``pytest tests/test_fuzz.py --hypothesis-profile=long`` (20,000 cases: ten
minutes of one core).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel import kernels
from tests.strategies import logits, seeds

MODES = ("eager", "gradient", "vmap", "inference", "autocast", "default device")
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "items first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "from the middle": lambda x: torch.nn.functional.pad(x, (3, 2))[..., 3:-2],
    "expanded": lambda x: x[None].expand(2, *x.shape),
    "negative view": lambda x: torch._neg_view(-x),
}


def outcomes(x: Tensor, tau: float, noise: ag.KeyedNoise, dim: int, mask: Tensor | None) -> dict[str, Tensor]:
    rest: dict[str, Any] = {"noise": noise, "dim": dim, "mask": mask}
    best, first = ag.gumbel_max(x, **rest), ag.gumbel_topk(x, 1, **rest)
    return {
        "gumbel_max": best.indices,
        "gumbel_topk": first.indices,
        "tempered": ag.gumbel_max(x, temperature=0.7, top_k=3, **rest).indices,
        "hard": ag.gumbel_softmax(x, tau, hard=True, **rest),
        "value": best.values,
        "soft": ag.gumbel_softmax(x, tau, **rest),
        "sigmoid": ag.gumbel_sigmoid(x, tau, noise=ag.KeyedNoise(7)),
    }


def seeds_of(lead: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """One seed for all rows, or one for each."""
    count = torch.Size(lead).numel()
    return st.one_of(seeds, st.lists(seeds, min_size=count, max_size=count).map(lambda s: _rows_of(s, lead)))


def _rows_of(each: list[int], lead: tuple[int, ...]) -> Tensor:
    signed = [seed - (1 << 64) if seed >= 1 << 63 else seed for seed in each]
    return torch.tensor(signed, dtype=torch.int64).reshape(lead)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    x = draw(logits(max_items=70, batch=st.sampled_from([(), (1,), (3,), (2, 3), (40,), (0,)])))
    x = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](x)
    n, mask = x.shape[-1], None
    if draw(st.booleans()):  # an item of the greatest logit is always left
        mask = torch.ones(n, dtype=torch.bool) if draw(st.booleans()) else x == x.amax(-1, keepdim=True)
    if x.ndim > 1 and draw(st.booleans()):
        x, mask, dim = x.movedim(-1, 0), mask if mask is None or mask.ndim == 1 else mask.movedim(-1, 0), 0
        mask = mask if mask is None or mask.ndim > 1 else mask.reshape(n, *[1] * (x.ndim - 1))
    else:
        dim = -1
    items = torch.arange(n) * draw(st.sampled_from([1, 3, 1 << 33])) if draw(st.booleans()) else None
    tau = draw(st.sampled_from([0.0, 1e-20, 1e-3, 0.5, 1.0, 3.0, 1e6]))
    mode = draw(st.sampled_from(MODES))
    return {
        "x": x,
        "tau": tau,
        "noise": ag.KeyedNoise(draw(seeds_of(x.shape[:-1] if dim == -1 else x.shape[1:])), items=items),
        "dim": dim,
        "mask": mask,
        "mode": mode,
    }


@given(case=cases())
def test_no_mode_changes_a_choice(case: dict[str, Any]) -> None:
    mode = case.pop("mode")
    x = case.pop("x")
    with kernels.use("reference"):
        expected = outcomes(x, **case)
    context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if mode == "inference":
        context = torch.inference_mode()
    elif mode == "autocast":
        context = torch.autocast("cpu", dtype=torch.bfloat16)
    elif mode == "default device":
        context = torch.device("meta")
    elif mode == "gradient":
        x = x.detach().requires_grad_()
    with context:
        if mode == "vmap":
            found = torch.vmap(lambda _: outcomes(x, **case), randomness="same")(torch.zeros(1))
            found = {name: value[0] if value.ndim > expected[name].ndim else value for name, value in found.items()}
        else:
            found = outcomes(x, **case)
    for name in "gumbel_max", "gumbel_topk", "tempered":
        assert torch.equal(found[name], expected[name]), name
    assert torch.equal(found["hard"].detach().to(x.dtype), expected["hard"])
    half = x.dtype in (torch.float16, torch.bfloat16) or mode == "autocast"
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if half else {"rtol": 1e-4, "atol": 1e-5}
    for name in "value", "soft", "sigmoid":
        assert not bool(found[name].isnan().any()), name
        torch.testing.assert_close(found[name].detach().to(x.dtype), expected[name], **tolerance)
    if mode == "gradient" and x.numel():
        total = found["soft"].square().sum() + found["hard"][..., :1].sum() + found["value"].sum()
        assert bool(torch.autograd.grad(total, x)[0].isfinite().all())
