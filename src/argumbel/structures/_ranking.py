"""Rankings of items by their scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ..kernels import LOWEST
from ._base import checked_tau
from ._sumless import Sumless

__all__ = ["Ranking", "neural_sort", "soft_sort"]


class Ranking(Sumless):
    """A ranking of n items, best first: the indicator of an item is the number of items that it beats, n - 1 for the
    first and 0 for the last. The indicators are the corners of the permutahedron.

    Scores and indicators have the shape ``(*batch, n)``. A forbidden item is not there: it beats no item, and no item
    beats it, as in a shorter list. At least one item must be allowed. The methods are those of every structure
    (:class:`Structure`), with these differences:

    - ``argmax`` sorts: of all rankings y it has the largest ``<y, scores>``. Of equal items the lower index is better.
    - ``trace`` takes the best of the items that are left, one after another, so ``chosen`` is the order of the items,
      -1 at the end for those that are forbidden. With Gumbel noise its law is the Plackett-Luce law, and since the
      trace finds the argmax, this is the law of :func:`perturbed_argmax`, too.
    - ``log_partition``, ``marginals`` and ``sample`` are not there: no fast method is known for ``sum over y of exp(<y,
      scores>)``, the permanent of a matrix. (The Plackett-Luce law needs no such sum.)
    - :func:`stochastic_softmax` gives soft ranks: ``y_i = sum over places p of P[p, i] (n - 1 - p)``, where P is the
      matrix of :func:`neural_sort` or :func:`soft_sort` (``method="neuralsort"`` or ``"softsort"``) at the perturbed
      scores.

    A rank is rounded to the dtype of scores: up to 256 it is exact in bfloat16, up to 2048 in float16.

    Example:
        >>> import torch
        >>> from argumbel.structures import Ranking
        >>> scores = torch.tensor([0.9, -0.3, 1.5, 0.2])
        >>> Ranking().argmax(scores)
        tensor([2., 0., 3., 1.])
        >>> Ranking().trace(scores).chosen
        tensor([2, 0, 3, 1])

    Source: Plackett 1975, "The analysis of permutations"; Grover et al. 2019, "Stochastic optimization of sorting
    networks via continuous relaxations" (NeuralSort); Prillo and Eisenschlos 2020, "SoftSort".
    """

    noun = "ranking"
    trace_is_argmax = True
    methods = ("neuralsort", "softsort")
    no_partition = (
        "the permanent of a matrix, for which no fast method is known; use perturbed_argmax for rankings, whose law is "
        "Plackett-Luce, with trace_log_prob of trace for their probabilities"
    )

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if event[0] < 1:
            raise ValueError(f"{name} must have at least one item, but they have none; leave out a list without items")

    def _argmax(self, x: Tensor) -> Tensor:
        return self._trace(x)[0]

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = x.sort(dim=-1, descending=True, stable=True).indices
        place = order.argsort(-1).unsqueeze(-2)
        allowed = x > -torch.inf
        length = allowed.sum(-1, keepdim=True)
        steps = torch.arange(x.shape[-1], device=x.device)
        beaten = (length - 1 - place.squeeze(-2)).masked_fill(~allowed, 0)
        made = steps < length
        alive = (place >= steps.unsqueeze(-1)) & allowed.unsqueeze(-2) & made.unsqueeze(-1)
        return beaten, order.masked_fill(~made, -1), alive

    def _refuse_forbidden(
        self, indicators: Tensor, x: Tensor, bad: Tensor | None, whole: bool, name: str = "scores"
    ) -> Tensor | None:
        return bad if whole else self._refuse_impossible((x == -torch.inf).all(-1), bad, name)

    def some(self, scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Scores of which each row allows some item, -inf where forbidden, and 0 in rows that are bad."""
        x, bad, whole = self.prepared(scores, mask)
        bad = self._refuse_forbidden(x, x, bad, whole)
        return x if bad is None else x.masked_fill(self.wide(bad), 0), bad

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        (n,) = event
        orders = torch.tensor(list(itertools.permutations(range(n))), device="cpu")
        return n - 1 - orders.argsort(-1)

    def relax(self, values: Tensor, tau: Tensor, method: str) -> Tensor:
        x, bad = self.some(values, None)
        p = {"neuralsort": _neural_sort, "softsort": _soft_sort}[method](x, tau)
        beaten = (_lengths(x) - 1 - _places(x)).to(p.dtype)
        return self.marked((p * beaten.unsqueeze(-1)).sum(-2), bad)


def neural_sort(scores: Tensor, tau: float | Tensor = 1, *, mask: Tensor | None = None) -> Tensor:
    """``P[p, i] = softmax over i of ((n - 1 - 2 p) s_i - sum_k |s_i - s_k|) / tau``, s = scores: a relaxed permutation
    matrix, for the places p = 0, 1, ... from the best on.

    Each row sums to 1, and its largest entry is the item at this place. (Columns need not sum to 1.) Noise is added by
    the caller: with Gumbel noise on the scores, the order is that of the Plackett-Luce law.

    Args:
        scores: ``(*batch, n)``, any floating dtype; -inf forbids an item.
        tau: at least 0; a number, or a tensor that broadcasts to ``(*batch,)``. At 0 the result is the permutation
            matrix.
        mask: bool, broadcasts to scores; True where an item is allowed.

    Returns:
        ``(*batch, n, n)``, [place, item], in the dtype of scores. Of f forbidden items the columns are 0, and the last
        f rows, the places that nobody has, are 0 too.

    Raises:
        ValueError: NaN or +inf in scores, tau < 0, no item allowed, a mask of the wrong shape. On an accelerator, under
            ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: scores are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.structures import neural_sort
        >>> neural_sort(torch.tensor([0.0, 2.0, 1.0]), tau=0.1).round()
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])

    Source: Grover et al. 2019, "Stochastic optimization of sorting networks via continuous relaxations".
    """
    return _sorted(scores, tau, mask, _neural_sort)


def soft_sort(scores: Tensor, tau: float | Tensor = 1, *, mask: Tensor | None = None) -> Tensor:
    """``P[p, i] = softmax over i of -|t_p - s_i| / tau``, s = scores and t = s sorted, the largest first: a relaxed
    permutation matrix, for the places p = 0, 1, ... from the best on.

    Rows, columns and noise are those of :func:`neural_sort`.

    Args:
        scores, tau, mask: as :func:`neural_sort`.

    Returns:
        ``(*batch, n, n)``, [place, item], as :func:`neural_sort`.

    Raises:
        ValueError, TypeError: as :func:`neural_sort`.

    Example:
        >>> import torch
        >>> from argumbel.structures import soft_sort
        >>> soft_sort(torch.tensor([0.0, 2.0, 1.0]), tau=0.1).round()
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])

    Source: Prillo and Eisenschlos 2020, "SoftSort: a continuous relaxation for the argsort operator".
    """
    return _sorted(scores, tau, mask, _soft_sort)


def _sorted(scores: Tensor, tau: float | Tensor, mask: Tensor | None, sort: Callable[..., Tensor]) -> Tensor:
    x, bad = Ranking().some(scores, mask)
    t, frozen = checked_tau(tau, x, 1)
    p = sort(x, t)
    order = x.detach().sort(dim=-1, descending=True, stable=True).indices.unsqueeze(-1)
    hard = (order == torch.arange(x.shape[-1], device=x.device)) & (x > -torch.inf).unsqueeze(-2)
    p = torch.where(frozen.unsqueeze(-1), hard.to(p.dtype), p)
    return (p if bad is None else p.masked_fill(bad[..., None, None], torch.nan)).to(scores.dtype)


# x is float64 without NaN and +inf, and -inf where forbidden; tau broadcasts to x. Places are counted among the items
# that are allowed.


def _lengths(x: Tensor) -> Tensor:
    return (x > -torch.inf).sum(-1, keepdim=True)


def _places(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device)


def _neural_sort(x: Tensor, tau: Tensor) -> Tensor:
    allowed, weight = x > -torch.inf, _lengths(x) - 1 - 2 * _places(x)
    s = x.masked_fill(~allowed, 0)
    away = (s.unsqueeze(-1) - s.unsqueeze(-2)).abs()  # [item, other]
    spread = away.masked_fill(~allowed.unsqueeze(-2), 0).sum(-1)
    return _softmax(weight.unsqueeze(-1) * s.unsqueeze(-2) - spread.unsqueeze(-2), x, tau)


def _soft_sort(x: Tensor, tau: Tensor) -> Tensor:
    best_first = x.sort(dim=-1, descending=True, stable=True).values
    t, s = (v.masked_fill(v == -torch.inf, 0) for v in (best_first, x))
    return _softmax(-(t.unsqueeze(-1) - s.unsqueeze(-2)).abs(), x, tau)


def _softmax(logits: Tensor, x: Tensor, tau: Tensor) -> Tensor:
    """[place, item]; 0 at places, and for items, that are not there."""
    logits = (logits / tau.unsqueeze(-1)).masked_fill((x == -torch.inf).unsqueeze(-2), LOWEST)
    made = _places(x) < _lengths(x)
    return logits.softmax(-1).masked_fill(~made.unsqueeze(-1), 0)
