"""What all structures share: the checks of scores, and results in the dtype of the scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, broadcasts_to, can_raise, check_logits, check_tau, forbid, sizes
from ..kernels import LAW_RACES, LOWEST, is_impossible, work_dtype
from ..noise import KeyedNoise
from ._noise import flat
from ._trace import Trace

__all__ = ["Prepared", "Structure", "check_structure", "checked_tau", "compact", "detached", "prepare"]


class Prepared(NamedTuple):
    """Scores, contiguous, -inf where forbidden, and 0 in bad rows; which rows are bad, ``(*batch,)``, or
    None where it is known that none is; and whether it is known that no part is forbidden."""

    x: Tensor
    bad: Tensor | None
    whole: bool


def prepare(x: Tensor, event_ndim: int, name: str) -> Prepared:
    """Scores, checked: a row with NaN or +inf is bad."""
    if can_raise(x):
        low, high = (float(end) for end in x.detach().aminmax()) if x.numel() else (0.0, 0.0)
        if not high < math.inf:
            which = "NaN" if math.isnan(high) else "+inf"
            raise ValueError(f"{name} must not be NaN or +inf, but some are {which}; find where they come from")
        whole = low > LOWEST
        return Prepared((x if whole else _forbidden(x)).contiguous(), None, whole)
    wrong = x.isnan() | (x == torch.inf)
    for _ in range(event_ndim):
        wrong = wrong.any(-1)
    x = _forbidden(x).masked_fill(wrong.reshape(*wrong.shape, *[1] * event_ndim), 0)
    return Prepared(x.contiguous(), wrong, False)


def _forbidden(x: Tensor) -> Tensor:
    """x with -inf where it is so low that sums take it for -inf, as the lowest number of float32 is."""
    return x.masked_fill(x <= LOWEST, -torch.inf)


def detached(x: Tensor) -> Tensor:
    return x.detach() if isinstance(x, Tensor) else x


def checked_tau(tau: float | Tensor, x: Tensor, event_ndim: int) -> tuple[Tensor, Tensor]:
    """tau in float64, which broadcasts to x, 1 where it is so small that it counts as 0; and where it is."""
    batch = tuple(x.shape[: x.ndim - event_ndim])
    if isinstance(tau, Tensor) and not broadcasts_to(tau.shape, batch):
        raise ValueError(
            f"tau must broadcast to the shape of the structures, {batch}, but its shape is {tuple(tau.shape)}; pass "
            "one tau for each structure, or one number"
        )
    rows = x.new_empty((*batch, 1))
    tau = check_tau(tau.unsqueeze(-1) if isinstance(tau, Tensor) else tau, rows, -1)
    t = torch.as_tensor(tau, dtype=torch.float64, device=x.device)
    t = t.reshape(*t.shape[:-1], *[1] * event_ndim) if t.ndim else t
    frozen = t < EXACT_BELOW
    return torch.where(frozen, 1, t), frozen


def compact(x: Tensor) -> Tensor:
    """x, where leading dimensions that repeat the same numbers (``expand``) have size 1."""
    for dim in range(x.ndim - 1):
        if x.stride(dim) == 0 and x.shape[dim] > 1:
            x = x.narrow(dim, 0, 1)
    return x


class Structure(ABC):
    """A set of structures, each given by the parts that it uses: ``y``, an indicator of the parts. The score of a
    structure is ``<y, scores>``, the sum of the scores of its parts.

    Scores have the shape ``(*batch, *event)``, any floating dtype, and indicators have the same shape and dtype. A
    score of -inf (or below -1e30), or ``mask=`` (bool, True where allowed), forbids a part. All methods compute in
    float64.

    =================== ======================================================== =====================================
    method              result                                                   promise
    =================== ======================================================== =====================================
    argmax              the structure with the largest score                     exact, no gradient
    log_partition       ``log sum over y of exp(<y, scores>)``                   its gradient is the marginals
    marginals           how likely each part is under ``P(y) ~ exp(<y, scores>)`` their Jacobian is the covariance
    sample              structures from P                                        *law*
    trace               how the race for a structure goes, step by step          no gradient
    enumerate           all structures, for small sizes                          in a fixed order
    =================== ======================================================== =====================================

    Raises (every method):
        ValueError: NaN or +inf in scores, a shape that does not fit the structure, or parts forbidden so that no
            structure is left. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: scores are not a floating tensor, or mask is not bool.
        NotImplementedError: by ``trace`` where ``has_trace`` is False; by ``log_partition``, ``marginals`` and
            ``sample`` where ``has_partition`` is False.
    """

    #: How many dimensions the parts have.
    event_ndim: int = 1
    #: Whether a structure knows the shape of its parts.
    knows_event: bool = False
    #: What one structure is called in messages.
    noun: str
    #: Whether there is a :meth:`trace`: whether the solver takes the largest of some scores, step by step.
    has_trace: bool = True
    #: Whether there is a :meth:`log_partition`, and so :meth:`marginals` and :meth:`sample`.
    has_partition: bool = True
    #: Whether :meth:`trace` finds the argmax.
    trace_is_argmax: bool = False
    #: Whether ``_argmax`` takes float32 as well: scores need not be copied then, and half precision becomes float32.
    argmax_of_float32: bool = False
    #: The names of the ways to relax a structure (``stochastic_softmax``), the default first.
    methods: tuple[str, ...] = ("marginals",)

    def argmax(self, scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The indicator of the structure with the largest score; of equal ones, parts with low indices come first."""
        indicators, bad = self.solve(self.prepared(detached(scores), mask, float32=self.argmax_of_float32))
        return self.marked(indicators.to(scores.dtype), bad)

    def solve(self, prepared: Prepared) -> tuple[Tensor, Tensor | None]:
        """:meth:`argmax` of what :meth:`prepared` gives, as the solver gives it, bool or a number; and the bad rows."""
        x, bad, whole = prepared
        indicators = self._argmax(x.detach())
        return indicators, self._refuse_forbidden(indicators, x, bad, whole)

    def log_partition(self, scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """``log Z``, shape ``(*batch,)``: the log of the sum of ``exp(<y, scores>)`` over all structures."""
        x, bad, whole = self.prepared(scores, mask)
        if whole:
            return self._log_partition(x).to(scores.dtype)
        log_z = self._log_partition(x.clamp(min=LOWEST))
        bad = self._refuse_impossible(is_impossible(log_z.detach()), bad)
        return (log_z if bad is None else log_z.masked_fill(bad, torch.nan)).to(scores.dtype)

    def marginals(self, scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """How likely each part is: the mean of the indicators under ``P(y) = exp(<y, scores>) / Z``."""
        x, bad = self._possible(scores, mask)
        return self.marked(self._marginals(x), bad).to(scores.dtype)

    def sample(
        self,
        scores: Tensor,
        sample_shape: tuple[int, ...] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Indicators ``(*sample_shape, *batch, *event)`` of structures drawn from ``exp(<y, scores>) / Z``.

        A *law* function: exact. One 64-bit seed is drawn from the generator (default PyTorch's global generator).
        """
        x, bad = self._possible(detached(scores), mask)
        x = x.expand(*sizes("sample_shape", sample_shape), *x.shape)
        seed = KeyedNoise.from_generator(generator, x.device).seed ^ LAW_RACES["structures"]
        indicators = self._sample(x, KeyedNoise(seed))
        return self.marked(indicators.to(scores.dtype), bad)

    def trace(self, values: Tensor, *, mask: Tensor | None = None) -> Trace:
        """The race for a structure: at each step the largest of the values that can still be chosen wins.

        ``values`` are perturbed scores, ``scores + noise`` with Gumbel noise, or scores. :class:`Trace` has the steps;
        ``trace_log_prob`` says how likely they were.

        Raises:
            NotImplementedError: the structure has no race (``has_trace``): its solver compares sums of values.
        """
        return self.race(values, mask=mask, name="values")

    def race(self, values: Tensor, *, mask: Tensor | None = None, name: str = "scores") -> Trace:
        """:meth:`trace`, where errors are about name: perturbed scores of a caller that has checked the noise."""
        if not self.has_trace:
            raise NotImplementedError(
                f"a {type(self).__name__} has no trace: its solver compares sums of many values, so no step of it is a "
                "race of single values; use sample for exact samples, or perturbed_argmax for the best under noise"
            )
        x, bad, whole = self.prepared(detached(values), mask, name)
        indicators, chosen, alive = self._trace(x)
        bad = self._refuse_forbidden(indicators, x, bad, whole, name)
        if bad is not None:
            chosen = chosen.masked_fill(bad.unsqueeze(-1), -1)
        return Trace(self.marked(indicators.to(values.dtype), bad), chosen, alive)

    def enumerate(self, *event: int) -> Tensor:
        """The indicators of all structures, ``(count, *event)``: bool, or int64 where they are more than 0 and 1. The
        shape of the parts is given where the structure does not know it. Their number grows fast: for tests, and for
        exact expectations.

        Raises:
            ValueError: a shape that does not fit the structure, or none where the structure does not know it.
            TypeError: sizes that are no integers.
        """
        event = sizes("event", event)
        if len(event) != self.event_ndim and not (self.knows_event and not event):
            example = ", ".join(str(size) for size in (2, 3, 3)[-self.event_ndim :])
            raise ValueError(
                f"event must be the shape of the parts of a {self.noun}, {self.event_ndim} sizes, but it is {event}; "
                f"pass enumerate({example}), say"
            )
        if event:
            self.check_event(event)
        return self._enumerate(event)

    @abstractmethod
    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        """Raise ValueError, about name, unless one structure has parts of this shape."""

    def parts(self, event: tuple[int, ...], device: torch.device) -> Tensor | None:
        """Where a structure may have a part, bool; None: everywhere. What is no part is ignored: it comes as 0."""
        return None

    # What a structure has to say. x is float64, contiguous, without NaN and +inf; forbidden parts are -inf for _argmax
    # and _trace, and LOWEST for the others. Results have the shape of x.

    @abstractmethod
    def _argmax(self, x: Tensor) -> Tensor:
        """bool, int64, or in the dtype of x; where no structure is left, one that uses forbidden parts."""

    @abstractmethod
    def _log_partition(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _marginals(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """bool; no number of the noise may be used twice."""

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indicators, bool or int64; chosen; alive (:class:`Trace`). Only where ``has_trace``."""
        raise NotImplementedError

    @abstractmethod
    def _enumerate(self, event: tuple[int, ...]) -> Tensor: ...

    def relax(self, values: Tensor, tau: Tensor, method: str) -> Tensor:
        """The relaxed structure of perturbed scores: the marginals at ``values / tau``; both are float64."""
        return self.marginals((values.clamp(min=LOWEST) / tau).clamp(min=LOWEST))

    def prepared(self, scores: Tensor, mask: Tensor | None, name: str = "scores", *, float32: bool = False) -> Prepared:
        """Scores as the methods of a structure take them: in float64, or in float32 where that will do."""
        check_logits(scores, name)
        if scores.ndim < self.event_ndim:
            raise ValueError(
                f"{name} must have {self.event_ndim} dimensions for the parts of a {self.noun}, and any before them, "
                f"but the shape is {tuple(scores.shape)}; pass (*batch, *event)"
            )
        event = tuple(scores.shape[scores.ndim - self.event_ndim :])
        self.check_event(event, name)
        x = forbid(scores, mask, name).to(work_dtype(scores.dtype) if float32 else torch.float64)
        parts = self.parts(event, scores.device)
        return prepare(x if parts is None else x.masked_fill(~parts, 0), self.event_ndim, name)

    def _possible(self, scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Scores with LOWEST where forbidden, and rows that are bad: where nothing is left, they are 0."""
        x, bad, whole = self.prepared(scores, mask)
        if whole:
            return x, bad
        x = x.clamp(min=LOWEST)
        bad = self._refuse_impossible(is_impossible(self._log_partition(x.detach())), bad)
        return x if bad is None else x.masked_fill(self.wide(bad), 0), bad

    def _refuse_forbidden(
        self, indicators: Tensor, x: Tensor, bad: Tensor | None, whole: bool, name: str = "scores"
    ) -> Tensor | None:
        """Which rows are bad, after a structure that uses a forbidden part was found in some: there was no other."""
        if whole:
            return bad
        return self._refuse_impossible(self.flat((indicators != 0) & (x == -torch.inf)).any(-1), bad, name)

    def _refuse_impossible(self, impossible: Tensor, bad: Tensor | None, name: str = "scores") -> Tensor | None:
        if not can_raise(impossible):
            return impossible if bad is None else bad | impossible
        if bool(impossible.any()):
            raise ValueError(
                f"{name} must leave at least one {self.noun}, but in some row the parts that are allowed (not -inf, "
                "and True in mask) make none; allow more parts"
            )
        return bad

    def marked(self, x: Tensor, bad: Tensor | None) -> Tensor:
        """x with NaN in bad rows."""
        return x if bad is None else x.masked_fill(self.wide(bad), torch.nan)

    def flat(self, x: Tensor) -> Tensor:
        """The parts in one dimension."""
        return flat(x, self.event_ndim)

    def wide(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape, *[1] * self.event_ndim)

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({own})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).items()))


def check_structure(structure: object) -> None:
    if not isinstance(structure, Structure):
        raise TypeError(
            f"structure must be an argumbel.structures.Structure, but it is a {type(structure).__name__}; pass "
            "SpanningTree(4), say"
        )
