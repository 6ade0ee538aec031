"""Did other processes take the cores while something was measured? Then it is measured again.

Linux tells how long each core was at work, in ticks of a hundredth of a second, and how long of it was for this process
and for its children that have ended. The rest is others': other processes, and what the host of a virtual machine took.
Where the system does not tell, nothing is ever disturbed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

BUSY = 0.05  # share of the cores' time, in others' hands, from which on times are not to be relied on
TICKS = 0.05  # seconds of the cores that a short window may miss by, since ticks are that coarse
PAUSES = (5.0, 30.0)  # seconds of rest before the second and before the third try: disturbances often end by themselves
STAT = Path("/proc/stat")

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Seconds of the cores, in a stretch of time: those that others took, and all of them."""

    others: float = 0.0
    whole: float = 0.0

    def __sub__(self, part: Window) -> Window:
        return Window(self.others - part.others, self.whole - part.whole)

    def __add__(self, part: Window) -> Window:
        return Window(self.others + part.others, self.whole + part.whole)

    @property
    def share(self) -> float | None:
        """Of the cores' time, what others took; None where the system does not tell."""
        return max(0.0, self.others) / self.whole if self.whole > 0 else None

    @property
    def disturbed(self) -> bool:
        return self.others > BUSY * self.whole + TICKS


class Disturbed(Exception):
    """Others took too much, each time that something was measured."""


class Watch:
    """Measures, and measures again what was disturbed.

    Args:
        again: whether to; else every measurement counts, however disturbed.

    ``total`` is the time of all measurements that count. What lies between them, such as imports, checks and compilers
    at work for a contestant, disturbs nothing.
    """

    def __init__(self, again: bool = False) -> None:
        self.again = again
        self.total = Window()

    @staticmethod
    def now() -> Window:
        """Since the machine started."""
        if not STAT.exists():
            return Window()
        user, nice, system, idle, wait, irq, soft, steal = (
            int(word) / os.sysconf("SC_CLK_TCK") for word in STAT.read_text().split()[1:9]
        )
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(u.ru_utime + u.ru_stime for u in usages)
        busy = user + nice + system + irq + soft + steal
        return Window(busy - own, busy + idle + wait)

    def measure(self, what: str, call: Callable[[], T]) -> T:
        """The result of a call that nothing disturbed.

        Raises:
            Disturbed: others took too much of the first try, of the second and of the third.
        """
        for pause in (*PAUSES, None):
            begin = self.now()
            result = call()
            window = self.now() - begin
            if not (self.again and window.disturbed):
                self.total += window
                return result
            if pause is not None:
                time.sleep(pause)
        raise Disturbed(
            f"{what}: other processes took {window.share:.0%} of the cores' time in the last of {len(PAUSES) + 1} tries"
        )
