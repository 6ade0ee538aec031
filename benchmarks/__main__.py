"""``python -m benchmarks``: run, keep the results of this instruction set, and write RESULTS.md and chart.png of all.

Exit codes: 1 if a check failed or a row became slower; 2 if nothing could be compared or written; 3 if the machine was
busy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from . import machine
from .quiet import BUSY, Disturbed, Watch

if TYPE_CHECKING:
    from .compare import Compared
    from .report import Results

HERE = Path(__file__).parent
WRONG, REFUSED, DISTURBED = 1, 2, 3  # exit codes
console = Console(highlight=False, width=140)


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only cases whose name has this word; also 'exactness', 'estimators', 'vae'. Repeatable."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few samples, no memory, few draws: does everything run?")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for what is written; default benchmarks/, whose page is of whole runs alone."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores for every library; default all.")] = None,
    patience: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds for a contestant on a question of exactness; default 5, quick 0.15."),
    ] = None,
    busy: Annotated[
        bool,
        typer.Option("--busy", help="Write the page however much other processes take; the page says how much."),
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Measure nothing: write the page and chart of the stored results anew.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Only time ours alone, ten rows or those of --only, for --compare; into this.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="Time ours alone, ten rows or those of --only: is one slower than in these results?"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Time ours alone in turn with the argumbel that this Python interpreter imports."),
    ] = None,
) -> None:
    """Time, memory and exactness of every operation, beside other libraries."""
    cores = machine.cores()
    machine.confine(min(threads or cores, cores))  # before libraries start threads of their own
    from . import page, report

    watch = Watch(again=not (busy or quick))
    results = report.Results(machine.describe(cores), machine.versions(), quick=quick)
    folder = out or HERE
    if compare or baseline or against:
        _without_others(results, only or [], compare, baseline, against, watch)
        return
    if redraw:
        if not page.stored(folder):
            raise typer.BadParameter(f"{folder / page.FOLDER} holds no results to redraw: run without --redraw first")
        console.print(f"wrote {page.write(folder)}", soft_wrap=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    kept, started = folder / f"run-{results.kernels}.json", time.perf_counter()
    kept.unlink(missing_ok=True)
    patience = patience if patience is not None else 0.15 if quick else 5.0
    try:
        for _ in run(results, only or [], quick, patience, watch):
            results.others = watch.total.share
            results.save(kept)  # a run that breaks off leaves what it had
    except Disturbed as error:
        _refuse(f"{error}, so the run ended there", kept)
    console.print(f"{time.perf_counter() - started:.0f} seconds")
    if results.others is not None and results.others > BUSY and not (busy or quick):
        _refuse(f"other processes took {results.others:.0%} of the cores' time while this run measured", kept)
    if out is None and (only or quick or threads not in (None, cores)):
        console.print(f"{kept} holds the results. The page is of whole runs alone; --out writes another.")
    else:
        path = page.store(results, folder)
        kept.unlink()
        console.print(f"wrote {path} and {page.write(folder)}", soft_wrap=True)
    if any(row.failure for row in [*results.rows, *results.overheads]):
        raise typer.Exit(WRONG)


def _refuse(why: str, kept: Path | None = None) -> NoReturn:
    where = f" {kept} holds what it measured." if kept and kept.is_file() else ""
    what = "The page stays as it was." if kept else "There is no verdict."
    console.print(
        f"REFUSED: {why}; the limit is {BUSY:.0%}. {what}{where} Run again on a quiet machine, or add --busy.",
        soft_wrap=True,
    )
    raise typer.Exit(DISTURBED)


def _verdict(compared: Sequence[Compared]) -> None:
    from . import compare as comparison

    console.print(comparison.lines(compared), markup=False, soft_wrap=True)
    if not all(c.passed for c in compared):
        raise typer.Exit(WRONG)


def _without_others(
    results: Results,
    words: list[str],
    compare: Path | None,
    baseline: Path | None,
    against: Path | None,
    watch: Watch,
) -> None:
    """``--baseline``, ``--compare`` and ``--against``."""
    from . import alone, registry, report
    from . import compare as comparison

    names = [case.name for case in registry.select(words)] if words else list(alone.TEN)
    if not names:
        raise typer.BadParameter(f"no case has a name with {words}")
    few = {"seconds": 0.01, "runs": 1} if results.quick else {}
    try:
        if compare:
            if not compare.is_file():
                raise typer.BadParameter(f"{compare} is not there: --baseline writes results to compare with")
            old = report.Results.load(compare)
            comparison.check(old, results.machine)
            before = comparison.chosen(old, names)
            for line in comparison.notes(old, results.versions):
                console.print(f"note: {line}", markup=False)
            _verdict(comparison.compare(before, lambda cases: alone.measure(cases, watch, **few)))
        if against:
            if not against.is_file():
                raise typer.BadParameter(f"{against} is not there: pass the Python of an environment with the old code")
            once = {**few, "runs": 1}
            _verdict(
                comparison.in_turn(
                    names,
                    lambda cases: alone.measure(cases, watch, **once, python=str(against)),
                    lambda cases: alone.measure(cases, watch, **once),
                )
            )
        if baseline:
            results.rows = alone.measure(names, watch, **(few or {"runs": 2 * alone.RUNS}))
            results.others = watch.total.share
            results.save(baseline)
            console.print(f"wrote {baseline}", soft_wrap=True)
    except comparison.Refused as error:
        console.print(f"REFUSED: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(REFUSED) from None
    except Disturbed as error:
        _refuse(str(error))


PARTS = {"exactness", "estimators", "vae"}


def run(results: Results, words: list[str], quick: bool, patience: float, watch: Watch) -> Iterator[None]:
    """Fill in the results, part by part."""
    from . import alone, estimators, exactness, measure, registry, vae

    cases = registry.select(words)
    if words and not cases and not PARTS & set(words):
        known = "\n  ".join(case.name for case in registry.CASES)
        raise typer.BadParameter(
            f"no case has a name with {words}; there are {', '.join(sorted(PARTS))} and\n  {known}"
        )
    for case in cases:
        row = measure.measure(case, 0.03, least=1) if quick else measure.measure(case, 0.8, watch=watch)
        results.rows.append(row)
        console.print(row.line("ms"), markup=False)
        yield
    if not words and not quick:
        console.print("ours alone ...")
        times = {row.case: row.alone for row in alone.measure(alone.TEN, watch)}
        for row in results.rows:
            row.alone = times.get(row.case)
        yield
    if results.rows and not quick:
        console.print("memory ...")
        measure.measure_memory(results.rows)
        yield
    if not words or "exactness" in words:
        for question in exactness.QUESTIONS:
            for f in exactness.ask(question, patience):
                results.findings.append(f)
                console.print(f"{f.question}: {f.library} {f.contestant}: {f.measured} {f.verdict}", markup=False)
            yield
    if not words or "estimators" in words:
        results.overheads += watch.measure("estimators", lambda: estimators.measure(*((0.03, 1) if quick else (0.8,))))
        for o in results.overheads:
            what = f"{o.ratio:.3g} times f" if o.ratio else o.failure
            console.print(f"{o.estimator}, {o.classes} classes: {what}", markup=False)
        yield
    if not words or "vae" in words:
        for threads in sorted({1, machine.cores()}):
            try:
                results.steps += watch.measure("vae", lambda n=threads: vae.measure(n, 0.5 if quick else 4.0))
            except Disturbed:
                raise
            except Exception as error:
                results.troubles.append(f"training step, {measure.reason(error)}")
                console.print(results.troubles[-1], markup=False)
                break
            console.print(", ".join(f"{s.contestant}: {1 / s.seconds:.0f} steps/s" for s in results.steps[-3:]))
        yield


if __name__ == "__main__":
    typer.run(main)
