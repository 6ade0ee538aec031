"""What one mode of PyTorch computes must not be kept for another: inference mode, fake tensors, transforms, devices."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import argumbel.distributions as agd

MAKE = {
    name: getattr(agd, name)
    for name in agd.__all__
    if name.startswith(("Relaxed", "ExpRelaxed", "LogitRelaxed", "HardConcrete"))
}
WHATS = ("probs", "logits", "mean", "mode", "entropy", "log_prob", "variance")


def ask(d: Any) -> list[Tensor]:
    """Everything that the distribution can say of itself, at one value."""
    answers = []
    for what in WHATS:
        try:
            answer = getattr(d, what)
            if what == "log_prob":
                answer = answer(d.sample(generator=torch.Generator().manual_seed(0)).detach())
            if what == "entropy":
                answer = answer(2, generator=torch.Generator().manual_seed(0))
        except NotImplementedError:
            continue
        answers.append(answer)
    return answers


@contextmanager
def fake() -> Iterator[None]:
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        yield


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, fake])
@pytest.mark.parametrize("given", ["probs", "logits"])
@pytest.mark.parametrize("name", MAKE)
def test_nothing_is_kept_from_another_mode(name: str, given: str, mode: Callable[[], Any]) -> None:
    """A distribution that was looked at in inference mode, or with fake tensors, is trained afterwards."""
    slopes = []
    for looked_at in (False, True):
        x = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
        d = MAKE[name](0.5, **{given: x})
        if looked_at:
            with mode():
                for what in ("probs", "logits"):
                    getattr(d, what)
                if mode is not fake:  # the values of a fake sample may not be looked at
                    ask(d)
        total = sum((y.sum() for y in ask(d)), torch.zeros(()))
        slopes.append(torch.autograd.grad(total, x)[0])
    assert torch.equal(*slopes)


@pytest.mark.parametrize("given", ["probs", "logits"])
@pytest.mark.parametrize("name", MAKE)
def test_nothing_is_kept_from_a_transform(name: str, given: str) -> None:
    d = MAKE[name](0.5, **{given: torch.tensor([0.2, 0.3, 0.5])})
    expected = [y.clone() for y in ask(MAKE[name](0.5, **{given: torch.tensor([0.2, 0.3, 0.5])}))]
    torch.func.grad(lambda s: (s * d.probs).sum() + (s * d.logits).sum())(torch.tensor(1.0))
    torch.vmap(lambda s: s * d.probs + s * d.logits)(torch.ones(4))
    for y, right in zip(ask(d), expected, strict=True):
        assert type(y) is Tensor
        assert torch.equal(y, right)


@pytest.mark.parametrize(
    "mode",
    ["torch.inference_mode()", "torch._subclasses.FakeTensorMode()", "torch.device('meta')"],
)
def test_imported_in_another_mode(mode: str) -> None:
    """Submodules are imported when they are first used, whatever mode is on then."""
    code = f"""
import torch, argumbel as ag
with {mode}:
    ag.distributions, ag.estimators, ag.nn, ag.plots, ag.schedules
    if "meta" not in {mode!r}:
        ag.distributions.HardConcrete(0.5, logits=torch.zeros(2)).mean
x = torch.zeros(2, requires_grad=True)
ag.distributions.HardConcrete(0.5, logits=x).mean.sum().backward()
assert x.grad.isfinite().all()
assert ag.plots._CORNERS[1][0] == 1
x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
ag.topk_log_prob(x, torch.tensor([0, 1]), ordered=False).backward()
ag.reverse.posterior_gumbel_subset(x, torch.tensor([0, 1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
