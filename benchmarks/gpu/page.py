"""RESULTS_GPU.md: targets first, then exactness, graphs, and every figure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch

from .. import machine, report
from ..exactness import Finding
from ..measure import Entry, Row, absent
from ..report import duration, megabytes, number, table
from . import tails
from .cases import CASES, REPLAYED, GpuCase, select

TITLE = "# Benchmark results on a GPU"
LIBRARIES = (*machine.LIBRARIES[:4], "triton", "flashinfer-python", "vllm")


@dataclass
class GpuResults(report.Results):
    """Everything a run found out. ``replays`` are rows of CUDA graphs, ``bandwidth`` bytes a second of a copy."""

    replays: list[Row] = field(default_factory=list)
    bandwidth: float = 0.0

    def add(self, other: GpuResults) -> None:
        """What ``other`` has measured takes the place of the same here."""
        mine, theirs = ({**r.machine, "date": ""} for r in (self, other))
        if mine != theirs:
            raise ValueError(f"results of different machines or versions: {mine} and {theirs}")
        self.rows = list({row.case: row for row in [*self.rows, *other.rows]}.values())
        self.replays = list({row.case: row for row in [*self.replays, *other.replays]}.values())
        found = [*self.findings, *other.findings]
        self.findings = list({(f.question, f.library, f.contestant): f for f in found}.values())
        self.troubles += other.troubles
        self.bandwidth = other.bandwidth


def describe(device: torch.device) -> dict[str, str]:
    about = machine.describe(machine.cores())
    kept = {name: about[name] for name in ("date", "system", "kernels", "CPU")}
    kept["CPU kernels"] = kept.pop("kernels")
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions(LIBRARIES).items())
    if device.type != "cuda":
        return {**kept, "versions": versions}
    own = torch.cuda.get_device_properties(device)
    gpu = (
        f"{own.name}, {own.total_memory / 2**30:.0f} GiB, {own.multi_processor_count} multiprocessors, "
        f"{own.L2_cache_size / 2**20:.0f} MiB of L2 cache"
    )
    return {"GPU": gpu, "driver": _driver(), "CUDA": str(torch.version.cuda), **kept, "versions": versions}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def write(results: GpuResults, folder: Path) -> Path:
    page = folder / "RESULTS_GPU.md"
    page.write_text(markdown(results))
    return page


def markdown(results: GpuResults) -> str:
    title = "# A dry run at tiny sizes: no figure here says anything about a GPU" if results.quick else TITLE
    parts = [title, report.machine(results, "python -m benchmarks.gpu")]
    if results.bandwidth:
        parts[1] += f"\n\nA device copy moves {number(results.bandwidth / 1e9)} GB/s, read and written."
    rows = [report.target_row(judged) for judged in report.judge(results.rows, _cases(results))]
    rows += [_keyed_target(f) for f in results.findings if f.question == tails.KEYS]
    if rows:
        more = " Against `torch.argmax` it is the share of its bandwidth, since both read the same tensor."
        parts.append(report.target_table(rows, more))
    if results.findings:
        parts.append(report.exactness([results], tails.QUESTIONS))
    if results.replays:
        parts.append(_replays(results))
    if results.rows:
        parts.append(_figures(results))
    return "\n\n".join(parts) + "\n"


def _cases(results: GpuResults) -> list[GpuCase]:
    return select([*CASES, *REPLAYED], [], results.quick)


def _keyed_target(f: Finding) -> tuple[str, ...]:
    mark = {"pass": "reached", "fail": "**missed**"}.get(f.verdict, "not measured")
    return "same key, CPU and GPU", f.contestant, "draws that differ", "0", f.measured, mark


# -------------------------------------------------------------------------------------------------------------- figures


def _figures(results: GpuResults) -> str:
    parts = [
        "## Times and memory",
        "Time: of the device, median of calls with a cold cache. Host: until a call returns. GB/s: what the operation "
        "has to read and write at least, over our time; and its share of that of a device copy. Others: how many times "
        "as long as ours they take. Floors (*in italics*) do less than the operation. Memory: megabytes that a call "
        "allocates at its peak, beyond its inputs and its result.",
    ]
    for op, own in _by_op(results.rows, results):
        parts += [f"### {op}", _times(own, results), _troubles(own)]
        if any(e.memory is not None for row in own for e in row.entries):
            parts += ["Memory, MB:", _grid(own, ("ours",), _our_memory, lambda _, e: megabytes(e.memory))]
    return "\n\n".join(part for part in parts if part)


def _by_op(rows: list[Row], results: GpuResults) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each operation, ordered by items, then dtype, then batch."""
    sizes = {case.name: case.size for case in _cases(results)}

    def place(row: Row) -> tuple[str, int, str, tuple[int, ...]]:
        size = sizes[row.case]
        return row.op, size.shape[-1], str(size.dtype), size.shape

    for op, group in groupby(sorted(rows, key=place), key=lambda row: row.op):
        yield op, list(group)


def _times(rows: list[Row], results: GpuResults) -> str:
    moved = {case.name: case.bytes for case in _cases(results)}

    def ours(row: Row) -> tuple[str, ...]:
        if row.failure:
            return f"**check failed**: `{row.failure}`", "", "", ""
        if row.ours.timing is None:
            return row.ours.trouble or "not measured", "", "", ""
        t, host = row.ours.timing.median, row.ours.host
        speed = moved[row.case] / t
        share = f"{speed / results.bandwidth:.0%}" if results.bandwidth else ""
        return duration(t), "" if host is None else duration(host), number(speed / 1e9), share

    return _grid(rows, ("ours", "host", "GB/s", "of a copy"), ours, _ratio)


def _ratio(row: Row, entry: Entry) -> str:
    ratio = row.ratio(entry.name)
    return "" if ratio is None else f"{number(ratio)}x"


def _our_memory(row: Row) -> tuple[str, ...]:
    return ("check failed",) if row.failure else (megabytes(row.ours.memory),)


def _grid(
    rows: list[Row],
    head: tuple[str, ...],
    ours: Callable[[Row], tuple[str, ...]],
    cell: Callable[[Row, Entry], str],
) -> str:
    """A line for each size, a column for each contestant that has a time anywhere."""
    others = {e.name: e.floor for row in rows for e in row.entries[1:] if e.timing}
    names = [f"*{name}*" if floor else f"`{name}`" for name, floor in others.items()]
    lines = []
    for row in rows:
        entries = {e.name: e for e in row.entries}
        cells = [cell(row, entries[name]) if name in entries else "" for name in others]
        lines.append((row.size, *ours(row), *cells))
    return table(("size", *head, *names), lines, range(1, 1 + len(head) + len(names)))


def _troubles(rows: Iterable[Row]) -> str:
    """Who has no time, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for e in row.entries[1:]:
            if e.trouble:
                found.setdefault((e.name, e.trouble), []).append("" if e.trouble == absent(e.library) else row.size)
    lines = []
    for (name, trouble), sizes in found.items():
        where = ", ".join(size for size in sizes if size)
        lines.append(f"- `{name}`: {trouble}{f' ({where})' if where else ''}")
    return "\n".join(lines)


def _replays(results: GpuResults) -> str:
    parts = [
        "## CUDA graphs",
        "One call captured as a graph, and replayed. Before the capture it must not wait for the device; after it, "
        "replays of ours must be draws of their own that follow the law.",
    ]
    for op, own in _by_op(results.replays, results):
        parts += [f"### {op}, replayed", _times(own, results), _troubles(own)]
    return "\n\n".join(part for part in parts if part)
