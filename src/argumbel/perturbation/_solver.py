"""Solvers of discrete problems: a structure, or a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import can_raise, check_logits, count, forbid
from ..noise import work_dtype
from ..structures import Prepared, Structure, flat, prepare

__all__ = ["Solver", "as_solver"]


class Solver:
    """``argmax over y of <y, scores>``, by any function: what :func:`perturbed` asks, again and again.

    A solver gets no gradient and gives none. It is called with scores ``(*rows, *event)``, where rows are
    ``(num_samples, *batch)``, without a gradient.

    Args:
        function: from scores, and what ``args=`` gives it, to solutions ``(*rows, *any)``: numbers or bool. For a loss
            the solutions must have the shape of the scores.
        event_ndim: how many of the last dimensions belong to one problem.
        batched: True if the function takes all rows at once; False if it takes one problem, ``event``, at a time.
        numpy: True if the function wants arrays of NumPy. (It may return them in any case.)

    Example:
        >>> import torch
        >>> from argumbel.perturbation import Solver
        >>> from scipy.optimize import linear_sum_assignment
        >>> def assignment(scores):
        ...     rows, columns = linear_sum_assignment(scores, maximize=True)
        ...     solution = 0 * scores
        ...     solution[rows, columns] = 1
        ...     return solution
        >>> solver = Solver(assignment, event_ndim=2, batched=False, numpy=True)
        >>> solver(torch.tensor([[[0.0, 1.0], [3.0, 0.0]]]))
        tensor([[[0., 1.],
                 [1., 0.]]])
    """

    def __init__(
        self, function: Callable[..., Any], *, event_ndim: int = 1, batched: bool = True, numpy: bool = False
    ) -> None:
        if not callable(function):
            raise TypeError(
                f"solver must be a structure or a function of scores, but it is a {type(function).__name__}; pass a "
                "function that returns the best solution"
            )
        self.function, self.batched, self.numpy = function, batched, numpy
        self.event_ndim = count("event_ndim", event_ndim, least=1)

    def __call__(self, scores: Tensor, *args: Any) -> Tensor:
        """The solutions, ``(*rows, *any)``, in the dtype of scores."""
        scores = scores.detach()
        rows = scores.shape[: scores.ndim - self.event_ndim]
        if self.batched:
            found = self._one(scores, args)
        else:
            problems = scores.reshape(-1, *scores.shape[scores.ndim - self.event_ndim :])
            solved = [self._one(problem, args) for problem in problems]
            if any(y.shape != solved[0].shape for y in solved):
                shapes = sorted({tuple(y.shape) for y in solved})
                raise ValueError(
                    f"solver must return solutions of one shape, but it returned {shapes}; pad the smaller ones"
                )
            found = torch.stack(solved).reshape(*rows, *solved[0].shape) if solved else scores
        if found.shape[: len(rows)] != rows:
            raise ValueError(
                f"solver must return one solution for each problem, a shape that begins with {tuple(rows)}, but for "
                f"scores of shape {tuple(scores.shape)} it returned {tuple(found.shape)}; if it solves one problem at "
                "a time, pass Solver(function, batched=False), and event_ndim= says how many dimensions a problem has"
            )
        self._check_alone(scores, found, len(rows), args)
        return found

    def _one(self, scores: Tensor, args: tuple[Any, ...]) -> Tensor:
        """One call of the function. It gets a copy: a solver may write into its input."""
        copy = scores.clone()
        with torch.no_grad():
            found = self.function(copy.cpu().numpy() if self.numpy else copy, *args)
        try:
            found = found if isinstance(found, Tensor) else torch.as_tensor(found, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"solver must return a tensor, or an array of numbers, but it returned a {type(found).__name__}; "
                "return the indicator of the solution"
            ) from None
        return found.to(scores.device, scores.dtype)

    def _check_alone(self, scores: Tensor, found: Tensor, rows: int, args: tuple[Any, ...]) -> None:
        """Whether the first problem has the same solution alone. (Not with args, which may depend on the row.)"""
        if args or not self.batched or rows == 0 or not can_raise(scores) or math.prod(scores.shape[:rows]) < 2:
            return
        first = (slice(0, 1),) * rows
        if not torch.allclose(self._one(scores[first], args), found[first], equal_nan=True):
            raise ValueError(
                "solver must solve each problem for itself, but the first one has another solution alone than beside "
                "the others; look for sums, sorts or norms over the wrong dimension, or pass Solver(function, "
                "batched=False)"
            )

    def prepared(self, scores: Tensor, mask: Tensor | None) -> Prepared:
        """Scores in float64, -inf where forbidden; and which rows are bad."""
        check_logits(scores, "scores")
        if scores.ndim < self.event_ndim:
            raise ValueError(
                f"scores must have the {self.event_ndim} dimensions of a problem, and any before them, but the shape "
                f"is {tuple(scores.shape)}; pass (*batch, *event)"
            )
        return prepare(forbid(scores, mask, "scores").double(), self.event_ndim, "scores")

    def argmax(self, values: Tensor, dtype: torch.dtype, args: tuple[Any, ...]) -> Tensor:
        """The solutions for values in float64, which the function gets in the precision of the user's scores."""
        return self(values.detach().to(work_dtype(dtype)), *args).to(values.dtype)

    def indicators(self, values: Tensor, dtype: torch.dtype, args: tuple[Any, ...]) -> Tensor:
        """:meth:`argmax`, of which each solution must have the shape of its scores."""
        y = self.argmax(values, dtype, args)
        if y.shape != values.shape:
            raise ValueError(
                f"solver must return solutions in the shape {tuple(values.shape)} of the scores, but it returned "
                f"{tuple(y.shape)}; return the indicator of the parts that are used"
            )
        return y

    def flat(self, x: Tensor) -> Tensor:
        """The parts of a problem in one dimension."""
        return flat(x, self.event_ndim)


class _OfStructure(Solver):
    """A structure, asked in float64."""

    def __init__(self, structure: Structure) -> None:
        super().__init__(structure.argmax, event_ndim=structure.event_ndim)
        self.structure = structure

    def prepared(self, scores: Tensor, mask: Tensor | None) -> Prepared:
        return self.structure.prepared(scores, mask)

    def argmax(self, values: Tensor, dtype: torch.dtype, args: tuple[Any, ...]) -> Tensor:
        return self.structure.argmax(values)


def as_solver(solver: Any, args: tuple[Any, ...]) -> Solver:
    if isinstance(solver, Structure):
        if args:
            raise ValueError(f"args must be left out for a structure, but {len(args)} are given; they are for solvers")
        return _OfStructure(solver)
    if isinstance(solver, type) and issubclass(solver, Structure):
        raise TypeError(f"solver must be a structure, but it is the class {solver.__name__}; pass an object of it")
    return solver if isinstance(solver, Solver) else Solver(solver)
