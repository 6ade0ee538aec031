"""Times of our operations without other libraries, which a later run compares with (``compare.py``).

Beside others, the time of a call depends on what the contestant before it left in the caches; alone, it does not. Each
run is a process of its own (``python -m benchmarks.alone``), since where memory lies, and in pages of which size, is
decided once in a process and changes a time by more than the gate. A run takes the rows one after another, so that
some slow seconds of the machine meet each row in one run at most.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .measure import Row, Timing, prepare, take_turns
from .problem import Problem
from .quiet import Disturbed, Watch, Window
from .registry import CASES, Case

#: Each operation of the kernels at the main shape of its users: the logits of a language model's batch (64 x 32,000),
#: or one population. And two shapes at which other code takes the time: rows of ten (what is done once for a row), and
#: the latents of a small VAE (Python and autograd).
TEN = (
    "noise, 4,000,000",
    "categorical, 64 x 32,000",
    "categorical, 30,000 x 10",
    "categorical, many draws, 1,000,000 draws of 1,000,000",
    "gumbel_max, 64 x 32,000",
    "gumbel_topk, k = 50 of 64 x 32,000",
    "sample_without_replacement, k = 1,000 of 10,000,000",
    "gumbel_softmax, 64 x 32,000",
    "gumbel_softmax hard + backward, 100 x 30 x 10",
    "posterior_gumbel, 64 x 32,000",
)
RUNS = 5
SECONDS = 0.3  # of timing, for a row in a run

Found = tuple[str, float | None, str | None]  # case, seconds a call, failure of its check


def best(times: Sequence[float]) -> float:
    """The time that runs tell: the least of their medians.

    What disturbs a run (a neighbour, a lower clock, memory in small pages) makes it slower and never faster, and lasts
    longer than a row is timed; so the least of some runs comes back within the gate where their median does not. Within
    a run it is the median: draws are random, and the least of many calls would be that of the luckiest draw.
    """
    return min(times)


def measure(
    names: Sequence[str], watch: Watch, seconds: float = SECONDS, runs: int = RUNS, python: str = sys.executable
) -> list[Row]:
    """The rows of these cases, in the order of the registry: their check, and ``alone``, by the argumbel of ``python``.

    Raises:
        Disturbed: others took too much of the cores' time, again and again.
    """
    rows = [Row(c.name, c.op.name, str(c.size), c.size.elements) for c in CASES if c.name in set(names)]
    for run in range(runs):
        wanted = [row.case for row in rows if not row.failure]
        found = _run(wanted, seconds, run == 0, watch, python)
        for row in rows:
            if row.case in found:
                time, row.failure = found[row.case]
                row.alone = None if time is None else [*(row.alone or []), time]
    return rows


def _run(
    wanted: list[str], seconds: float, check: bool, watch: Watch, python: str
) -> dict[str, tuple[float | None, str | None]]:
    """Of each case, in a process of its own, seconds a call, or the failure of its check."""
    settings = {"again": watch.again, "threads": torch.get_num_threads()}
    asked = {"cases": wanted, "seconds": seconds, "check": check, **settings}
    ours = python == sys.executable  # another interpreter is asked for its own libraries
    environment = {name: value for name, value in os.environ.items() if ours or name != "PYTHONPATH"}
    process = subprocess.run(
        [python, "-m", __name__, json.dumps(asked)], stdout=subprocess.PIPE, text=True, check=False, env=environment
    )
    answer = json.loads(process.stdout.splitlines()[-1]) if process.returncode == 0 else None
    if answer is None:
        raise RuntimeError(f"a run of ours alone ended with {process.returncode}; its error is above")
    if "disturbed" in answer:
        raise Disturbed(answer["disturbed"])
    watch.total += Window(*answer["window"])
    return {name: (time, failure) for name, time, failure in answer["times"]}


def once(cases: Iterable[Case], seconds: float, check: bool, watch: Watch) -> list[Found]:
    """What a run does."""
    found: list[Found] = []
    for case in cases:
        row, calls = prepare(case, Problem(case.size), check, others=False)
        if row.failure or not calls:
            found.append((case.name, None, row.failure or row.ours.trouble))
            continue
        taken = watch.measure(case.name, lambda calls=calls: take_turns(calls, seconds))
        found.append((case.name, Timing.of(taken["ours"]).median, None))
    return found


def _main(asked: dict[str, Any]) -> None:
    torch.set_num_threads(asked["threads"])
    cases = [case for case in CASES if case.name in set(asked["cases"])]
    watch = Watch(asked["again"])
    try:
        times = once(cases, asked["seconds"], asked["check"], watch)
        print(json.dumps({"times": times, "window": (watch.total.others, watch.total.whole)}))
    except Disturbed as error:
        print(json.dumps({"disturbed": str(error)}))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
