"""Matchings of rows and columns."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..kernels import LOWEST, assignment, greedy_matching, sinkhorn, usable_pairs
from ._sumless import Sumless

__all__ = ["Matching"]


class Matching(Sumless):
    """A matching of n rows and m columns: each row gets a column of its own (if n > m, each column a row). For n = m it
    is a permutation matrix.

    Scores and indicators have the shape ``(*batch, n, m)``; entry [i, j] is for row i with column j. The methods are
    those of every structure (:class:`Structure`), with these differences:

    - ``argmax`` is the linear assignment of SciPy (``pip install 'argumbel[structures]'``), in float64, one matrix
      after another on the CPU. Of equal matchings it returns the one that SciPy finds, always the same.
    - ``trace`` is the greedy matching: the largest value wins, its row and its column leave, and so on. Where pairs are
      forbidden, only pairs that still leave a matching compete, so the race never ends too early.
    - ``log_partition``, ``marginals`` and ``sample`` are not there: their sum is the permanent of ``exp(scores)``,
      which nobody can compute fast.
    - :func:`stochastic_softmax` gives the matrix of Sinkhorn, ``diag(a) exp((scores + noise) / tau) diag(b)``: of all
      matrices Y whose rows and columns sum to 1 it has the largest ``<Y, scores + noise> + tau * entropy(Y)``. If
      n < m, rows sum to 1 and columns to at most 1: what a column lacks is the entry of a row that stands for m - n
      rows of equal scores. The sums hold within 1e-9, computed in float64, at any tau that is not below 1e-6 of the
      range of the scores. Entries that no matching of allowed pairs has are exactly 0. Derivatives up to the third are
      exact.

    These are three laws, and none of them is ``exp(score) / Z``. The matching of perturbed scores
    (:func:`perturbed_argmax`) has a law without a known density. The greedy matching of perturbed scores has the
    density :func:`trace_log_prob`, but is not the best matching. And the matrix of Sinkhorn is a function of the
    perturbed scores, not a mean of matchings under one of the laws.

    The cost of the argmax grows like n^3 (15 us for n = 10, 800 us for n = 100). Sinkhorn takes 5 to 50 steps of
    Newton's method, each a linear system of min(n, m) unknowns, whatever tau.

    Example:
        >>> import torch
        >>> from argumbel.structures import Matching, stochastic_softmax
        >>> scores = torch.tensor([[3.0, 2.0], [2.0, 0.0]])
        >>> Matching().argmax(scores)
        tensor([[0., 1.],
                [1., 0.]])
        >>> Matching().trace(scores).indicators  # greedy: 3 is the largest
        tensor([[1., 0.],
                [0., 1.]])
        >>> stochastic_softmax(Matching(), scores, tau=0.1, noise=torch.zeros(2, 2))
        tensor([[0.0067, 0.9933],
                [0.9933, 0.0067]])

    Source: Kuhn 1955, "The Hungarian method for the assignment problem"; Crouse 2016, "On implementing 2D rectangular
    assignment algorithms" (SciPy's); Sinkhorn 1964, "A relationship between arbitrary positive matrices and doubly
    stochastic matrices"; Mena et al. 2018, "Learning latent permutations with Gumbel-Sinkhorn networks"; Dulmage and
    Mendelsohn 1958, "Coverings of bipartite graphs" (which pairs some matching has).
    """

    event_ndim = 2
    noun = "matching"
    methods = ("sinkhorn",)
    no_partition = (
        "a permanent, for which no fast method can exist (it is #P-hard); use perturbed_argmax for matchings, "
        "stochastic_softmax (Sinkhorn) for a relaxed one, or trace, whose law is known"
    )

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if min(event) < 1:
            raise ValueError(
                f"{name} must have at least one row and one column, but the shape of a matrix is {event}; leave out a "
                "matching without pairs"
            )

    def _argmax(self, x: Tensor) -> Tensor:
        return assignment(x)

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made, chosen, rounds = greedy_matching(x)
        steps = torch.arange(chosen.shape[-1], device=x.device)
        return made, chosen, steps[:, None, None] < rounds.unsqueeze(-3)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        n, m = event
        if n > m:
            return self._enumerate((m, n)).mT
        columns = torch.tensor(list(itertools.permutations(range(m), n)), device="cpu")
        return columns.unsqueeze(-1) == torch.arange(m, device="cpu")

    def relax(self, values: Tensor, tau: Tensor, method: str) -> Tensor:
        n, m = values.shape[-2:]
        if n > m:
            return self.relax(values.mT, tau, method).mT
        x, bad, _ = self.prepared(values, None)
        usable, spare = usable_pairs(x > LOWEST)
        bad = self._refuse_impossible(~self.flat(usable).any(-1), bad)
        if bad is not None:
            usable, spare = usable | self.wide(bad), spare | bad.unsqueeze(-1)
        if n < m:  # one row for all that the columns lack
            x = torch.nn.functional.pad(x, (0, 0, 0, 1))
            usable = torch.cat([usable, spare.unsqueeze(-2)], -2)
        x = (x.masked_fill(~usable, 0) / tau).masked_fill(~usable, LOWEST)
        return self.marked(sinkhorn(x, m - n)[..., :n, :], bad)
