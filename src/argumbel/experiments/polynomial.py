"""Polynomial programming: the odds of coins are learned so that ``E mean_i |x_i - c|^p`` becomes small.

Source: Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .estimator import Estimator
from .run import stream

__all__ = ["EXACT", "expectation", "minimise"]

EXACT = "exact gradient"
"""This text in place of an estimator differentiates the formula of the expected loss."""


def expectation(logits: Tensor, powers: Tensor, target: float) -> Tensor:
    """``E mean_i |x_i - c|^p`` for each power p.

    Args:
        logits: of the coins, ``(powers, coins, 2)``; item 0 is x = 1, item 1 is x = 0.
        powers: ``(powers,)``.
        target: c.

    Returns:
        ``(powers,)``.

    >>> expectation(torch.tensor([[[0.0, 0.0]]]), torch.tensor([2.0]), 0.45)  # (0.55 ** 2 + 0.45 ** 2) / 2
    tensor([0.2525])
    """
    losses = torch.stack([(1 - target) ** powers, target**powers], -1)
    return (logits.softmax(-1).mean(-2) * losses).sum(-1)


def minimise(
    estimator: str,
    powers: Sequence[float],
    *,
    seed: int,
    steps: int,
    coins: int = 128,
    target: float = 0.45,
    draws: int = 64,
    lr: float = 1e-3,
    tau: float = 1.0,
    every: int = 100,
    record: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> tuple[dict[str, float], float]:
    """Learn the odds by Adam, for all powers at once, each with its own coins and noise.

    Each step has ``draws`` outcomes of all coins. An estimator with m samples gets ``draws / m`` rows. The loss is the
    loss of the joint outcome: no estimator uses that it is a sum over coins.

    Args:
        estimator: text for :class:`~argumbel.experiments.estimator.Estimator`, or ``EXACT``.
        powers: the powers p.
        seed: seed of the first odds and of the draws.
        steps: number of steps.
        coins: number of coins.
        target: c.
        draws: outcomes in each step.
        lr: learning rate.
        tau: temperature of the estimator.
        every: steps between two records.
        record: is called every ``every`` steps with ``{"step", "kind": "train", "p=1.5", ...}``, the exact losses.

    Returns:
        The exact loss of the learned odds for each power (``"p=1.5"``), and the seconds that the steps took.

    Raises:
        ValueError: the estimator's number of samples does not divide ``draws``.
        FloatingPointError: a logit, or a parameter of the estimator, became infinite or NaN.
    """
    generator = torch.Generator().manual_seed(stream(seed, "polynomial"))
    start = torch.rand((len(powers), coins, 2), generator=generator) * 0.02 - 0.01
    logits, power = start.requires_grad_(), torch.tensor(powers)
    chosen = None if estimator == EXACT else Estimator(estimator)
    rows = 1 if chosen is None else _rows(estimator, draws, chosen.num_samples)
    parameters = [logits, *(() if chosen is None else chosen.parameters())]
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)

    def loss(z: Tensor) -> Tensor:
        # A relaxed coin may be equal to the target, where |.| ** 1.5 has no second derivative; rebar needs one.
        return ((z[..., 0] - target).abs().clamp(min=1e-6) ** power.unsqueeze(-1)).mean(-1)

    def figures() -> dict[str, float]:
        with torch.no_grad():
            values = expectation(logits.double(), power.double(), target).tolist()
        return {f"p={p:g}": value for p, value in zip(powers, values, strict=True)}

    began, paused = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        if chosen is None:
            objective = expectation(logits, power, target).sum()
        else:
            batch = logits.expand(rows, *logits.shape)
            try:
                objective = chosen(loss, batch, tau=tau, generator=generator).mean(0).sum()
            except ValueError as error:
                if all(bool(p.isfinite().all()) for p in parameters):
                    raise
                raise FloatingPointError(
                    f"logits must be finite, but they became infinite or NaN by step {step}; lower the learning rate"
                ) from error
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        if step % every == 0 or step == steps:
            pause = time.perf_counter()
            record({"step": step, "kind": "train", **figures()})
            paused += time.perf_counter() - pause
    return figures(), time.perf_counter() - began - paused


def _rows(estimator: str, draws: int, num_samples: int) -> int:
    rows, rest = divmod(draws, num_samples)
    if rest:
        raise ValueError(
            f"num_samples of {estimator} must divide the {draws} draws of a step, but it is {num_samples}; give a "
            "divisor"
        )
    return rows
