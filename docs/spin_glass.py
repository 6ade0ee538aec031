"""A spin glass on a grid: a model whose partition function, marginals and best states can be had exactly.

The score of spins s = -1 or +1 on a grid is ``sum_i h_i s_i + sum_(i, j) J_ij s_i s_j`` with i and j neighbours.
One sweep, site by site, does all of it: with logaddexp it is the transfer matrix and gives log Z, with maximum it is
Viterbi's algorithm and gives the best score. The gradient of the one in the unary scores is the marginals, that of the
other the best state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SPIN = torch.tensor([-1.0, 1.0])


class SpinGlass(NamedTuple):
    """Fields h ``(rows, columns)``; couplings to the site on the right ``(rows, columns - 1)`` and below."""

    fields: Tensor
    right: Tensor
    below: Tensor


def random_glass(rows: int, columns: int, coupling: float, seed: int = 0) -> SpinGlass:
    """Fields uniform in [-1, 1], couplings uniform in [-coupling, coupling]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, columns), (rows, columns - 1), (rows - 1, columns)]
    fields, right, below = (torch.rand(shape, generator=generator) * 2 - 1 for shape in shapes)
    return SpinGlass(fields, coupling * right, coupling * below)


def unary(model: SpinGlass) -> Tensor:
    """The scores of the two states of every site, ``(rows * columns, 2)``."""
    return model.fields.flatten()[:, None] * SPIN


def score(model: SpinGlass, states: Tensor) -> Tensor:
    """The score of states (0 or 1) of shape ``(..., rows * columns)``."""
    s = SPIN[states].unflatten(-1, model.fields.shape)
    terms = (model.fields * s, model.right * s[..., 1:] * s[..., :-1], model.below * s[..., 1:, :] * s[..., :-1, :])
    return sum(term.sum((-2, -1)) for term in terms)


def sweep(model: SpinGlass, u: Tensor, add: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``add`` (logaddexp or maximum) over all states of the score with unary scores u, ``(batch, sites, 2)``.

    The front is the last spin seen of each column: ``(batch, 2 ** columns)``. A step replaces one of them, so it costs
    twice the front and not its square.
    """
    rows, columns = model.fields.shape
    spin = SPIN.to(u)
    front = u.new_zeros(len(u), 1)
    for column in range(columns):  # the first row: each site doubles the front
        front = front[..., None] + u[:, None, column]
        if column:
            link = model.right[0, column - 1].to(u) * spin[:, None] * spin
            front = (front.unflatten(1, (-1, 2)) + link).flatten(1, 2)
        front = front.flatten(1)
    for row in range(1, rows):
        for column in range(columns):
            # (batch, columns before, this column, columns after): the spin above goes out, the new one comes in
            old = front.unflatten(1, (2**column, 2, -1))
            down = model.below[row - 1, column].to(u) * spin
            new = torch.stack([add(old[:, :, 0] - s * down[1], old[:, :, 1] + s * down[1]) for s in spin], 2)
            new = new + u[:, row * columns + column][:, None, :, None]
            if column:
                link = model.right[row, column - 1].to(u) * spin[:, None] * spin
                new = (new.unflatten(1, (-1, 2)) + link[..., None]).flatten(1, 2)
            front = new.flatten(1)
    while front.shape[1] > 1:
        front = add(*front.unflatten(1, (-1, 2)).unbind(-1))
    return front.squeeze(1)


def log_partition_and_marginals(model: SpinGlass) -> tuple[Tensor, Tensor]:
    """Exact log Z, and P(spin up) of every site."""
    u = unary(model).double()[None].requires_grad_()
    log_z = sweep(model, u, torch.logaddexp)
    (marginals,) = torch.autograd.grad(log_z.sum(), u)
    return log_z.detach().squeeze(0), marginals[0, :, 1].reshape(model.fields.shape)


def solve(model: SpinGlass, u: Tensor) -> Tensor:
    """The best states for unary scores ``(batch, sites, 2)``: the maximum remembers where it came from."""
    with torch.enable_grad():
        states = []
        for chunk in u.split(100):
            chunk = chunk.detach().requires_grad_()
            (winner,) = torch.autograd.grad(sweep(model, chunk, torch.maximum).sum(), chunk)
            states.append(winner.argmax(-1))
    return torch.cat(states)
