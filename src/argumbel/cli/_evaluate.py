"""``argumbel evaluate``, and the evaluation at the end of ``argumbel train``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ._terminal import errors_on_one_line, numbers, print_path, progress_bar

if TYPE_CHECKING:
    from ..experiments.run import Run
    from ..experiments.train import State

__all__ = ["evaluate", "evaluate_and_report"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="A folder that argumbel train wrote.")],
    samples: Annotated[
        str, typer.Option(help="Numbers of samples for each image, one importance-weighted bound for each number.")
    ] = "64,1000",
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Number of CPU threads.", show_default="PyTorch's choice")] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is a GPU), cpu or cuda.")] = "auto",
) -> None:
    """Evaluate the best weights of a run on the test images: evaluation.json, report.html, and a table.

    The latents of the ELBO are discrete. The bounds on log p(x) are importance-weighted.
    """
    console = Console()
    with errors_on_one_line():
        import torch

        from ..experiments.run import Run

        if threads is not None:
            torch.set_num_threads(threads)
        evaluate_and_report(console, Run.open(run), numbers("samples", samples, int), seed=seed, device=device)


def evaluate_and_report(
    console: Console,
    run: Run,
    samples: Sequence[int],
    state: State | None = None,
    *,
    seed: int = 0,
    device: str,
) -> None:
    """Evaluate, write the report, print the table of figures and where the report is."""
    from ..experiments.evaluate import evaluate_run
    from ..experiments.report import main_figures, write

    config = run.config()
    images = config.images()
    began = time.perf_counter()
    with progress_bar(console, "") as progress:
        task = progress.add_task(f"evaluating with {max(samples):,} samples", total=1.0)
        evaluation = evaluate_run(
            run,
            images,
            samples=samples,
            seed=seed,
            device=device,
            progress=lambda done: progress.update(task, completed=done),
        )
    write(run, images)

    table = Table(
        title=f"{config.dataset}, {config.estimator}: nats per test image", title_justify="left", title_style="bold"
    )
    table.add_column("figure")
    table.add_column("nats", justify="right", style="bold")
    table.add_column("what it is", style="dim")
    for row in main_figures(evaluation):
        table.add_row(*row)
    console.print(table)
    spent = f"Trained {state.step:,} steps in {state.seconds:.0f} s; evaluated" if state else "Evaluated"
    console.print(
        f"{spent} in {time.perf_counter() - began:.0f} s, weights of step {evaluation['step']:,}.", highlight=False
    )
    print_path(console, "Report:", run.report)
