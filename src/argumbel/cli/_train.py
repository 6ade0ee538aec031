"""``argumbel train``: its options are made from the settings of the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape

from ..experiments.config import FOLDER, PANELS, Config
from ..experiments.settings import Setting
from ._evaluate import evaluate_and_report
from ._terminal import errors_on_one_line, numbers, progress_bar, words

__all__ = ["option", "signature", "train"]


def option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def train(
    run: Annotated[
        Path | None,
        option(FOLDER, "Folder to write the run to. Default: runs/DATASET-ESTIMATOR, with a number if it exists."),
    ] = None,
    overwrite: Annotated[bool, option(FOLDER, "Replace the run in the folder of --run.", "--overwrite")] = False,
    resume: Annotated[Path | None, option(FOLDER, "Continue the run in this folder from its checkpoint.")] = None,
    samples: Annotated[
        str, option(FOLDER, "Numbers of samples for the bounds of the final evaluation. Default: 64,1000.")
    ] = "64,1000",
    **options: Any,
) -> None:
    """Train a categorical VAE, evaluate it, and write a report. Every option has a default: argumbel train."""
    console = Console()
    with errors_on_one_line():
        from ..experiments.run import Run
        from ..experiments.train import fit

        settings = Config.settings()
        given = {name: _value(name, settings[name], value) for name, value in options.items() if value is not None}
        counts = numbers("samples", samples, int)
        resumed = None
        if resume is not None:
            fixed = [_flag(name) for name in given if not settings[name].resumable]
            fixed += ["--run"] * (run is not None) + ["--overwrite"] * overwrite
            if fixed:
                raise ValueError(
                    "--resume must come without the options that a run keeps from its start, but here are "
                    f"{', '.join(fixed)}; leave them out, or start another run"
                )
            resumed = Run.open(resume)
            config = resumed.config(**given)
        else:
            config = Config.make(**given)
        with _progress(console, config) as listener:
            finished = fit(config, run, overwrite=overwrite, resume=resumed, listener=listener)
        if finished is None:
            return
        written, state = finished
        if state.step < config.steps:
            console.print(
                f"Stopped after step {state.step:,}. Continue with: argumbel train --resume {escape(str(written.path))}"
            )
            raise typer.Exit(130)
        evaluate_and_report(console, written, counts, state, device=config.device)


def signature(function: Callable[..., None], settings: Mapping[str, Setting]) -> inspect.Signature:
    """The options that a function declares, and an option for each setting, panel by panel."""
    own = [
        parameter
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    made = [_parameter(name, setting) for name, setting in settings.items()]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *made)]
    return inspect.Signature(sorted(parameters, key=_panel), return_annotation=None)


def _parameter(name: str, setting: Setting) -> inspect.Parameter:
    kind: Any = Path if setting.path else str if setting.kind is tuple else setting.kind
    flag = _flag(name)
    names = [f"{flag}/--no-{flag[2:]}" if setting.value else flag] if kind is bool else [flag]
    shown = option(setting.panel, setting.help, *names)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, shown]
    )


def _panel(parameter: inspect.Parameter) -> int:
    return PANELS.index(get_args(parameter.annotation)[1].rich_help_panel)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _value(name: str, setting: Setting, given: Any) -> Any:
    """What an option's value means to the configuration."""
    if setting.path:
        return str(given.resolve())
    if setting.kind is not tuple:
        return given
    return tuple(words(given) if setting.element is str else numbers(name, given, setting.element or int))


@contextmanager
def _progress(console: Console, config: Config) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A live bar with training objective, validation ELBO, temperature and steps per second; yields its listener."""
    shown: dict[str, Any] = {"elbo": "...", "valid": "...", "temperature": config.temperature(0), "rate": "..."}
    columns = (
        "[dim]ELBO: train[/] {task.fields[elbo]} [dim]valid[/] {task.fields[valid]} "
        "[dim]τ[/] {task.fields[temperature]:.3f} [dim]steps/s[/] {task.fields[rate]}"
    )
    with progress_bar(console, columns, count=True) as progress:
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


train.__signature__ = signature(train, Config.settings())  # type: ignore[attr-defined]
