"""What the commands share: errors on one line, progress bars, lists of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["check_figure_file", "errors_on_one_line", "numbers", "print_path", "progress_bar", "words"]


@contextmanager
def errors_on_one_line(*more: type[Exception]) -> Iterator[None]:
    """Bad input ends the command with one red line and exit code 2. A fault of the program keeps its traceback.

    ``more`` are exceptions that bad input may raise beside the usual ones."""
    bad_input: tuple[type[Exception], ...] = (ValueError, TypeError, ImportError, FloatingPointError, *more)
    try:
        yield
    except BrokenPipeError:
        raise
    except bad_input as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error


def progress_bar(console: Console, columns: str, *, count: bool = False) -> Progress:
    """A bar that counts steps and stays on the screen (``count``), or shows a percentage and is removed at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn() if count else TextColumn("{task.percentage:>3.0f}%"),
        TextColumn(columns),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
        transient=not count,
    )


def print_path(console: Console, text: str, path: Path) -> None:
    """``text path`` on one line, however narrow the terminal is, so that the path can be copied."""
    console.print(f"{text} {escape(str(path))}", soft_wrap=True, highlight=False)


def check_figure_file(option: str, file: Path) -> None:
    """Raise ``ValueError`` for a file whose name does not end as a figure's."""
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--{option} must end in .png, .svg or .pdf, but it is {file}; give the file such a name")


def words(text: str) -> list[str]:
    """The words between the commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(option: str, text: str, kind: type[Any]) -> list[Any]:
    """One or more numbers between commas, or ``ValueError``."""
    try:
        values = [kind(word) for word in words(text)]
    except ValueError:
        values = []
    if not values:
        raise ValueError(f"--{option} must be numbers separated by commas, but it is {text!r}; give one or more")
    return values
