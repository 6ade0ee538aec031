"""Time and peak memory of the contestants of a case, in turn, in one process.

Time is the median of many calls, warm. Contestants take turns, so that a machine that slows down slows all of them;
a turn begins with a call outside the time, or a rest (so that the threads of the contestant before go to sleep), and
times as many calls as fill a fifth of a millisecond.

Memory is measured by ``python -m benchmarks.measure`` in a process of its own, where freed memory goes back to the
system at once: the growth of its peak resident size in one warm call, less the result of that call. Pages count, so
figures below a megabyte are the allocator's. Linux only.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from .peers import Call
from .problem import Problem
from .quiet import Watch
from .registry import Case

OURS = "argumbel"
TURN = 2e-4  # seconds of work that a timing should last at least
WARM = 2e-2  # calls longer than this have no call outside the time before them, but a rest
REST = 5e-3
RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Timing:
    """Seconds a call: median and quartiles of ``samples`` turns."""

    median: float
    lower: float
    upper: float
    samples: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        lower, median, upper = statistics.quantiles(seconds * (2 if len(seconds) == 1 else 1), method="inclusive")
        return cls(median, lower, upper, len(seconds))


@dataclass
class Entry:
    """A contestant's figures, or the reason why there are none."""

    name: str
    library: str
    floor: bool = False
    timing: Timing | None = None
    memory: int | None = None  # bytes beyond inputs and result
    host: float | None = None  # of a call to a GPU, the seconds until it returns
    trouble: str | None = None


@dataclass
class Row:
    """A case and its contestants, ours first; ``failure`` is that of our check, and then there are no figures."""

    case: str
    op: str
    size: str
    elements: int
    entries: list[Entry] = field(default_factory=list)
    failure: str | None = None
    alone: list[float] | None = None  # of ours without the others: seconds a call, in each run (``alone.py``)

    @property
    def ours(self) -> Entry:
        return self.entries[0]

    def ratio(self, name: str) -> float | None:
        """How many times as long as ours the contestant takes."""
        theirs = next((e.timing for e in self.entries if e.name == name), None)
        return theirs.median / self.ours.timing.median if theirs and self.ours.timing else None

    def line(self, unit: str) -> str:
        """What is said while the benchmark runs; the unit is "ms" or "us"."""
        if self.failure:
            return f"{self.case}: CHECK FAILED, {self.failure}"
        if self.ours.timing is None:
            return f"{self.case}: {self.ours.trouble}"
        others = [f"{e.name} {self.ratio(e.name):.3g}x" for e in self.entries[1:] if e.timing]
        time = self.ours.timing.median * {"ms": 1e3, "us": 1e6}[unit]
        return f"{self.case}: {time:.3g} {unit}; {', '.join(others)}"


def reason(error: BaseException) -> str:
    """One line of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def absent(library: str) -> str:
    return f"{library} is not installed"


def contestants(case: Case) -> Iterator[tuple[Entry, Callable[[Problem], Call] | None]]:
    yield Entry("ours", OURS), case.op.ours
    for peer in case.peers:
        entry = Entry(peer.name, peer.library, peer.floor)
        if not peer.present:
            entry.trouble = absent(peer.library)
        yield entry, peer.make if peer.present else None


def measure(case: Case, seconds: float, least: int = 3, watch: Watch | None = None) -> Row:
    """``seconds`` of timing for each contestant (but at least so many turns, whatever they take), after our check."""
    row, calls = prepare(case, Problem(case.size))
    timings = (watch or Watch()).measure(case.name, lambda: take_turns(calls, seconds, least))
    for entry in row.entries:
        if entry.name in timings:
            entry.timing = Timing.of(timings[entry.name])
    return row


def prepare(case: Case, problem: Problem, check: bool = True, others: bool = True) -> tuple[Row, dict[str, Call]]:
    """Our check, and what is to be timed: warm calls of those contestants that can; none if the check fails."""
    row, calls = Row(case.name, case.op.name, str(case.size), case.size.elements), dict[str, Call]()
    try:
        if check:
            case.op.check(problem)
    except Exception as error:
        row.failure = reason(error)
        return row, calls
    for entry, make in islice(contestants(case), None if others else 1):
        row.entries.append(entry)
        if make is not None:
            try:
                call = make(problem)
                call()
                calls[entry.name] = call
            except Exception as error:
                entry.trouble = reason(error)
    return row, calls


def take_turns(calls: dict[str, Call], seconds: float, least: int = 3, most: int = 200) -> dict[str, list[float]]:
    """Seconds a call of every turn of every contestant."""
    once = {name: _time(call, 1) for name, call in calls.items()}
    loops = {name: max(1, round(TURN / max(once[name], 1e-7))) for name in calls}
    spent, taken = dict.fromkeys(calls, 0.0), {name: list[float]() for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(most):
            for name, call in calls.items():
                if spent[name] > seconds and len(taken[name]) >= least:
                    continue
                start = time.perf_counter()
                call() if once[name] < WARM else time.sleep(REST)
                taken[name].append(_time(call, loops[name]))
                spent[name] += time.perf_counter() - start
    finally:
        gc.enable()
    return taken


def _time(call: Call, loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


# --------------------------------------------------------------------------------------------------------------- memory


def measure_memory(rows: list[Row]) -> None:
    """Fill in ``memory`` of all entries that have a time, where the system can tell."""
    if not RESET.exists():
        return
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_ARENA_MAX": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    wanted = {row.case: [entry.name for entry in row.entries if entry.timing] for row in rows if not row.failure}
    process = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(wanted), str(torch.get_num_threads())],
        stdout=subprocess.PIPE, text=True, env=environment, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]
    found = {(case, name): size for case, name, size in lines}
    for row in rows:
        for entry in row.entries:
            entry.memory = found.get((row.case, entry.name))


def _peak(key: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(key))


def size_of(result: Any) -> int:
    """The size of what a call returned."""
    if isinstance(result, dict):
        return sum(map(size_of, result.values()))
    if isinstance(result, (tuple, list)):
        return sum(map(size_of, result))
    if hasattr(result, "memory_usage"):  # of a pandas frame
        return int(result.memory_usage(deep=True).sum())
    return int(result.nbytes) if hasattr(result, "nbytes") else sys.getsizeof(result)


def memory(call: Call) -> int:
    """Bytes that a warm call needs at its peak, beyond what it returns."""
    call()
    gc.collect()
    RESET.write_text("5")  # the peak starts again from here
    before = _peak("VmRSS")
    result = call()
    return max(0, _peak("VmHWM") - before - size_of(result))


def _main(wanted: dict[str, list[str]], threads: int) -> None:
    from .registry import CASES

    torch.set_num_threads(threads)
    for case in CASES:
        if case.name not in wanted:
            continue
        problem = Problem(case.size)
        for entry, make in contestants(case):
            if entry.name in wanted[case.name] and make is not None:
                print(json.dumps([case.name, entry.name, memory(make(problem))]), flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), int(sys.argv[2]))
