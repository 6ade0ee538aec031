"""``argumbel train-text`` and ``argumbel text``: a small language model, and what can be done with its texts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..experiments.config import FOLDER
from ..experiments.text import TextConfig
from ._terminal import errors_on_one_line, print_path, progress_bar
from ._train import option, signature

if TYPE_CHECKING:
    from ..experiments.text import Alphabet, TextModel

__all__ = ["text", "train_text"]

text = typer.Typer(no_args_is_help=True, help="Texts of a small language model that argumbel train-text trained.")

PIPE = "-"
# Where a text is on one line: for a line break, for a space at an end, and for other characters that cannot be seen.
BREAK, SPACE, UNSEEN = "\u21b5", "\u2423", "\ufffd"
SHOWN = 5  # lengths for which a p-value is shown

RunFolder = Annotated[Path, typer.Argument(help="A folder that argumbel train-text wrote.")]
Prompt = Annotated[str, typer.Option(help="The text to go on from.", show_default="a line break")]
Length = Annotated[int, typer.Option(help="Number of characters.", min=0)]
Count = Annotated[int, typer.Option(help="Number of texts.", min=1)]
FirstSeed = Annotated[int, typer.Option(help="Seed of the first text; each further text has the next.")]
Temperature = Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest character.")]
TopK = Annotated[int | None, typer.Option(help="Draw from so many of the likeliest characters.", show_default="all")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest with this probability.", show_default="1")]
MinP = Annotated[float | None, typer.Option(help="Draw from those of this part of the largest.", show_default="0")]
Secret = Annotated[int, typer.Option(help="The number that finds the watermark again. Keep it to yourself.")]
Width = Annotated[
    int | None, typer.Option(help="How many characters decide the noise of the next.", show_default="6", min=1)
]


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
    seed: FirstSeed = 0,
    count: Count = 1,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> None:
    """Draw texts. A text depends on its seed, the prompt and the options alone, not on the number of texts."""
    with errors_on_one_line():
        from ..experiments.text import sample_texts

        model, alphabet = _open(run)
        rules: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        seeds = range(seed, seed + count)
        _print_texts(prompt, seeds, sample_texts(model, alphabet, prompt, seeds, length, **rules))


@text.command()
def beam(
    run: RunFolder,
    prompt: Prompt = "\n",
    k: Annotated[int, typer.Option("-k", help="Number of texts.", min=1)] = 10,
    length: Annotated[int, typer.Option(help="Number of characters of a text, at most.", min=1)] = 40,
    end: Annotated[
        str | None,
        typer.Option(help="The character after which a text is over, such as a space.", show_default="none"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed: the same seed draws the same texts.")] = 0,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> None:
    """Draw k different texts, a sample without replacement, with their probabilities.

    With their weights the texts stand for all texts of the model:
    the sum of weight * f(text) estimates the mean of f without bias.
    A smaller k gives the first of these texts.
    """
    console = Console()
    with errors_on_one_line():
        from ..experiments.text import beam_texts

        model, alphabet = _open(run)
        rules: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        texts = beam_texts(model, alphabet, prompt, k, length, seed=seed, end=end, **rules)
        table = Table(title=Text(f"After {_visible(prompt)}"), title_justify="left", title_style="bold")
        table.add_column("", justify="right")
        table.add_column("text", overflow="fold", style="bold")
        for name in ("probability", "weight"):
            table.add_column(name, justify="right")
        for place, one in enumerate(texts, 1):
            figures = (f"{math.exp(one.log_prob):.3g}", f"{one.weight:.3g}")
            table.add_row(str(place), Text(_visible(one.text)), *figures)
        console.print(table)
        if len(texts) < k:
            more = f"are no more than {len(texts)} texts" if len(texts) > 1 else "is no more than 1 text"
            console.print(f"There {more}.", highlight=False)
        whole = math.fsum(math.exp(one.log_prob) for one in texts)
        weight = math.fsum(one.weight for one in texts)
        console.print(
            f"The probabilities add up to {whole:.3g}, and those of all texts to 1. The weights add up to "
            f"{weight:.3g}: an estimate of this 1.",
            highlight=False,
        )


@text.command("watermark")
def mark(
    run: RunFolder,
    prompt: Prompt = "\n",
    length: Length = 500,
    secret: Secret = 0,
    width: Width = None,
    seed: FirstSeed = 0,
    count: Count = 1,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> None:
    """Draw texts that carry a watermark. argumbel text detect finds it with the same secret and width.

    The noise of a character is a function of the secret and the text before.
    The texts have the law of the model all the same.
    The texts go to stdout, and their p-values to stderr.
    """
    with errors_on_one_line():
        from ..experiments.text import CONTEXT, detect_watermark, watermark_texts

        model, alphabet = _open(run)
        rules: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        own: dict[str, Any] = {"secret": secret, "width": width or CONTEXT}
        seeds = range(seed, seed + count)
        texts = watermark_texts(model, alphabet, prompt, seeds, length, **own, **rules)
        _print_texts(prompt, seeds, texts)
        console = Console(stderr=True)
        for one, drawn in zip(seeds, texts, strict=True):
            found = detect_watermark(alphabet, drawn, **own)
            console.print(
                f"[dim]Seed {one}: {int(found.counted.sum())} of {length} characters count; p-value[/] "
                f"{found.p_value():.2g}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


@text.command()
def detect(
    run: RunFolder,
    file: Annotated[str, typer.Argument(help="A file with a text in UTF-8; - reads a pipe.")] = PIPE,
    secret: Secret = 0,
    width: Width = None,
) -> None:
    """Tell whether a text carries a watermark, from the secret alone. Of RUN only the list of characters is used.

    The p-value says how likely scores as large are without the watermark:
    below 1e-6 is one such text in a million.
    """
    console = Console()
    with errors_on_one_line(OSError):
        from ..experiments.text import CONTEXT, detect_watermark

        _, alphabet = _open(run)
        given = _read(file)
        if not given:
            raise ValueError("the text must have at least one character, but it is empty; give another file")
        found = detect_watermark(alphabet, given, secret=secret, width=width or CONTEXT)
        title = f"{'The pipe' if file == PIPE else file}, secret {secret}"
        table = Table(title=Text(title), title_justify="left", title_style="bold")
        for name in ("first characters", "counted", "mean score", "p-value"):
            table.add_column(name, justify="right", style="bold" if name == "p-value" else None)
        for size in sorted({math.ceil(len(given) / 2**i) for i in range(SHOWN)}):
            number = int(found.counted[:size].sum())
            mean = f"{float(found.scores[:size].sum()) / number:.2f}" if number else ""
            table.add_row(f"{size:,}", f"{number:,}", mean, f"{found.p_value(size):.2g}")
        console.print(table)
        p = found.p_value()
        verdict = (
            "This text carries the watermark." if p < 1e-6
            else "This text may carry the watermark; a longer text would tell." if p < 1e-3
            else "No sign of the watermark."
        )  # fmt: skip
        console.print(f"{verdict} Without it the scores have the mean 1.", highlight=False)


@text.command()
def counterfactual(
    run: RunFolder,
    new_temperature: Annotated[
        float | None, typer.Option(help="What if the temperature were this?", show_default="as it was")
    ] = None,
    new_prompt: Annotated[
        str | None, typer.Option(help="What if the prompt were this?", show_default="as it was")
    ] = None,
    new_run: Annotated[Path | None, typer.Option(help="What if the model were this run's?", show_default="RUN")] = None,
    prompt: Prompt = "\n",
    length: Annotated[int, typer.Option(help="Number of characters; of --text, at most.", min=0)] = 500,
    file: Annotated[
        str | None,
        typer.Option("--text", help="A file with a text to ask about; - reads a pipe.", show_default="a text drawn"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the text; with --text, of noise that could have given it.")] = 0,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> None:
    """Show what would have been written at another temperature, after another prompt, or by another run's model.

    Both texts have the same luck: the same noise at the same place.
    The text is the text of argumbel text sample, whose noise is known.
    For a text of your own (--text) noise is drawn that could have given it.
    """
    console = Console()
    with errors_on_one_line(OSError):
        from ..experiments.text import rewrite_text, sample_texts

        if new_temperature is None and new_prompt is None and new_run is None:
            raise ValueError(
                "the question must change something, but it changes nothing; give --new-temperature, --new-prompt or "
                "--new-run"
            )
        model, alphabet = _open(run)
        new_model, other = (model, alphabet) if new_run is None else _open(new_run)
        if other != alphabet:
            raise ValueError(
                f"--new-run must have the characters of RUN, but the characters of {new_run} are others; train both "
                "on the same text"
            )
        rules: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        new_rules = rules | ({} if new_temperature is None else {"temperature": new_temperature})
        after = prompt if new_prompt is None else new_prompt
        if file is None:
            (old,) = sample_texts(model, alphabet, prompt, [seed], length, **rules)
            (new,) = sample_texts(new_model, alphabet, after, [seed], length, first=len(prompt), **new_rules)
        else:
            old = _read(file).removeprefix(prompt)[:length]
            new = rewrite_text(
                model, alphabet, prompt, old, new_model=new_model, new_prompt=after, seed=seed, rules=rules,
                new_rules=new_rules,
            )  # fmt: skip
        changes = [
            *([] if new_temperature is None else [f"temperature {new_temperature:g}"]),
            *([] if new_prompt is None else [f"prompt {_visible(new_prompt)}"]),
            *([] if new_run is None else [str(new_run)]),
        ]
        _print_pair(console, old, new, ", ".join(changes))


def _print_texts(prompt: str, seeds: range, texts: list[str]) -> None:
    console = Console()
    for own, drawn in zip(seeds, texts, strict=True):
        if len(seeds) > 1:
            console.print(f"[dim]--- seed {own}[/]", highlight=False)
        typer.echo((prompt + drawn).strip("\n"))


def _print_pair(console: Console, old: str, new: str, title: str) -> None:
    """Two texts of one length side by side, the characters at the same place in the same line."""
    differ = [a != b for a, b in zip(old, new, strict=True)]
    size = max(8, (console.width - 7) // 2)  # of the terminal, the borders take 7 columns
    table = Table()
    table.add_column("as it was", min_width=size)
    table.add_column(Text(f"with {title}"), min_width=size)
    plain = not console.is_terminal or console.is_dumb_terminal
    for start in range(0, len(old), size):
        stop = min(start + size, len(old))
        cells = []
        for text in (old, new):
            cell = Text(_on_one_line(text[start:stop]), no_wrap=True)
            for place in range(start, stop):
                if differ[place]:
                    cell.stylize("bold reverse", place - start, place - start + 1)
            if plain and any(differ[start:stop]):
                cell.append("\n" + "".join("^" if d else " " for d in differ[start:stop]))
            cells.append(cell)
        table.add_row(*cells)
    console.print(table)
    if not any(differ):
        console.print("The texts are the same.")
    else:
        console.print(
            f"{sum(differ)} of {len(old)} characters differ{' (^)' if plain else ''}, the first at place "
            f"{differ.index(True) + 1}.",
            highlight=False,
        )


def _on_one_line(text: str) -> str:
    return "".join(BREAK if c == "\n" else c if c.isprintable() else UNSEEN for c in text)


def _visible(text: str) -> str:
    """A text on one line, whose spaces at the ends can be seen."""
    line = _on_one_line(text)
    inner = line.strip(" ")
    before = len(line) - len(line.lstrip(" ")) if inner else 0
    return SPACE * before + inner + SPACE * (len(line) - before - len(inner))


def _read(file: str) -> str:
    """A text without the line breaks at its ends, which are no part of it where another command printed it."""
    data = sys.stdin.buffer.read() if file == PIPE else Path(file).read_bytes()
    try:
        return data.decode().replace("\r\n", "\n").strip("\n")
    except UnicodeDecodeError as error:
        name = "the pipe" if file == PIPE else file
        raise ValueError(f"the text must be in UTF-8, but {name} is not: {error}; convert it") from None


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
