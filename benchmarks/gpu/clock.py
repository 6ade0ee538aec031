"""Time, memory and graphs of calls on a GPU; and a stand-in for dry runs on the CPU.

The cache is flushed before every call, outside its time: a kernel that finds its logits in the cache is not one that
reads them from memory. Before a block of calls the device is given enough to do that the host gets ahead, so that the
time between two events is the device's and not Python's, as in a model that keeps its device busy. What a call costs
the host is a figure of its own. A contestant that waits for the device inside its call has that wait in both.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from .. import measure
from ..measure import size_of
from ..peers import Call

FLUSH = 256 << 20  # bytes, more than the cache of any GPU so far
COPIED = 1 << 30  # bytes of the copy whose bandwidth is the measure of others
ROUNDS = 5  # turns of each contestant
LEAD = 200  # flushes at most that the host is ahead by; about 20 ms


class Clock(Protocol):
    def take_turns(self, calls: dict[str, Call], seconds: float, least: int) -> dict[str, list[float]]: ...
    def host(self, call: Call) -> float | None: ...
    def memory(self, call: Call) -> int | None: ...
    def capture(self, call: Call) -> Call: ...


class Wall:
    """Of a dry run: what can be had on a CPU."""

    def take_turns(self, calls: dict[str, Call], seconds: float, least: int) -> dict[str, list[float]]:
        return measure.take_turns(calls, seconds, least)

    def host(self, call: Call) -> float | None:
        return None

    def memory(self, call: Call) -> int | None:
        return None

    def capture(self, call: Call) -> Call:
        return call


class Events:
    """Of a run on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.set_device(device)
        self._buffer = torch.empty(FLUSH, dtype=torch.int8, device=device)
        self._flush_seconds = statistics.median(self._block(self._buffer.zero_, 20, 0))

    def take_turns(self, calls: dict[str, Call], seconds: float, least: int, most: int = 200) -> dict[str, list[float]]:
        """Seconds a call of at most so many calls of each contestant, in rounds."""
        plans = {}
        for name, call in calls.items():
            call()
            once = statistics.median(self._block(call, 3, 0))
            count = math.ceil(min(max(seconds / once, least), most) / ROUNDS)
            ahead = _host_seconds(call) * (count + 1) / self._flush_seconds
            plans[name] = count, min(math.ceil(ahead), LEAD)
        taken: dict[str, list[float]] = {name: [] for name in calls}
        gc.collect()
        gc.disable()
        try:
            for _ in range(ROUNDS):
                for name, call in calls.items():
                    taken[name] += self._block(call, *plans[name])
        finally:
            gc.enable()
        return taken

    def _block(self, call: Call, count: int, lead: int) -> list[float]:
        """So many calls, one warm one before them, behind ``lead`` flushes."""
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for _ in range(lead):
            self._buffer.zero_()
        call()
        for start, end in events:
            self._buffer.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in events]

    def host(self, call: Call) -> float | None:
        """Seconds until a call returns, whether the device is done or not."""
        return _host_seconds(call)

    def memory(self, call: Call) -> int | None:
        """Bytes that a warm call allocates at its peak, beyond what it returns."""
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before - size_of(result))

    def capture(self, call: Call) -> Call:
        """The call as a CUDA graph; a replay returns what it writes its result to. Raises if it cannot be captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        # First, because a capture that fails half-way leaves the generator unusable.
        with synchronising_raises():
            call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> Any:
            graph.replay()
            return result

        return replay


@contextmanager
def synchronising_raises() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _host_seconds(call: Call) -> float:
    torch.cuda.synchronize()
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(taken)


def copy_bandwidth(clock: Clock, device: torch.device, count: int = COPIED) -> float:
    """Bytes read and written a second by a device copy of ``count`` bytes."""
    source = torch.zeros(count, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    taken = clock.take_turns({"copy": lambda: target.copy_(source)}, 0.05, 5)["copy"]
    return 2 * count / statistics.median(taken)
