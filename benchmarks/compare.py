"""``python -m benchmarks --compare old.json``, or ``--against old/bin/python``: did an operation become slower?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import alone
from .measure import Row
from .quiet import BUSY
from .report import Results, duration, table

GATE = 0.05  # a row that takes longer by more than this share is slower
AGAIN = 4  # times that a row which seems slower is measured again
#: What has to be the same: else the times are those of another machine, of other code, or of another interpreter.
SAME = ("CPU", "system", "threads", "kernels", "PyTorch's CPU path")

Measure = Callable[[Sequence[str]], list[Row]]


class Refused(Exception):
    """The old results cannot be compared with."""


@dataclass(frozen=True)
class Compared:
    """Seconds a call, before and now; or why there is no time now."""

    case: str
    old: float
    new: float | None
    failure: str | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.new is None else self.new / self.old

    @property
    def passed(self) -> bool:
        return self.ratio is not None and self.ratio <= 1 + GATE


def check(old: Results, now: dict[str, str]) -> None:
    """Raises Refused if the results are of another machine or instruction set."""
    for name in SAME:
        before, here = old.machine.get(name), now.get(name)
        if before != here:
            more = f"; set ARGUMBEL_KERNELS={old.kernels} to measure this path" if name == "kernels" else ""
            raise Refused(
                f"old results must be of the same machine and instruction set, but their {name!r} is {before!r} and "
                f"here it is {here!r}; --baseline stores results of the old code here{more}"
            )


def chosen(old: Results, cases: Sequence[str]) -> dict[str, float]:
    """The old times of these cases. Raises Refused if there is none of some case."""
    known = {row.case: alone.best(row.alone) for row in old.rows if row.alone}
    missing = [case for case in cases if case not in known]
    if missing:
        raise Refused(
            f"old results must have a time of ours alone for each row, but they have none for {'; '.join(missing)}; "
            "store one of the old code with --baseline and the same --only"
        )
    return {case: known[case] for case in cases}


def compare(old: dict[str, float], measure: Measure) -> list[Compared]:
    """Each case before and now. What seems slower is measured again, and the best of all its times counts."""
    rows: dict[str, Row] = {}
    for _ in range(1 + AGAIN):
        if wanted := _doubtful(old, rows):
            _add(rows, measure(wanted))
    return [_compared(seconds, rows[case]) for case, seconds in old.items()]


def in_turn(cases: Sequence[str], old: Measure, new: Measure) -> list[Compared]:
    """As `compare`, but the old code and the new take turns: a slower minute of the machine then meets both alike."""
    before: dict[str, Row] = {}
    rows: dict[str, Row] = {}
    times = dict.fromkeys(cases, 0.0)
    for _ in range(1 + AGAIN):
        wanted = _doubtful(times, rows)
        for turn in range(alone.RUNS if wanted else 0):
            for found, measure in ((before, old), (rows, new))[:: 1 if turn % 2 else -1]:
                _add(found, measure(wanted))
        for case, row in before.items():
            if row.failure or not row.alone:
                raise Refused(f"old code must pass the check of each row, but {case} fails it: {row.failure}")
            times[case] = alone.best(row.alone)
    return [_compared(times[case], rows[case]) for case in cases]


def _doubtful(old: dict[str, float], rows: dict[str, Row]) -> list[str]:
    """What is not measured yet, or seems slower."""
    return [
        c for c, seconds in old.items() if c not in rows or (rows[c].alone and not _compared(seconds, rows[c]).passed)
    ]


def _add(rows: dict[str, Row], more: Sequence[Row]) -> None:
    for row in more:
        known = rows.setdefault(row.case, row)
        if known is not row:
            known.alone = [*(known.alone or []), *(row.alone or [])]
            known.failure = known.failure or row.failure


def _compared(old: float, row: Row) -> Compared:
    return Compared(row.case, old, alone.best(row.alone) if row.alone and not row.failure else None, row.failure)


def lines(compared: Sequence[Compared]) -> str:
    """A table of all rows, and the verdict."""
    cells = [
        (
            c.case,
            duration(c.old),
            "" if c.new is None else duration(c.new),
            f"**{c.failure}**" if c.ratio is None else f"{c.ratio:.3f}",
            "" if c.passed else "**slower**" if c.ratio is not None else "**check failed**",
        )
        for c in compared
    ]
    bad = sum(not c.passed for c in compared)
    verdict = f"{bad} of {len(compared)} rows are slower by more than {GATE:.0%}, or wrong"
    return f"{table(('row', 'old', 'new', 'new / old', ''), cells, range(1, 4))}\n\n{verdict}"


def notes(old: Results, versions: dict[str, str]) -> list[str]:
    """What may explain a difference: other versions of libraries, or old results of a busy machine."""
    found = []
    for name, before in old.versions.items():
        if versions.get(name, before) != before:
            found.append(f"{name} was {before}, and is {versions[name]}")
    if old.others is not None and old.others > BUSY:
        found.append(f"other processes took {old.others:.0%} of the cores' time of the old results")
    return found
