"""``python -m benchmarks``: run, and write RESULTS.md, results.json and chart.png."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import machine

if TYPE_CHECKING:
    from .report import Results

console = Console(highlight=False, width=140)


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only cases whose name has this word; also 'exactness', 'estimators', 'vae'. Repeatable."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few samples, no memory, few draws: does everything run?")
    ] = False,
    out: Annotated[Path, typer.Option(help="The folder for what is written.")] = Path(__file__).parent,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores for every library; default all.")] = None,
    patience: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds for a contestant on a question of exactness; default 5, quick 0.15."),
    ] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Measure nothing: write results.json anew as page and chart.")
    ] = False,
) -> None:
    """Time, memory and exactness of every operation, beside other libraries."""
    cores = machine.cores()
    machine.confine(min(threads or cores, cores))  # before libraries start threads of their own
    from . import chart, report

    results_file = out / "results.json"
    if redraw:
        if not results_file.is_file():
            raise typer.BadParameter(f"{results_file} is not there to redraw: run without --redraw first")
        results = report.Results.load(results_file)
    else:
        out.mkdir(parents=True, exist_ok=True)
        results = report.Results(machine.describe(cores), machine.versions(), quick=quick)
        started, quiet = time.perf_counter(), machine.Quiet.start()
        for _ in run(results, only or [], quick, patience if patience is not None else 0.15 if quick else 5.0):
            results.others = quiet.others()
            results.save(results_file)  # a run that breaks off leaves what it had
        console.print(f"{time.perf_counter() - started:.0f} seconds")
    picture = out / "chart.png"
    drawn = chart.draw(results, picture)
    (out / "RESULTS.md").write_text(report.markdown(results, picture.name if drawn else None))
    console.print(f"wrote {out / 'RESULTS.md'}", soft_wrap=True)
    if any(row.failure for row in [*results.rows, *results.overheads]):
        raise typer.Exit(1)


def run(results: Results, words: list[str], quick: bool, patience: float) -> Iterator[None]:
    """Fill in the results, part by part."""
    from . import estimators, exactness, measure, registry, vae

    cases = registry.select(words)
    if words and not cases and not {"exactness", "estimators", "vae"} & set(words):
        known = "\n  ".join(case.name for case in registry.CASES)
        raise typer.BadParameter(
            f"no case has a name with {words}; there are exactness, estimators, vae and\n  {known}"
        )
    for case in cases:
        row = measure.measure(case, seconds=0.03, least=1) if quick else measure.measure(case, seconds=0.8)
        results.rows.append(row)
        console.print(row.line("ms"), markup=False)
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
        results.overheads += estimators.measure(0.03, least=1) if quick else estimators.measure(0.8)
        for o in results.overheads:
            what = f"{o.ratio:.3g} times f" if o.ratio else o.failure
            console.print(f"{o.estimator}, {o.classes} classes: {what}", markup=False)
        yield
    if not words or "vae" in words:
        for threads in sorted({1, machine.cores()}):
            try:
                results.steps += vae.measure(threads, 0.5 if quick else 4.0)
            except Exception as error:
                results.troubles.append(f"training step, {measure.reason(error)}")
                console.print(results.troubles[-1], markup=False)
                break
            console.print(", ".join(f"{s.contestant}: {1 / s.seconds:.0f} steps/s" for s in results.steps[-3:]))
        yield


if __name__ == "__main__":
    typer.run(main)
