"""Matrices whose rows and columns have given sums, ``diag(a) exp(x) diag(b)``."""

from __future__ import annotations

import torch
from torch import Tensor

from .concrete import concrete
from .gibbs import LOWEST

__all__ = ["sinkhorn"]

MOST_STEPS = 500


def sinkhorn(x: Tensor, slack: int = 0) -> Tensor:
    """The matrix ``exp(x + f_i + g_j)`` whose columns sum to 1, and whose rows sum to 1; if slack > 0, the last row
    sums to slack. Row sums are wrong by at most 1e-10, or ``range * 1e-15`` if this is more: float64 tells no better.

    The row scales f minimise a convex function, ``sum_j logsumexp_i(x + f) - <sums, f>``. They are found by Newton's
    method without a derivative. Two steps more have a derivative: each step of Newton's method doubles the number of
    the derivatives that are right, the value counted, so the first three are.

    Args:
        x: float64 ``(*batch, n, m)``; LOWEST where an entry must be 0. Each other entry must be part of some matching.
        slack: m less the number of the other rows.
    """
    zero = x <= LOWEST
    x = x - x.detach().amax(-1, keepdim=True)  # what is added to a row, or to a column, changes nothing
    x = x - x.detach().amax(-2, keepdim=True)
    f = _scales(x.masked_fill(zero, -torch.inf), slack)[0]
    sums, rounding = _sums(x, slack), _rounding(x.detach().masked_fill(zero, 0))
    for _ in range(2):
        f = f + _newton((x + f.unsqueeze(-1)).softmax(-2), sums, rounding)[0]
    return (x + f.unsqueeze(-1)).softmax(-2)


def _sums(x: Tensor, slack: int) -> Tensor:
    n = x.shape[-2]
    last = torch.arange(n, device=x.device) == n - 1
    return torch.where(last, slack or 1, 1).to(x.dtype)


def _rounding(x: Tensor) -> Tensor:
    """How far row sums may be off by the rounding of x, ``(*batch,)``; its largest entry is 0. Rows of a hard matrix
    have no such errors, however large x is."""
    lowest = x.amin((-1, -2))
    return (-4 * torch.finfo(x.dtype).eps * lowest).clamp(1e-12, 1e-6)


def _newton(p: Tensor, sums: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """The step that makes the rows of p have these sums, to first order; and how far it moves two rows apart, d.

    The second derivative is the Laplacian of a network of rows, ``w_ik = sum_j p_ij p_kj``. Its diagonal is summed from
    the weights, so that nothing cancels, however near p is to a hard matrix. Rows that share less than the rounding are
    as good as apart: nobody knows the difference of their scales, and it changes no entry by more than this.

    A step of d >= 1 is made shorter: ``log(1 + d) / d`` of it lowers the function surely (Sun and Tran-Dinh 2019,
    "Generalized self-concordant functions", for functions like logsumexp).
    """
    n = p.shape[-2]
    same = torch.eye(n, dtype=torch.bool, device=p.device)
    w = (p @ p.mT).masked_fill(same, 0)
    # A number that is added to all scales changes nothing: the constant makes the step's mean 0.
    laplacian = torch.diag_embed(w.sum(-1) + rounding.unsqueeze(-1)) - w + 1 / n
    step = torch.linalg.solve_ex(laplacian, (sums - p.sum(-1)).unsqueeze(-1))[0].squeeze(-1)
    apart = (step.amax(-1) - step.amin(-1)).detach()
    factor = torch.where(apart < 1, 1, apart.log1p() / apart.clamp(min=1))
    return factor.unsqueeze(-1) * step, apart


def _solve(x: Tensor, slack: int) -> tuple[Tensor]:
    """From a high temperature down to 1, which is halved as soon as a step of Newton's method is short. -inf stands for
    an entry of 0; the largest entry of x is 0."""
    n, m = x.shape[-2:]
    rows = x.reshape(x.shape[:-2].numel(), n, m)
    allowed = rows.masked_fill(rows == -torch.inf, 0)
    sums, rounding = _sums(x, slack), _rounding(allowed)
    inverse = 1 / (-allowed.amin((-1, -2))).clamp(min=1)  # of the temperature
    f = x.new_zeros(len(rows), n)
    todo = torch.arange(len(rows), device=x.device)
    for _ in range(MOST_STEPS):
        if len(todo) == 0:
            break
        now = inverse[todo]
        p = (rows[todo] * now[:, None, None] + f[todo].unsqueeze(-1)).softmax(-2)
        step, apart = _newton(p, sums, rounding[todo])
        then = torch.where(apart < 1, (2 * now).clamp(max=1), now)
        f[todo] = (f[todo] + step) * (then / now).unsqueeze(-1)
        inverse[todo] = then
        wrong = (p.sum(-1) - sums).abs().amax(-1)
        todo = todo[~((now == 1) & (wrong < rounding[todo].clamp(min=1e-10)) & (apart < 0.01))]
    return (f.reshape(x.shape[:-1]),)


_scales = concrete(
    "sinkhorn_scales(Tensor x, SymInt slack) -> Tensor", _solve, lambda x, slack: x.new_empty(x.shape[:-1])
)
