"""Sequences of classes, where neighbours depend on each other: linear-chain conditional random fields."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import broadcasts_to, can_raise, check_logits, count, floating, integers
from ..kernels import chain_log_partition, chain_marginals, viterbi
from ..noise import KeyedNoise
from ._base import Structure, compact, detached

__all__ = ["BestSequence", "Chain", "chain_scores"]


class BestSequence(NamedTuple):
    """The largest score of a chain, and the classes of the chain that has it."""

    values: Tensor
    sequences: Tensor


class Chain(Structure):
    """A sequence of classes, one for each of ``length`` places, where each two neighbours have a score: a linear chain.

    Scores and indicators have the shape ``(*batch, length - 1, classes, classes)``: entry [t, a, b] is the score of
    class a at place t followed by class b at t + 1. :func:`chain_scores` makes them of scores of the classes and of the
    transitions, :meth:`decode` makes the sequence of an indicator, and :meth:`encode` makes the indicator of a
    sequence. A chain has at least two places: one place alone has no neighbours, and is a :class:`OneHot`. The methods
    are those of every structure (:class:`Structure`), and cost ``length * classes^2``.

    - ``argmax`` is Viterbi's algorithm, and :meth:`viterbi` gives its result as a sequence. Of equal sequences it has
      the one with the lowest last class, and of these the one with the lowest class before it, and so on.
    - ``log_partition`` and ``marginals`` are the forward-backward algorithm. Weights are measured from the largest of
      each place, so the result is exact at any temperature.
    - ``sample`` draws the first class, and then each class given the one before it: exact, with one number of noise for
      each class at each place.
    - ``trace`` is refused: Viterbi's algorithm compares sums of many scores, so it is no race of single scores.

    Example:
        >>> import torch
        >>> from argumbel.structures import Chain, chain_scores
        >>> unary = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 1.0]])  # three places, two classes
        >>> stay = torch.eye(2)  # a class likes to be followed by itself
        >>> chain, scores = Chain(), chain_scores(unary, stay)
        >>> chain.decode(chain.argmax(scores))
        tensor([0, 1, 1])
        >>> observed = chain.encode(torch.tensor([0, 0, 1]), 2)
        >>> log_prob = (observed * scores).sum() - chain.log_partition(scores)  # of a conditional random field

    Source: Viterbi 1967, "Error bounds for convolutional codes"; Lafferty, McCallum and Pereira 2001, "Conditional
    random fields"; Frühwirth-Schnatter 1994, "Data augmentation and dynamic linear models" (samples).
    """

    event_ndim = 3
    noun = "chain"
    has_trace = False
    argmax_of_float32 = True

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if len(event) != 3 or event[0] < 1 or event[1] != event[2] or event[1] < 1:
            raise ValueError(
                f"{name} must have the shape (*batch, length - 1, classes, classes), of at least two places and one "
                f"class, but the last dimensions are {event}; pass chain_scores(unary, transition)"
            )

    def viterbi(self, scores: Tensor, *, mask: Tensor | None = None) -> BestSequence:
        """``(values, sequences)``: the largest score of a chain, ``(*batch,)``, in at least float32 and without a
        gradient, and the classes of this chain, int64 ``(*batch, length)``; -1 in a bad row. It is ``argmax`` without
        the indicator, which is much larger than a sequence."""
        x, bad, whole = self.prepared(detached(scores), mask, float32=True)
        path, best, _ = viterbi(x, ())
        if not whole:
            bad = self._refuse_impossible(best == -torch.inf, bad)
        if bad is not None:
            path, best = path.masked_fill(bad.unsqueeze(-1), -1), best.masked_fill(bad, torch.nan)
        return BestSequence(best.to(x.dtype), path)

    def decode(self, indicators: Tensor) -> Tensor:
        """The sequences of classes, int64 ``(*batch, length)``, of indicators ``(*batch, length - 1, classes,
        classes)``, bool or floating; -1 where an indicator is NaN."""
        if isinstance(indicators, Tensor) and indicators.dtype == torch.bool:
            indicators = indicators.float()
        check_logits(indicators, "indicators")
        if indicators.ndim < 3:
            raise ValueError(
                "indicators must have the shape (*batch, length - 1, classes, classes), but their shape is "
                f"{tuple(indicators.shape)}; pass what chain.argmax or chain.sample returned"
            )
        self.check_event(tuple(indicators.shape[-3:]), "indicators")
        n = indicators.shape[-1]
        values, pairs = indicators.flatten(-2).max(-1)
        classes = torch.cat([pairs // n, pairs[..., -1:] % n], -1)
        return classes.masked_fill(values.isnan().any(-1, keepdim=True), -1)

    def encode(self, sequences: Tensor, classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
        """The indicators ``(*batch, length - 1, classes, classes)`` of sequences of classes, integers ``(*batch,
        length)`` from 0 to ``classes - 1``; dtype is PyTorch's default dtype, unless it is given."""
        integers("sequences", sequences)
        n = count("classes", classes, least=1)
        if sequences.ndim < 1 or sequences.shape[-1] < 2:
            raise ValueError(
                "sequences must have the shape (*batch, length) with a length of at least 2, but their shape is "
                f"{tuple(sequences.shape)}; a place alone is a OneHot"
            )
        if can_raise(sequences) and not bool(((sequences >= 0) & (sequences < n)).all()):
            raise ValueError(
                f"sequences must have classes from 0 to {n - 1}, but some are below or above; pass a larger number of "
                "classes"
            )
        return _indicators(sequences.to(torch.int64), n, torch.get_default_dtype() if dtype is None else dtype)

    def _argmax(self, x: Tensor) -> Tensor:
        return _indicators(viterbi(x, ())[0], x.shape[-1], x.dtype)

    def _log_partition(self, x: Tensor) -> Tensor:
        return chain_log_partition(x)

    def _marginals(self, x: Tensor) -> Tensor:
        return chain_marginals(x)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """The marginals of a pair, where its first class is known, are the law of its second class."""
        length, n = x.shape[-3] + 1, x.shape[-1]
        g = noise.gumbel((*x.shape[:-3], length * n), dtype=torch.float64, device=x.device).unflatten(-1, (length, n))
        mu = chain_marginals(compact(x)).expand(x.shape)
        z = (mu[..., 0, :, :].sum(-1).log() + g[..., 0, :]).argmax(-1, keepdim=True)
        path = [z]
        for t in range(length - 1):
            at = z.unsqueeze(-1).expand(*z.shape, n)
            z = (mu[..., t, :, :].gather(-2, at).squeeze(-2).log() + g[..., t + 1, :]).argmax(-1, keepdim=True)
            path.append(z)
        return _indicators(torch.cat(path, -1), n, torch.bool)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        every = itertools.product(range(event[1]), repeat=event[0] + 1)
        return _indicators(torch.tensor(list(every), device="cpu"), event[1], torch.bool)


def chain_scores(unary: Tensor, transition: Tensor) -> Tensor:
    """``scores[t, a, b] = transition[t, a, b] + unary[t + 1, b]``, and ``unary[0, a]`` more for t = 0: the scores of a
    :class:`Chain`, from scores of its classes and of its transitions.

    So the score of a chain is the sum of the unary scores of its classes and of the scores of its transitions.

    Args:
        unary: ``(*batch, length, classes)``, any floating dtype, with a length of at least 2; -inf forbids a class.
        transition: ``(classes, classes)``, one for all places, or a shape that broadcasts to ``(*batch, length - 1,
            classes, classes)``; entry [..., a, b] is the score of class a followed by class b, and -inf forbids it.

    Returns:
        Scores ``(*batch, length - 1, classes, classes)``, differentiable in both.

    Raises:
        ValueError: a length below 2, or shapes that do not fit.
        TypeError: unary or transition is not a floating tensor.

    Example:
        >>> import torch
        >>> from argumbel.structures import chain_scores
        >>> chain_scores(torch.tensor([[1.0, 2.0], [10.0, 20.0]]), torch.zeros(2, 2))
        tensor([[[11., 21.],
                 [12., 22.]]])

    Source: Lafferty, McCallum and Pereira 2001, "Conditional random fields".
    """
    floating("unary", unary)
    floating("transition", transition)
    if unary.ndim < 2 or unary.shape[-2] < 2 or unary.shape[-1] < 1:
        raise ValueError(
            "unary must have the shape (*batch, length, classes), of at least two places and one class, but its shape "
            f"is {tuple(unary.shape)}; a place alone is a OneHot"
        )
    *lead, length, n = unary.shape
    wanted = (*lead, length - 1, n, n)
    if transition.ndim < 2 or transition.shape[-2:] != (n, n) or not broadcasts_to(transition.shape, wanted):
        raise ValueError(
            f"transition must have the shape {(n, n)}, or one that broadcasts to {wanted}, but its shape is "
            f"{tuple(transition.shape)}; pass a score for each two classes"
        )
    pairs = transition + unary[..., 1:, None, :]
    return torch.cat([pairs[..., :1, :, :] + unary[..., :1, :, None], pairs[..., 1:, :, :]], -3)


def _indicators(path: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    pairs = (path[..., :-1] * n + path[..., 1:]).unsqueeze(-1)
    flat = torch.zeros((*pairs.shape[:-1], n * n), dtype=dtype, device=path.device)
    put = flat.scatter_ if can_raise(path) else flat.scatter  # vmap cannot write to what it did not make
    return put(-1, pairs, 1).unflatten(-1, (n, n))
