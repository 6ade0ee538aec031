"""Schedules: tau, or any other number, as a pure function of the step.

A schedule holds no state. So a run that resumes at step n continues with exactly the value it would have had, and the
value of any step can be computed, in any order. (A tau that is multiplied by a factor at every call is wrong as soon as
a step is repeated or skipped, or a run resumes.)

>>> from argumbel.schedules import Exponential, parse
>>> tau = Exponential(start=1.0, rate=1e-4, floor=0.5, every=1000)
>>> tau(0), tau(999), round(tau(1000), 4), tau(1_000_000)
(1.0, 1.0, 0.9048, 0.5)
>>> parse("exp:1,1e-4,0.5,1000") == tau
True
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, SupportsIndex

from ._core.checks import number

__all__ = [
    "Constant",
    "Exponential",
    "HalfCosine",
    "Linear",
    "QuarterCosine",
    "Schedule",
    "from_state_dict",
    "parse",
]


@dataclass(frozen=True)
class Schedule:
    """``schedule(step) -> float``: the base of every schedule.

    A subclass is a frozen dataclass of numbers with a ``kind`` (its name in text) and a method ``value(step)``. The
    base checks the numbers and the step, and writes and reads the text and dictionary forms.

    Raises:
        TypeError: a step that is not an integer, or a parameter that is not a number.
        ValueError: a negative step; a parameter that is negative or not finite; ``steps`` or ``every`` that is not a
            whole number of at least 1.
    """

    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = f"{field.name} of {type(self).__name__}", getattr(self, field.name)
            if field.name in ("every", "steps"):
                try:
                    value = 0 if isinstance(value, bool) else operator.index(value)
                    whole = value >= 1
                except TypeError:
                    whole = False
                if not whole:
                    raise ValueError(
                        f"{name} must be a whole number, at least 1, but it is {value!r}; count steps of the optimiser"
                    )
            else:
                value = number(name, value, least=0, below=math.inf)
            object.__setattr__(self, field.name, value)  # Python's own numbers, which text and JSON can hold

    def value(self, step: int) -> float:
        """The value at a step that is already checked."""
        raise NotImplementedError

    def __call__(self, step: SupportsIndex) -> float:
        try:
            n = operator.index(step)
        except TypeError:
            raise TypeError(f"step must be an integer, but it is {step!r}; count optimiser steps, not epochs") from None
        if n < 0:
            raise ValueError(f"step must be at least 0, but it is {n}; the first step is step 0")
        return self.value(n)

    def state_dict(self) -> dict[str, Any]:
        """The parameters and ``kind``. There is nothing else to save: the caller counts the steps."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that ``state`` describes this schedule.

        A schedule never changes, so it cannot load other parameters; :func:`argumbel.schedules.from_state_dict` builds
        the schedule that a state describes.

        Raises:
            ValueError: ``state`` describes another schedule, or none.
        """
        other = from_state_dict(state)
        if other != self:
            raise ValueError(
                f"state must describe this schedule, {self}, but it describes {other}; "
                "start from the same parameters, or build the saved schedule with schedules.from_state_dict(state)"
            )

    def __str__(self) -> str:
        numbers = (repr(getattr(self, f.name)).removesuffix(".0") for f in fields(self))
        return f"{self.kind}:" + ",".join(numbers)


@dataclass(frozen=True)
class Constant(Schedule):
    """``tau(n) = start``.

    Args:
        start: the value, at least 0.

    Example:
        >>> Constant(0.7)(123)
        0.7
    """

    start: float
    kind: ClassVar[str] = "constant"

    def value(self, step: int) -> float:
        return float(self.start)


@dataclass(frozen=True)
class Exponential(Schedule):
    """``tau(n) = max(floor, start * exp(-rate * m))`` with ``m = n - n % every``.

    Args:
        start: the value at step 0, at least 0.
        rate: the rate of decay per step, at least 0.
        floor: the least value, at least 0.
        every: how many steps a value is held, at least 1.

    Published settings: Jang et al. 2017 use ``max(0.5, exp(-r n))`` with r in {1e-5, 1e-4}, refreshed every 500 or
    1000 steps, and their code ``Exponential(1.0, 3e-5, 0.5, every=1000)``. wav2vec 2.0 (Baevski et al. 2020) uses
    ``max(0.5, 2 * 0.999995**n)``, which is ``Exponential.from_factor(2.0, 0.999995, floor=0.5)``.

    Example:
        >>> Exponential(1.0, 3e-5, 0.5, every=1000)(30_000)
        0.5
        >>> round(Exponential.from_factor(2.0, 0.999995, floor=0.5)(100_000), 4)
        1.2131
    """

    start: float
    rate: float
    floor: float = 0.0
    every: int = 1
    kind: ClassVar[str] = "exp"

    @classmethod
    def from_factor(cls, start: float, factor: float, floor: float = 0.0, every: int = 1) -> Exponential:
        """``max(floor, start * factor**m)`` with ``m = n - n % every``: multiplied by ``factor`` at each step.

        Args:
            start: the value at step 0, at least 0.
            factor: above 0 and at most 1; ``rate`` is ``-log(factor)``.
            floor: the least value, at least 0.
            every: how many steps a value is held, at least 1.

        Raises:
            ValueError: factor is not above 0 and at most 1; a number that :class:`Exponential` does not take.
        """
        factor = number("factor", factor)
        if not 0.0 < factor <= 1.0:
            raise ValueError(f"factor must be above 0 and at most 1, but it is {factor!r}; 1 keeps the value constant")
        return cls(start, -math.log(factor), floor, every)

    def value(self, step: int) -> float:
        held = step - step % self.every
        return max(float(self.floor), self.start * math.exp(-self.rate * held))


@dataclass(frozen=True)
class Linear(Schedule):
    """``tau(n) = start + (end - start) * min(n / steps, 1)``.

    Args:
        start: the value at step 0, at least 0.
        end: the value from step ``steps`` on, at least 0.
        steps: how many steps the value takes from start to end, at least 1.

    Published setting: GDAS (Dong and Yang 2019) decreases tau linearly from 10 to 0.1 over the whole search.

    Example:
        >>> Linear(10.0, 0.1, steps=100)(50)
        5.05
    """

    start: float
    end: float
    steps: int
    kind: ClassVar[str] = "linear"

    def value(self, step: int) -> float:
        t = min(step / self.steps, 1.0)
        return (1.0 - t) * self.start + t * self.end


@dataclass(frozen=True)
class HalfCosine(Schedule):
    """``tau(n) = end + (start - end) * (1 + cos(pi t)) / 2`` with ``t = min(n / steps, 1)``: flat at both ends.

    Args:
        start: the value at step 0, at least 0.
        end: the value from step ``steps`` on, at least 0.
        steps: how many steps the value takes from start to end, at least 1.

    Published setting: taming transformers (Esser et al. 2021) decrease the tau of their Gumbel quantiser from 0.9 to
    1e-6.

    Example:
        >>> HalfCosine(1.0, 0.0, steps=100)(50)
        0.5
    """

    start: float
    end: float
    steps: int
    kind: ClassVar[str] = "half_cosine"

    def value(self, step: int) -> float:
        if step >= self.steps:
            return float(self.end)
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class QuarterCosine(Schedule):
    """``tau(n) = end + (start - end) * cos(pi t / 2)`` with ``t = min(n / steps, 1)``: flat at the start only.

    Args:
        start: the value at step 0, at least 0.
        end: the value from step ``steps`` on, at least 0.
        steps: how many steps the value takes from start to end, at least 1.

    Published setting: the discrete VAE of DALL-E (Ramesh et al. 2021) decreases tau from 1 to 1/16 over 150,000
    updates.

    Example:
        >>> round(QuarterCosine(1.0, 1 / 16, steps=150_000)(75_000), 4)
        0.7254
    """

    start: float
    end: float
    steps: int
    kind: ClassVar[str] = "quarter_cosine"

    def value(self, step: int) -> float:
        if step >= self.steps:
            return float(self.end)
        return self.end + (self.start - self.end) * math.cos(0.5 * math.pi * step / self.steps)


_KINDS: dict[str, type[Schedule]] = {c.kind: c for c in (Constant, Exponential, Linear, HalfCosine, QuarterCosine)}


def _known() -> str:
    return "; ".join(f"{kind}:" + ",".join(f.name for f in fields(cls)) for kind, cls in _KINDS.items())


def from_state_dict(state: dict[str, Any]) -> Schedule:
    """The schedule that a ``state_dict`` describes: ``from_state_dict(schedule.state_dict()) == schedule``.

    Args:
        state: what the ``state_dict`` of a schedule returned.

    Returns:
        A schedule of the kind that the state names.

    Raises:
        ValueError: an unknown kind, or other parameters than the parameters of the kind.

    Example:
        >>> from_state_dict({"kind": "linear", "start": 1.0, "end": 0.5, "steps": 10})
        Linear(start=1.0, end=0.5, steps=10)
    """
    parameters = dict(state)
    kind = parameters.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(
            f"state must have a kind, one of {', '.join(_KINDS)}, but its kind is {kind!r}; pass what "
            "state_dict() returned"
        )
    names = {f.name for f in fields(_KINDS[kind])}
    if set(parameters) != names:
        raise ValueError(
            f"state of kind {kind} must have the parameters {sorted(names)}, but it has {sorted(parameters)}; "
            "pass what state_dict() returned"
        )
    return _KINDS[kind](**parameters)


def parse(text: str) -> Schedule:
    """A schedule from text, ``kind:number,number,...``, so that ``parse(str(schedule)) == schedule``.

    Args:
        text: a kind and the arguments of its class in their order: ``constant:start``, ``exp:start,rate,floor,every``,
            ``linear:start,end,steps``, ``half_cosine:start,end,steps`` or ``quarter_cosine:start,end,steps``. Arguments
            at the end that have a default may be left out.

    Returns:
        A schedule of the kind that the text names.

    Raises:
        ValueError: an unknown kind, too few or too many numbers, text that is not a number, or a number that the
            schedule does not take.

    Example:
        >>> parse("constant:0.5")
        Constant(start=0.5)
        >>> str(parse("exp:1.0,3e-5,0.5,1000"))
        'exp:1,3e-05,0.5,1000'
    """
    kind, _, rest = text.strip().partition(":")
    kind = kind.strip()
    if kind not in _KINDS:
        raise ValueError(f"schedule must be one of {_known()}, but it is {text!r}; begin with one of these kinds")
    cls = _KINDS[kind]
    words = [w.strip() for w in rest.split(",")] if rest.strip() else []
    known = fields(cls)
    form = f"{kind}:" + ",".join(f.name for f in known)
    if len(words) > len(known):
        raise ValueError(f"schedule must be {form}, but {text!r} has {len(words)} numbers; leave some out")
    values: dict[str, float] = {}
    for field, word in zip(known, words, strict=False):
        try:
            parsed = float(word)
        except ValueError:
            raise ValueError(
                f"{field.name} of schedule {kind} must be a number, but it is {word!r} in {text!r}; write {form}"
            ) from None
        values[field.name] = int(parsed) if field.name in ("every", "steps") and parsed.is_integer() else parsed
    try:
        return cls(**values)
    except TypeError:
        raise ValueError(f"schedule must be {form}, but {text!r} has only {len(words)} numbers; add some") from None
