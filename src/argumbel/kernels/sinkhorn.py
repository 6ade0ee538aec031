"""Matrices whose rows and columns have given sums, ``diag(a) exp(x) diag(b)``."""

from __future__ import annotations

import torch
from torch import Tensor

from .concrete import concrete
from .gibbs import LOWEST

__all__ = ["SINKHORN_TOLERANCE", "sinkhorn"]

#: A row sum is wrong by no more than this, where float64 can tell.
SINKHORN_TOLERANCE = 1e-10
MOST_STEPS = 1000
# Added to each weight of the network of rows (`_newton`). Rows that share less than this are as good as apart: the
# difference of their scales is not known in float64, and changes no entry by more than this.
LEAK = 1e-12


def sinkhorn(x: Tensor, slack: int = 0) -> Tensor:
    """The matrix ``exp(x + f_i + g_j)`` whose columns sum to 1, and whose rows sum to 1; if slack > 0, the last row sums
    to slack.

    The row scales f minimise a convex function, ``sum_j logsumexp_i(x + f) - <sums, f>``. They are found by Newton's
    method without a derivative. Two steps more have a derivative: each step of Newton's method doubles the order of the
    derivatives that are right, so the first three are.

    Args:
        x: float64 ``(*batch, n, m)``; LOWEST where an entry must be 0. Each other entry must be part of some matching.
        slack: m less the number of the other rows.
    """
    f = _scales(x.masked_fill(x <= LOWEST, -torch.inf), slack)[0]
    sums = _sums(x, slack)
    for _ in range(2):
        f = f + _newton((x + f.unsqueeze(-1)).softmax(-2), sums)
    return (x + f.unsqueeze(-1)).softmax(-2)


def _sums(x: Tensor, slack: int) -> Tensor:
    n = x.shape[-2]
    last = torch.arange(n, device=x.device) == n - 1
    return torch.where(last, slack or 1, 1).to(x.dtype)


def _newton(p: Tensor, sums: Tensor) -> Tensor:
    """The step that makes the rows of p have these sums, to first order.

    The second derivative is the Laplacian of a network of rows, ``w_ik = sum_j p_ij p_kj``. Its diagonal is summed from
    the weights, so that nothing cancels, however near p is to a hard matching.
    """
    n = p.shape[-2]
    same = torch.eye(n, dtype=torch.bool, device=p.device)
    w = (p @ p.mT).masked_fill(same, 0)
    # A number that is added to all scales changes nothing: the constant makes the step's mean 0.
    laplacian = torch.diag_embed(w.sum(-1) + LEAK) - w + 1 / n
    return torch.linalg.solve_ex(laplacian, (sums - p.sum(-1)).unsqueeze(-1))[0].squeeze(-1)


def _solve(x: Tensor, slack: int) -> tuple[Tensor]:
    """From a high temperature down to 1, halved as soon as a step of Newton's method is short. A long step is made
    shorter: ``log(1 + d) / d`` of a step that moves two scales apart by d lowers the function surely (Sun and Tran-Dinh
    2019, for functions like logsumexp)."""
    n, m = x.shape[-2:]
    top = x.amax(-1)
    x = x - top.unsqueeze(-1)
    x = (x - x.amax(-2, keepdim=True)).reshape(x.shape[:-2].numel(), n, m)
    lowest = x.masked_fill(x == -torch.inf, 0).flatten(1).amin(-1)
    inverse = 1 / (-lowest).clamp(min=1)  # of the temperature
    f, sums = x.new_zeros(len(x), n), _sums(x, slack)
    todo = torch.arange(len(x), device=x.device)
    for _ in range(MOST_STEPS):
        if len(todo) == 0:
            break
        now, at = inverse[todo], f[todo]
        p = (x[todo] * now[:, None, None] + at.unsqueeze(-1)).softmax(-2)
        step = _newton(p, sums)
        apart = step.amax(-1) - step.amin(-1)
        near = apart < 1
        factor = torch.where(near, 1, apart.log1p() / apart.clamp(min=1))
        then = torch.where(near, (2 * now).clamp(max=1), now)
        f[todo] = (at + factor.unsqueeze(-1) * step) * (then / now).unsqueeze(-1)
        inverse[todo] = then
        wrong = (p.sum(-1) - sums).abs().amax(-1)
        todo = todo[~((now == 1) & (wrong < SINKHORN_TOLERANCE) & (apart < 0.01))]
    return (f.reshape(top.shape) - top,)


_scales = concrete(
    "sinkhorn_scales(Tensor x, SymInt slack) -> Tensor", _solve, lambda x, slack: x.new_empty(x.shape[:-1])
)
