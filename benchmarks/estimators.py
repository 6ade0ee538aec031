"""What a gradient estimator costs: its time over that of one forward and backward pass of the loss it is given.

The loss is a small decoder of the categorical VAE: 20 latents of 10 classes, or of 2 for estimators between two items,
to 784 pixels by way of 256 units, batches of 100. An estimator is timed only after its check has passed.
"""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tests.statistics import FAILURE_RATE, scipy
from torch import Tensor, nn

from argumbel.estimators import ESTIMATORS, exact

from .measure import reason, take_turns

BATCH, LATENTS, HIDDEN, PIXELS = 100, 20, 256, 784
CLASSES = {10: [name for name in ESTIMATORS if name not in ("exact", "arm", "disarm")], 2: ["arm", "disarm"]}
UNBIASED = {"reinforce", "reinforce_loo", "stratified", "sum_and_sample", "unordered_set", "arm", "disarm", "arsm"}
UNBIASED |= {"rebar"}
LOSS = "f itself"


@dataclass
class Overhead:
    """Seconds of an estimate and its gradient; times as long as one forward and backward pass of f on one sample."""

    estimator: str
    classes: int
    samples: int = 0  # that f is evaluated at
    seconds: float | None = None
    ratio: float | None = None
    failure: str | None = None


def decoder(classes: int) -> tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]:
    """``f(z) = -log p(x | z)`` of random binary images, and its parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(LATENTS * classes, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
        x = (torch.rand(BATCH, PIXELS) < 0.15).float()

    def f(z: Tensor) -> Tensor:
        pixels = network(z.flatten(-2))
        return F.binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)

    return f, list(network.parameters())


def check(name: str, classes: int) -> None:
    """On two factors: an unbiased estimator has the exact gradient as its mean; any other, of a linear loss at least,
    roughly its direction."""
    generator = torch.Generator().manual_seed(0)
    cost, logits = torch.randn((2, 2, classes), generator=generator, dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        total = (z * cost).sum((-2, -1))
        return total**2 if name in UNBIASED else total

    x = logits.requires_grad_()
    (truth,) = torch.autograd.grad(exact(f, x), x)
    rows = logits.detach().expand(5000, 2, classes).clone().requires_grad_()
    count = _num_samples(name)
    loss = ESTIMATORS[name](f, rows, num_samples=count, generator=generator)
    (gradients,) = torch.autograd.grad(loss.sum(), rows)
    mean = gradients.mean(0)
    if name in UNBIASED:
        z = ((mean - truth) / (gradients.std(0) / len(gradients) ** 0.5).clamp(min=1e-9)).abs().max()
        bound = scipy.stats.norm.isf(FAILURE_RATE / 2 / mean.numel())
        assert float(z) < bound, f"the mean gradient is {float(z):.1f} standard errors from the exact one"
    else:
        cosine = float((mean * truth).sum() / mean.norm() / truth.norm())
        assert cosine > 0.5, f"the mean gradient points elsewhere: cosine {cosine:.2f}"


def _num_samples(name: str) -> int:
    """The estimator's default: 1, or 2 where it takes pairs."""
    return int(inspect.signature(ESTIMATORS[name]).parameters["num_samples"].default)


def measure(seconds: float, least: int = 3) -> list[Overhead]:
    """``seconds`` of timing for each, in turn with f by itself."""
    found = []
    for classes, names in CLASSES.items():
        f, parameters = decoder(classes)
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn((BATCH, LATENTS, classes), generator=generator).requires_grad_()
        z = F.one_hot(logits.argmax(-1), classes).float().unsqueeze(0).requires_grad_()
        calls: dict[str, Callable[[], object]] = {LOSS: lambda f=f, z=z, p=parameters: _gradient(f(z), [z, *p])}
        rows = {}
        for name in names:
            row = rows[name] = Overhead(name, classes)
            found.append(row)
            call = _call(name, f, logits, parameters)
            try:
                check(name, classes)
                row.samples = _samples(name, f, logits)
                call()
            except Exception as error:
                row.failure = reason(error)
            else:
                calls[name] = call
        taken = {name: statistics.median(times) for name, times in take_turns(calls, seconds, least).items()}
        for name in calls.keys() - {LOSS}:
            rows[name].seconds, rows[name].ratio = taken[name], taken[name] / taken[LOSS]
        found.append(Overhead(LOSS, classes, 1, taken[LOSS], 1.0))
    return found


def _gradient(loss: Tensor, inputs: list[Tensor]) -> object:
    return torch.autograd.grad(loss.mean(), inputs)


def _call(
    name: str, f: Callable[[Tensor], Tensor], logits: Tensor, parameters: list[nn.Parameter]
) -> Callable[[], object]:
    count = _num_samples(name)
    return lambda: _gradient(ESTIMATORS[name](f, logits, num_samples=count), [logits, *parameters])


def _samples(name: str, f: Callable[[Tensor], Tensor], logits: Tensor) -> int:
    seen: list[int] = []

    def counted(z: Tensor) -> Tensor:
        seen.append(len(z))
        return f(z)

    ESTIMATORS[name](counted, logits, num_samples=_num_samples(name))
    return sum(seen)
