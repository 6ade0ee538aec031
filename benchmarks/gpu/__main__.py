"""``python -m benchmarks.gpu``: run, and write RESULTS_GPU.md and results_gpu.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from .. import machine
from ..measure import Row, Timing, prepare, reason
from ..problem import Problem
from . import cases, clock, page, tails

PARTS = ("keys", "tails", "graphs")
RESERVE = 45  # seconds kept for the graphs, which come last
console = Console(highlight=False, width=140)


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only cases whose name has this word; also 'keys', 'tails', 'graphs'. Repeatable."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A dry run at tiny sizes, which writes nothing.")] = False,
    device: Annotated[str, typer.Option(help="Where to run; 'cpu' for a dry run alone.")] = "cuda",
    out: Annotated[Path, typer.Option(help="The folder for what is written.")] = Path(__file__).parent.parent,
    minutes: Annotated[float, typer.Option(min=0, help="Cases not begun by then are left out, and named.")] = 8.0,
    seconds: Annotated[float, typer.Option(min=0, help="Device time for a contestant at a size.")] = 0.05,
    patience: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds for a contestant on a question of exactness; default 3, quick 0.05."),
    ] = None,
    redraw: Annotated[
        list[Path] | None,
        typer.Option(help="Measure nothing: write the page of these results, later ones over earlier. Repeatable."),
    ] = None,
) -> None:
    """The kernels on a GPU beside PyTorch's: time, memory, graphs and exactness."""
    if redraw:
        results = page.GpuResults.load(redraw[0])
        for path in redraw[1:]:
            results.add(page.GpuResults.load(path))
        finish(results, out)
        return
    where = torch.device(device)
    if where.type != "cuda" and not quick:
        raise typer.BadParameter("there is nothing to measure but on a GPU; add --quick for a dry run")
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise typer.BadParameter("PyTorch finds no CUDA device; --device cpu --quick is a dry run")
        where = torch.device("cuda", where.index or 0)
    patience = patience if patience is not None else 0.05 if quick else 3.0
    results = page.GpuResults(page.describe(where), machine.versions(page.LIBRARIES), quick=quick)
    started = time.perf_counter()
    if not quick:
        out.mkdir(parents=True, exist_ok=True)
    for _ in run(results, only or [], where, 60 * minutes, seconds, patience):
        if not quick:
            results.save(out / "results_gpu.json")  # a run that breaks off leaves what it had
    console.print(f"{time.perf_counter() - started:.0f} seconds")
    if quick:
        console.print(page.markdown(results), markup=False, soft_wrap=True)
        console.print("A dry run: nothing was written.")
    else:
        finish(results, out)
    if any(row.failure for row in [*results.rows, *results.replays]):
        raise typer.Exit(1)


def finish(results: page.GpuResults, out: Path) -> None:
    if results.quick or "GPU" not in results.machine:
        raise typer.BadParameter("these are not results of a GPU")
    out.mkdir(parents=True, exist_ok=True)
    results.save(out / "results_gpu.json")
    console.print(f"wrote {page.write(results, out)}", soft_wrap=True)


def run(
    results: page.GpuResults, words: list[str], device: torch.device, limit: float, seconds: float, patience: float
) -> Iterator[None]:
    """Fill in the results, part by part: what targets are about first, and graphs last, since a capture that fails can
    leave the generator unusable."""
    quick, start = results.quick, time.perf_counter()
    chosen = cases.select(cases.CASES, words, quick)
    if words and not chosen and not set(PARTS) & set(words):
        known = "\n  ".join(case.name for case in cases.select(cases.CASES, [], quick))
        raise typer.BadParameter(f"no case has a name with {words}; there are {', '.join(PARTS)} and\n  {known}")
    ticks: clock.Clock = clock.Events(device) if device.type == "cuda" else clock.Wall()
    results.bandwidth = clock.copy_bandwidth(ticks, device, 1 << 12 if device.type == "cpu" else clock.COPIED)
    graphs = not words or "graphs" in words
    least = 1 if quick else 10
    seconds = 0.001 if quick else seconds
    limit = limit - RESERVE if graphs else limit
    yield from _measure([c for c in chosen if c.targets], results, ticks, device, start + limit, seconds, least)
    if not words or "keys" in words:
        wanted = {10: 2000, 100: 200} if quick else None
        _tell(results, tails.same_choice(device, 10 * patience, wanted))
        yield
    if not words or "tails" in words:
        _tell(results, tails.ask(device, patience, 1 << 12 if quick else tails.NUMBERS))
        yield
    yield from _measure([c for c in chosen if not c.targets], results, ticks, device, start + limit, seconds, least)
    for case in cases.select(cases.REPLAYED, [], quick) if graphs else []:
        results.replays.append(_replay(case, ticks, device, seconds, least))
        console.print(f"graph: {results.replays[-1].line('us')}", markup=False)
        yield


def _measure(
    chosen: list[cases.GpuCase],
    results: page.GpuResults,
    ticks: clock.Clock,
    device: torch.device,
    end: float,
    seconds: float,
    least: int,
) -> Iterator[None]:
    for i, case in enumerate(chosen):
        if time.perf_counter() > end:
            results.troubles.append(f"out of time: {'; '.join(c.name for c in chosen[i:])}")
            console.print(f"out of time, {len(chosen) - i} cases left out", markup=False)
            return
        try:
            results.rows.append(_row(case, ticks, device, seconds, least))
            console.print(results.rows[-1].line("us"), markup=False)
        except Exception as error:
            results.troubles.append(f"{case.name}, {reason(error)}")
            console.print(results.troubles[-1], markup=False)
        yield


def _row(case: cases.GpuCase, ticks: clock.Clock, device: torch.device, seconds: float, least: int) -> Row:
    torch.compiler.reset()  # or sizes pile up until it gives up compiling
    row, calls = prepare(case, Problem(case.size, device))
    timings = ticks.take_turns(calls, seconds, least)
    for entry in row.entries:
        if entry.name in calls:
            entry.timing = Timing.of(timings[entry.name])
            entry.host, entry.memory = ticks.host(calls[entry.name]), ticks.memory(calls[entry.name])
    return row


def _replay(case: cases.GpuCase, ticks: clock.Clock, device: torch.device, seconds: float, least: int) -> Row:
    """As ``_row``, each call as a graph."""
    torch.compiler.reset()
    problem = Problem(case.size, device)
    row, calls = prepare(case, problem)
    graphs = {}
    for entry in row.entries:
        if entry.name in calls:
            try:
                graphs[entry.name] = ticks.capture(calls[entry.name])
                if entry is row.ours:
                    tails.check_replays(problem, graphs[entry.name])
            except Exception as error:
                entry.trouble = reason(error)
                if entry is row.ours:
                    row.failure = entry.trouble
                    return row
    timings = ticks.take_turns(graphs, seconds, least)
    for entry in row.entries:
        if entry.name in graphs:
            entry.timing, entry.host = Timing.of(timings[entry.name]), ticks.host(graphs[entry.name])
    return row


def _tell(results: page.GpuResults, findings: Iterator[page.Finding]) -> None:
    try:
        for f in findings:
            results.findings.append(f)
            console.print(f"{f.question}: {f.library} {f.contestant}: {f.measured} {f.verdict}", markup=False)
    except Exception as error:
        results.troubles.append(reason(error))
        console.print(results.troubles[-1], markup=False)


if __name__ == "__main__":
    typer.run(main)
