"""``argumbel sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ._terminal import errors_on_one_line, numbers, print_path

if TYPE_CHECKING:
    from ..experiments.recipes import Job

__all__ = ["sweep"]


def sweep(
    recipe: Annotated[
        str,
        typer.Argument(
            help="digits (one minute, to try a sweep), polynomial, reinmax, kool, sbn; of structures: paths, trees, "
            "sorting, subsets, parsing."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="The images of the recipe, as argumbel train takes them.", show_default="none"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder to write the runs and the report to.", show_default="runs/sweep-RECIPE"),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="Train only this row of the table. For more rows, give --row again.", show_default="all"),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas.", show_default="the recipe's")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of steps of each training.", show_default="the recipe's")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Number of trainings at the same time.")] = 1,
    threads: Annotated[int, typer.Option(help="Number of CPU threads of each training.")] = 1,
) -> None:
    """Train estimators by one protocol, seed by seed, and compare them: report.html, table.md, sweep.json.

    A training that has ended is not repeated: after Ctrl-C the same command continues, and rows or seeds can be added.
    """
    console = Console()
    with errors_on_one_line():
        from ..experiments.comparison import cells
        from ..experiments.recipes import RECIPES
        from ..experiments.sweeps import sweep as train_all

        out = run or Path("runs") / f"sweep-{recipe}"

        def listen(job: Job, result: dict[str, Any]) -> None:
            figures = [f"{key} {value:.5g}" for key, value in result.get("figures", {}).items()]
            text = ", ".join(figures) or f"failed: {result['failed']}"
            console.print(f"{job.label}, seed {job.seed}: {text}", highlight=False, markup=False, soft_wrap=True)

        try:
            summary = train_all(
                recipe,
                out,
                data=data,
                rows=row or (),
                seeds=None if seeds is None else numbers("seeds", seeds, int),
                steps=steps,
                jobs=jobs,
                threads=threads,
                listener=listen,
            )
        except KeyboardInterrupt:
            console.print("Stopped. The same command continues the sweep.")
            raise typer.Exit(130) from None
        head, lines = cells(RECIPES[recipe], summary)
        table = Table(title=f"{summary['title']}, {summary['steps']:,} steps", title_justify="left", title_style="bold")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
        print_path(console, "Report:", out / "report.html")
