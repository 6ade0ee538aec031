"""``argumbel train-text`` and ``argumbel text``: a small language model, and what can be done with its texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..experiments.config import FOLDER
from ..experiments.text import TextConfig
from ._terminal import errors_on_one_line, print_path, progress_bar
from ._train import option, signature

if TYPE_CHECKING:
    from ..experiments.text import Alphabet, TextModel

__all__ = ["text", "train_text"]

text = typer.Typer(no_args_is_help=True, help="Texts of a small language model that argumbel train-text trained.")

RunFolder = Annotated[Path, typer.Argument(help="A folder that argumbel train-text wrote.")]
Prompt = Annotated[str, typer.Option(help="The text to go on from. Default: a line break.", show_default=False)]
Length = Annotated[int, typer.Option(help="Number of characters.", min=0)]
Temperature = Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest character.")]


def train_text(
    run: Annotated[
        Path | None, option(FOLDER, "Folder to write the run to. Default: runs/text, with a number if it exists.")
    ] = None,
    overwrite: Annotated[bool, option(FOLDER, "Replace the run in the folder of --run.", "--overwrite")] = False,
    **options: Any,
) -> None:
    """Train a small language model over characters, and write a report. Every option has a default."""
    console = Console()
    with errors_on_one_line():
        from ..experiments.text import fit_text, write_text_report

        given = {name: value for name, value in options.items() if value is not None}
        if "data" in given:
            given["data"] = str(given["data"].resolve())
        config = TextConfig(**given)
        with _progress(console, config) as listener:
            written = fit_text(config, run, overwrite=overwrite, listener=listener)
        state = written.load("best.pt")
        console.print(
            f"Validation loss {state['loss']:.3f} nats per character, at step {state['step']:,}.", highlight=False
        )
        print_path(console, "Report:", write_text_report(written))
        console.print(f"Try: argumbel text sample {escape(str(written.path))}", soft_wrap=True, highlight=False)


@text.command()
def sample(
    run: RunFolder,
    prompt: Prompt = "\n",
    length: Length = 500,
    seed: Annotated[int, typer.Option(help="Seed of the first text; each further text has the next.")] = 0,
    count: Annotated[int, typer.Option(help="Number of texts.", min=1)] = 1,
    temperature: Temperature = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest characters.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest with this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw from those of this part of the largest.")] = None,
) -> None:
    """Draw texts. A text depends on its seed, the prompt and the options alone, not on the number of texts."""
    console = Console()
    with errors_on_one_line():
        from ..experiments.text import sample_texts

        model, alphabet = _open(run)
        rules = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        seeds = range(seed, seed + count)
        texts = sample_texts(model, alphabet, prompt, seeds, length, **rules)
        for own, drawn in zip(seeds, texts, strict=True):
            if count > 1:
                console.print(f"[dim]--- seed {own}[/]", highlight=False)
            typer.echo((prompt + drawn).strip("\n"))


def _open(run: Path) -> tuple[TextModel, Alphabet]:
    from ..experiments.text import TextRun

    model, alphabet, _ = TextRun.open(run).language_model()
    return model, alphabet


@contextmanager
def _progress(console: Console, config: TextConfig) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A live bar with the losses; yields its listener."""
    shown: dict[str, Any] = {"train": "...", "valid": "..."}
    columns = "[dim]nats: train[/] {task.fields[train]} [dim]valid[/] {task.fields[valid]}"
    with progress_bar(console, columns, count=True) as progress:
        task = progress.add_task("text", total=config.steps, **shown)

        def listen(record: dict[str, Any]) -> None:
            shown[record["kind"]] = f"{record['loss']:.3f}"
            progress.update(task, completed=record["step"], **shown)

        yield listen


train_text.__signature__ = signature(train_text, TextConfig.settings())  # type: ignore[attr-defined]
