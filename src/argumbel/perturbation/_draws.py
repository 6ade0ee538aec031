"""Perturbed scores, and what is known of their density."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import broadcasts_to, can_raise, count, number, one_of
from ..noise import KeyedNoise, as_keyed
from ..structures import part_noise
from ._solver import Solver

__all__ = ["Draws", "draw"]

LAWS = ("gumbel", "normal")


class Draws(NamedTuple):
    """What both functions make of their arguments, in float64.

    ``values`` are the perturbed scores ``(num_samples, *batch, *event)``; ``x`` the scores; ``z`` the noise; ``sigma``
    broadcasts to values; ``bad`` says which rows are bad, ``(*batch,)``, None where it is known that none is."""

    values: Tensor
    x: Tensor
    z: Tensor
    sigma: Tensor
    bad: Tensor | None


def draw(
    solver: Solver,
    scores: Tensor,
    num_samples: int,
    sigma: float | Tensor,
    law: str,
    multiplicative: bool,
    mask: Tensor | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
) -> Draws:
    num_samples = count("num_samples", num_samples, least=1)
    one_of("law", law, LAWS)
    if multiplicative and law != "normal":
        raise ValueError(
            f'law must be "normal" where the noise is multiplicative, but it is {law!r}; pass law="normal"'
        )
    x, bad, _ = solver.prepared(scores, mask)
    many = x.to(scores.dtype).expand(num_samples, *x.shape)
    if law == "gumbel" or isinstance(noise, Tensor):
        z = part_noise(many, solver.event_ndim, noise, generator).double()
    else:
        rows = solver.flat(many).shape
        u = as_keyed(noise, generator, x.device).uniform(rows, dtype=torch.float64, device=x.device)
        z = torch.special.ndtri(u).reshape(many.shape)
    width = _sigma(sigma, x, solver.event_ndim)
    # The factor has mean 1.
    values = x * torch.exp(width * z - width.square() / 2) if multiplicative else x + width * z
    return Draws(values, x, z, width, bad)


def _sigma(sigma: Any, x: Tensor, event_ndim: int) -> Tensor:
    """sigma as a tensor that broadcasts to x."""
    batch = x.shape[: x.ndim - event_ndim]
    if not isinstance(sigma, Tensor):
        width = number("sigma", sigma, expected="a number or a tensor")
        sigma = torch.full((), width, dtype=torch.float64, device=x.device)
    elif not broadcasts_to(sigma.shape, batch):
        raise ValueError(
            f"sigma must be a number, or broadcast to {tuple(batch)}, but its shape is {tuple(sigma.shape)}; pass one "
            "for each problem"
        )
    sigma = sigma.detach().to(x.device, torch.float64)
    if can_raise(sigma) and not bool(((sigma > 0) & sigma.isfinite()).all()):
        raise ValueError("sigma must be positive and finite, but some of it is not; pass a positive number")
    return sigma.reshape(*sigma.shape, *[1] * event_ndim)
