"""``argumbel compare``."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ._terminal import check_figure_file, errors_on_one_line, print_path

__all__ = ["compare"]


def compare(
    problem: Annotated[
        str,
        typer.Argument(
            help="toy-0.45, toy-0.499, polynomial-1.5, -2, -3, quadratic or vae; or package.module:function, your "
            "own function that returns f and logits."
        ),
    ] = "toy-0.45",
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Names of estimators, with arguments if needed: reinforce_loo,gumbel_rao(tau=0.5).",
            show_default="all",
        ),
    ] = None,
    num_repeats: Annotated[
        int, typer.Option(help="Estimates of each estimator. Four times as many halve the standard errors.")
    ] = 1000,
    num_samples: Annotated[
        int, typer.Option(help="Samples in each estimate, unless the estimator's arguments give num_samples.")
    ] = 2,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="For vae: a run folder of argumbel train.", show_default="trains a small model before the comparison"
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="For vae: number of test images.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Number of CPU threads.", show_default="PyTorch's choice")] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", help="Also draw the results to this file: .png, .svg or .pdf.", show_default="none"),
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--json", help="Also write the results to this JSON file.", show_default="none")
    ] = None,
) -> None:
    """Compare gradient estimators on a problem: bias, variance, direction, calls of f, time."""
    console = Console()
    with errors_on_one_line():
        import torch

        from ..estimators import ESTIMATORS, report
        from ..experiments.estimator import parse
        from ..experiments.problems import load

        if picture is not None:
            check_figure_file("plot", picture)
            from .. import plots
        chosen: list[Any] = []
        for text in ESTIMATORS if estimators is None else re.split(r",(?![^(]*\))", estimators):
            name, arguments = parse(text)
            chosen.append((text.strip(), partial(ESTIMATORS[name], **arguments)))
        if threads is not None:
            torch.set_num_threads(threads)
        with console.status("preparing the problem"):
            task = load(problem, checkpoint=checkpoint, count=images)
        with console.status("measuring"):
            measured = report(
                task.f,
                task.logits,
                chosen,
                num_repeats=num_repeats,
                num_samples=num_samples,
                generator=torch.Generator().manual_seed(seed),
                reference=task.gradient,
            )
        typer.echo(f"{task.text}\n\n{measured}")
        if results is not None:
            results.parent.mkdir(parents=True, exist_ok=True)
            content = {"problem": problem, "text": task.text, "seed": seed, **measured.to_dict()}
            results.write_text(json.dumps(content, indent=2) + "\n")
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            plots.estimator_report(measured, title=task.text).savefig(picture, dpi=150)
        for file in (results, picture):
            if file is not None:
                print_path(console, "Wrote", file)
