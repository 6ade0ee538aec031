"""The command line: ``argumbel train``, ``evaluate``, ``compare``, ``sweep`` and ``plot``.

Only this module needs typer and rich; what a command needs beyond them it imports when it runs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError as error:
    raise ImportError("the argumbel command needs typer and rich: pip install 'argumbel[cli]'") from error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .experiments.run import Config, Run
    from .experiments.train import State

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Random discrete choices: train and evaluate a categorical VAE, compare estimators, draw the pictures.",
)
plot = typer.Typer(no_args_is_help=True, help="Draw the figures that explain the relaxation.")
app.add_typer(plot, name="plot")

_DATA, _MODEL, _TRAINING, _MACHINE, _FOLDER = "Data", "Model", "Training", "Machine", "Run folder"
#: What a resumed run may change; everything else is the run's own.
_RESUMABLE = ("steps", "threads", "device", "devices", "log_every", "valid_every")


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"argumbel {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def train(
    dataset: Annotated[
        str | None,
        _option(_DATA, "digits (bundled), mnist, or a name of your own for the images of --data. Default: digits."),
    ] = None,
    data: Annotated[
        Path | None, _option(_DATA, "A .npz file of images, or the folder of the MNIST IDX files (else downloaded).")
    ] = None,
    arrays: Annotated[
        str | None,
        _option(_DATA, "Arrays of the .npz: train; train,test; or train,valid,test. Default: by their names."),
    ] = None,
    binarize: Annotated[
        str | None,
        _option(
            _DATA,
            "threshold (at 0.5), static (drawn once), dynamic (each step), none. Default: threshold for digits, else "
            "static.",
        ),
    ] = None,
    latents: Annotated[int | None, _option(_MODEL, "Categorical latents. Default: 10 for digits, else 20.")] = None,
    classes: Annotated[int | None, _option(_MODEL, "Classes of each. Default: 10.")] = None,
    hidden: Annotated[
        str | None,
        _option(
            _MODEL, "Hidden sizes of the encoder; the decoder mirrors them. Default: 256,128 for digits, else 512,256."
        ),
    ] = None,
    activation: Annotated[
        str | None, _option(_MODEL, "relu or leaky_relu (slope 0.1), after hidden layers. Default: relu.")
    ] = None,
    centre: Annotated[
        bool | None,
        _option(
            _MODEL,
            "Start from the mean image: take it from the input, give it to the output. Default: yes.",
            "--centre/--no-centre",
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        _option(
            _MODEL,
            "A name in argumbel.estimators, with its own arguments if need be, as 'gumbel_rao(num_conditional=100)'. "
            "Default: gumbel_softmax.",
        ),
    ] = None,
    kl: Annotated[
        str | None,
        _option(
            _MODEL,
            "categorical (exact; no bound if samples are soft) or relaxed (sampled; a bound). Default: categorical.",
        ),
    ] = None,
    prior_tau: Annotated[
        float | None, _option(_MODEL, "Temperature of the prior of --kl relaxed. Default: that of the posterior.")
    ] = None,
    kl_warmup: Annotated[
        int | None,
        _option(_MODEL, "Steps in which the KL's weight rises to 1. Default: 0; a third of the steps if relaxed."),
    ] = None,
    schedule: Annotated[
        str | None,
        _option(
            _TRAINING,
            "Temperature: constant:1, exp:start,rate,floor,every, linear:start,end,steps (or half_, quarter_cosine).",
        ),
    ] = None,
    steps: Annotated[int | None, _option(_TRAINING, "Optimiser steps. Default: 6000 for digits, else 50000.")] = None,
    batch: Annotated[
        int | None, _option(_TRAINING, "Images a step, over all devices. Default: 64 for digits, else 100.")
    ] = None,
    optimizer: Annotated[
        str | None, _option(_TRAINING, "adam, adamw, radam or sgd (momentum 0.9). Default: adam.")
    ] = None,
    lr: Annotated[float | None, _option(_TRAINING, "Learning rate. Default: 3e-3 for digits, else 1e-3.")] = None,
    lr_schedule: Annotated[
        str | None, _option(_TRAINING, "constant, or cosine to zero at the last step. Default: cosine.")
    ] = None,
    weight_decay: Annotated[float | None, _option(_TRAINING, "Weight decay of the optimiser. Default: 0.")] = None,
    seed: Annotated[int | None, _option(_TRAINING, "Decides weights, order and noise. Default: 0.")] = None,
    threads: Annotated[int | None, _option(_MACHINE, "CPU threads. Default: PyTorch's choice.")] = None,
    device: Annotated[
        str | None, _option(_MACHINE, "auto (CUDA where there is one), cpu or cuda. Default: auto.")
    ] = None,
    devices: Annotated[int | None, _option(_MACHINE, "How many of them (data parallel). Default: 1.")] = None,
    precision: Annotated[
        str | None, _option(_MACHINE, "Lightning's names: 32-true, bf16-mixed, 64-true. Default: 32-true.")
    ] = None,
    run: Annotated[
        Path | None, _option(_FOLDER, "Where to write the run. Default: runs/DATASET-ESTIMATOR, numbered when taken.")
    ] = None,
    overwrite: Annotated[
        bool, _option(_FOLDER, "Replace the run that is in the folder of --run.", "--overwrite")
    ] = False,
    resume: Annotated[Path | None, _option(_FOLDER, "Continue the run of this folder from its checkpoint.")] = None,
    log_every: Annotated[int | None, _option(_FOLDER, "Steps between records.")] = None,
    valid_every: Annotated[int | None, _option(_FOLDER, "Steps between validations and checkpoints.")] = None,
    tensorboard: Annotated[bool | None, _option(_FOLDER, "Also write TensorBoard logs.", "--tensorboard")] = None,
    samples: Annotated[str, _option(_FOLDER, "Samples of the final evaluation. Default: 64,1000.")] = "64,1000",
) -> None:
    """Train a categorical VAE, evaluate it, and write a report. Every default is there: argumbel train."""
    console = Console()
    with _complaints():
        from .experiments.run import Config, Run
        from .experiments.train import fit

        given: dict[str, Any] = {
            name: value
            for name, value in {
                "dataset": dataset,
                "data": None if data is None else str(data.resolve()),
                "arrays": None if arrays is None else tuple(_words(arrays)),
                "binarize": binarize,
                "latents": latents,
                "classes": classes,
                "hidden": None if hidden is None else tuple(_numbers("hidden", hidden, int)),
                "activation": activation,
                "centre": centre,
                "estimator": estimator,
                "kl": kl,
                "prior_tau": prior_tau,
                "kl_warmup": kl_warmup,
                "schedule": schedule,
                "steps": steps,
                "batch": batch,
                "optimizer": optimizer,
                "lr": lr,
                "lr_schedule": lr_schedule,
                "weight_decay": weight_decay,
                "seed": seed,
                "threads": threads,
                "device": device,
                "devices": devices,
                "precision": precision,
                "log_every": log_every,
                "valid_every": valid_every,
                "tensorboard": tensorboard,
            }.items()
            if value is not None
        }
        counts = _numbers("samples", samples, int)
        resumed = None
        if resume is not None:
            fixed = [f"--{name.replace('_', '-')}" for name in given if name not in _RESUMABLE]
            fixed += ["--run"] * (run is not None) + ["--overwrite"] * overwrite
            if fixed:
                raise ValueError(f"--resume continues a run as it was begun, so it does not take {', '.join(fixed)}")
            resumed = Run.open(resume)
            config = resumed.config(**given)
        else:
            config = Config.make(**given)
        with _training(console, config) as listener:
            finished = fit(config, run, overwrite=overwrite, resume=resumed, listener=listener)
        if finished is None:
            return
        written, state = finished
        if state.step < config.steps:
            console.print(
                f"Stopped after step {state.step:,}. Continue with: argumbel train --resume {escape(str(written.path))}"
            )
            raise typer.Exit(130)
        _finish(console, written, counts, state, device=config.device)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A folder that argumbel train wrote.")],
    samples: Annotated[str, typer.Option(help="Samples an image of the importance-weighted bounds.")] = "64,1000",
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="PyTorch's choice")] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu or cuda.")] = "auto",
) -> None:
    """Evaluate the best weights of a run on the test images: evaluation.json, report.html, and a table.

    The ELBO has discrete latents; the bounds on log p(x) are importance-weighted.
    """
    console = Console()
    with _complaints():
        import torch

        from .experiments.run import Run

        if threads is not None:
            torch.set_num_threads(threads)
        _finish(console, Run.open(run), _numbers("samples", samples, int), seed=seed, device=device)


@app.command()
def sweep(
    recipe: Annotated[str, typer.Argument(help="digits (a minute, to try it), polynomial, reinmax, kool, sbn.")],
    data: Annotated[
        Path | None, typer.Option(help="The recipe's images, as argumbel train takes them.", show_default="none")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Where to write the runs and the report.", show_default="runs/sweep-RECIPE")
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="Train this row of the table; may be given again.", show_default="all")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Numbers separated by commas.", show_default="the recipe's")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each training.", show_default="the recipe's")] = None,
    jobs: Annotated[int, typer.Option(help="Trainings side by side.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of each.")] = 1,
) -> None:
    """Train estimators by a published protocol, seed by seed, and compare them: report.html, table.md, sweep.json.

    What has ended is not repeated: after Ctrl-C the same command goes on, and more rows or seeds can follow.
    """
    console = Console()
    with _complaints():
        from .experiments.comparison import cells
        from .experiments.recipes import RECIPES, Job
        from .experiments.sweeps import sweep as train_all

        out = run or Path("runs") / f"sweep-{recipe}"
        numbers = None if seeds is None else _numbers("seeds", seeds, int)

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
                seeds=numbers,
                steps=steps,
                jobs=jobs,
                threads=threads,
                listener=listen,
            )
        except KeyboardInterrupt:
            console.print("Stopped. The same command goes on.")
            raise typer.Exit(130) from None
        head, lines = cells(RECIPES[recipe], summary)
        table = Table(title=f"{summary['title']}, {summary['steps']:,} steps", title_justify="left", title_style="bold")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
        console.print(f"Report: {escape(str(out / 'report.html'))}", soft_wrap=True, highlight=False)


@app.command()
def compare(
    problem: Annotated[
        str,
        typer.Argument(
            help="toy-0.45, toy-0.499, polynomial-1.5, -2, -3, quadratic, vae; or package.module:function of yours, "
            "which returns f and logits."
        ),
    ] = "toy-0.45",
    estimators: Annotated[
        str | None,
        typer.Option(help="Names, perhaps with arguments: reinforce_loo,gumbel_rao(tau=0.5).", show_default="all"),
    ] = None,
    num_repeats: Annotated[int, typer.Option(help="Estimates of each; errors fall with its root.")] = 1000,
    num_samples: Annotated[int, typer.Option(help="Samples of an estimate, where its arguments do not say.")] = 2,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Of vae: a run folder of argumbel train.", show_default="a small model, trained now"),
    ] = None,
    images: Annotated[int, typer.Option(help="Of vae: test images.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="PyTorch's choice")] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the figures: .png, .svg or .pdf.", show_default="none")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures as JSON.", show_default="none")
    ] = None,
) -> None:
    """Compare gradient estimators on a problem: bias, variance, direction, calls of f, time."""
    console = Console()
    with _complaints():
        import torch

        from .estimators import ESTIMATORS, report
        from .experiments.estimator import parse
        from .experiments.problems import load

        if picture is not None:
            _check_picture("plot", picture)
            from . import plots
        wanted: list[Any] = []
        for text in ESTIMATORS if estimators is None else re.split(r",(?![^(]*\))", estimators):
            name, own = parse(text)
            wanted.append((text.strip(), partial(ESTIMATORS[name], **own)))
        if threads is not None:
            torch.set_num_threads(threads)
        with console.status("preparing the problem"):
            task = load(problem, checkpoint=checkpoint, count=images)
        with console.status("measuring"):
            measured = report(
                task.f,
                task.logits,
                wanted,
                num_repeats=num_repeats,
                num_samples=num_samples,
                generator=torch.Generator().manual_seed(seed),
                reference=task.gradient,
            )
        typer.echo(f"{task.text}\n\n{measured}")
        if figures is not None:
            figures.parent.mkdir(parents=True, exist_ok=True)
            content = {"problem": problem, "text": task.text, "seed": seed, **measured.to_dict()}
            figures.write_text(json.dumps(content, indent=2) + "\n")
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            plots.estimator_report(measured, title=task.text).savefig(picture, dpi=150)
        for file in (figures, picture):
            if file is not None:
                console.print(f"Wrote {escape(str(file))}", soft_wrap=True, highlight=False)


@plot.command()
def simplex(
    tau: Annotated[str, typer.Option(help="Temperatures.")] = "0.1,0.5,1,5",
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .svg or .pdf.")] = Path(
        "simplex.png"
    ),
    dpi: Annotated[int, typer.Option(help="Dots an inch, of a .png.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
) -> None:
    """Samples and density of the relaxed categorical on three classes, one triangle a temperature."""
    _draw("simplex", tau, output, dpi, seed)


@plot.command()
def expectations(
    tau: Annotated[str, typer.Option(help="Temperatures.")] = "0.1,0.5,1,10",
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .svg or .pdf.")] = Path(
        "expectations.png"
    ),
    dpi: Annotated[int, typer.Option(help="Dots an inch, of a .png.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
) -> None:
    """Mean and samples of the relaxed categorical beside the discrete one, by temperature (Jang et al., figure 1)."""
    _draw("expectations", tau, output, dpi, seed)


def _draw(figure: str, taus: str, output: Path, dpi: int, seed: int) -> None:
    console = Console()
    with _complaints():
        import torch

        from . import plots

        make: Callable[..., Figure] = getattr(plots, figure)
        _check_picture("output", output)
        picture = make(_numbers("tau", taus, float), generator=torch.Generator().manual_seed(seed))
        output.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(output, dpi=dpi)
        console.print(f"Wrote {escape(str(output))}", soft_wrap=True)


def _finish(
    console: Console,
    run: Run,
    samples: Sequence[int],
    state: State | None = None,
    *,
    seed: int = 0,
    device: str,
) -> None:
    """Evaluate, write the report, print the table of figures and where the report is."""
    from .experiments.evaluate import evaluate_run
    from .experiments.report import headline, write

    config = run.config()
    images = config.images()
    began = time.perf_counter()
    with _bar(console, "") as progress:
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
    for row in headline(evaluation):
        table.add_row(*row)
    console.print(table)
    spent = f"Trained {state.step:,} steps in {state.seconds:.0f} s; evaluated" if state else "Evaluated"
    console.print(
        f"{spent} in {time.perf_counter() - began:.0f} s, weights of step {evaluation['step']:,}.", highlight=False
    )
    console.print(f"Report: {escape(str(run.report))}", soft_wrap=True, highlight=False)


@contextmanager
def _training(console: Console, config: Config) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A live bar with training objective, validation ELBO, temperature and steps per second; yields its listener."""
    shown: dict[str, Any] = {"elbo": "...", "valid": "...", "temperature": config.temperature(0), "rate": "..."}
    columns = (
        "[dim]ELBO: train[/] {task.fields[elbo]} [dim]valid[/] {task.fields[valid]} "
        "[dim]τ[/] {task.fields[temperature]:.3f} [dim]steps/s[/] {task.fields[rate]}"
    )
    with _bar(console, columns, count=True) as progress:
        task = progress.add_task(f"{config.dataset}", total=config.steps, **shown)

        def listen(record: dict[str, Any]) -> None:
            if record["kind"] == "valid":
                shown["valid"] = f"{record['elbo']:.2f}"
            else:
                shown["elbo"] = f"{record['elbo']:.2f}"
                shown["rate"] = f"{record['steps_per_second']:.0f}"
                shown["temperature"] = record["temperature"]
            progress.update(task, completed=record["step"], **shown)

        yield listen


def _bar(console: Console, columns: str, *, count: bool = False) -> Progress:
    parts = [TextColumn("{task.description}"), BarColumn(bar_width=None)]
    return Progress(
        *parts,
        *([MofNCompleteColumn()] if count else [TextColumn("{task.percentage:>3.0f}%")]),
        TextColumn(columns),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
        transient=not count,
    )


@contextmanager
def _complaints() -> Iterator[None]:
    """Bad input as one red line and exit code 2, without a traceback; a fault of the program keeps its traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, FloatingPointError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error


def _check_picture(name: str, file: Path) -> None:
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--{name} must end in .png, .svg or .pdf; got {file}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(name: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        numbers = [kind(word) for word in _words(text)]
    except ValueError:
        numbers = []
    if not numbers:
        raise ValueError(f"--{name} must be numbers separated by commas; got {text!r}")
    return numbers
