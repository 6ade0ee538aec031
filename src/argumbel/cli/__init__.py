"""The command line: ``argumbel sample``, ``train``, ``evaluate``, ``compare``, ``sweep`` and ``plot``, one file for
each, and ``argumbel train-text`` and ``text`` in one file.

Only this package needs typer and rich. A command imports what else it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

try:
    import rich
    import typer
except ImportError as error:
    raise ImportError(
        "typer and rich must be installed for the argumbel command, but one is missing; pip install 'argumbel[cli]'"
    ) from error

from ._compare import compare
from ._evaluate import evaluate
from ._plot import plot
from ._sample import sample
from ._sweep import sweep
from ._text import text, train_text
from ._train import train

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Random discrete choices: sample the rows of a table, train and evaluate a categorical VAE, compare gradient "
    "estimators, train a small language model and draw texts, draw figures.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"argumbel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


app.command()(sample)
app.command()(train)
app.command()(evaluate)
app.command()(sweep)
app.command("train-text")(train_text)
app.command()(compare)
app.add_typer(text, name="text")
app.add_typer(plot, name="plot")
