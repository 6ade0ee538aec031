"""``argumbel sample``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .._core.files import SUFFIXES
from ._terminal import errors_on_one_line, print_path, words

if TYPE_CHECKING:
    import pyarrow as pa

    from ..tables import Sample

__all__ = ["sample"]

PIPE = "-"
SHOWN = 40  # groups in the report


def sample(
    source: Annotated[
        str,
        typer.Argument(help="A Parquet, CSV or Arrow file, a folder or a quoted pattern of files; - reads a pipe."),
    ],
    k: Annotated[
        int | None, typer.Option("-k", help="Number of rows; of each group, with --by.", show_default="by --budget")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Column of weights.", show_default="all weights are 1")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that tells rows apart, so that their order does not matter. For more columns, give it again.",
            show_default="the number of the row",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column of groups: k rows of each. For more columns, give it again.", show_default="none"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed: the same seed draws the same rows.")] = 0,
    method: Annotated[str, typer.Option(help="gumbel, priority, poisson or pareto.")] = "gumbel",
    budget: Annotated[
        str | None,
        typer.Option(help="As many rows as fit: 100MB, or COLUMN=TOTAL for a column of costs.", show_default="none"),
    ] = None,
    unit: Annotated[str, typer.Option(help="row; or key: draw k ids, and take all rows of these ids.")] = "row",
    nulls: Annotated[str, typer.Option(help="Null weights: error, or zero to leave these rows out.")] = "error",
    columns: Annotated[
        str | None, typer.Option(help="Columns to write, separated by commas.", show_default="all")
    ] = None,
    estimate: Annotated[
        list[str] | None,
        typer.Option(
            help="Column whose sum over all rows is estimated from the rows drawn. For more columns, give it again.",
            show_default="none",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .parquet, .csv, .tsv or .arrow; - writes CSV to a pipe.",
            show_default="-, but none with --estimate",
        ),
    ] = None,
) -> None:
    """Draw rows of a table by weight, without replacement, and estimate sums over the whole table.

    The same seed draws the same rows, however the table is split into files.
    """
    output = output or (None if estimate else PIPE)
    with errors_on_one_line(OSError, NotImplementedError):  # of files that are missing or broken
        from ..tables import sample as draw

        _check_output(output, source)
        wanted = None if columns is None else words(columns)
        more = [name for name in dict.fromkeys([*(estimate or ()), *(by or ())]) if name not in (wanted or ())]
        with _progress() as progress:
            drawn = draw(
                _pipe() if source == PIPE else source, k, weights=weights, key=key, by=by, seed=seed, method=method,
                budget=_budget(budget), unit=unit, nulls=nulls, progress=progress,
                columns=None if wanted is None else [*wanted, *(more if estimate else ())],
            )  # fmt: skip
        # Where the rows go to stdout, nothing else does.
        console = Console(stderr=output == PIPE)
        if output is not None:
            _write(drawn.table if wanted is None else drawn.table.select([*wanted, "_key", "_weight"]), output)
        title = f"{'the pipe' if source == PIPE else source}, {method}, seed {seed}"
        console.print(title, style="bold", soft_wrap=True, highlight=False, markup=False)
        console.print(_report(drawn, weights))
        if output not in (None, PIPE):
            print_path(console, "Wrote", Path(str(output)))
        if estimate:
            console.print(_estimates(drawn, estimate, by or []))


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None], None] | None]:
    """What is called as rows are read, to move a bar on stderr; None where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    count = TextColumn("{task.completed:,.0f} rows")
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=None), count, TimeRemainingColumn(compact=True),
        console=console, expand=True, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("reading", total=None)
        yield lambda rows, total: bar.update(task, completed=rows, total=total)


def _budget(text: str | None) -> tuple[str, float] | str | None:
    if text is None or "=" not in text:
        return text
    column, _, total = text.rpartition("=")
    try:
        return column, float(total)
    except ValueError:
        raise ValueError(f"--budget must be like 100MB or COLUMN=TOTAL, but it is {text!r}; name a column") from None


def _check_output(output: str | None, source: str) -> None:
    if output in (None, PIPE):
        return
    path = Path(str(output))
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(SUFFIXES)}, or be -, but it is {output}; rename it")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise ValueError(f"--output must be another file than the source, but both are {output}; rename it")


class _Joined:
    """A pipe from which the first bytes were taken already."""

    closed = False

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = 1 << 62
        head, self._head = self._head[:size], self._head[size:]
        return head + (self._rest.read(size - len(head)) if size < 1 << 62 else self._rest.read())

    def close(self) -> None:
        self.closed = True


def _pipe() -> pa.RecordBatchReader:
    """The rows of stdin: an Arrow stream or file, or CSV, by its first bytes."""
    import pyarrow as pa
    import pyarrow.csv

    head = sys.stdin.buffer.read(8)
    if not head:
        raise ValueError("the pipe must give rows, but it is empty; write: other command | argumbel sample -")
    if head.startswith(b"PAR1"):
        raise ValueError(
            "the pipe must be CSV or an Arrow stream, but it is Parquet, whose table of contents is at its end; give "
            "the name of the file"
        )
    if head.startswith(b"ARROW1"):  # a file is eight bytes, and then a stream
        return pa.ipc.open_stream(pa.PythonFile(sys.stdin.buffer, mode="r"))
    rest = pa.PythonFile(_Joined(head, sys.stdin.buffer), mode="r")
    if head.startswith(b"\xff\xff\xff\xff"):
        return pa.ipc.open_stream(rest)
    return pyarrow.csv.open_csv(rest, pyarrow.csv.ReadOptions(block_size=1 << 24))


def _write(rows: pa.Table, output: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.parquet

    kind = "csv" if output == PIPE else SUFFIXES[Path(output).suffix.lower()]
    if output != PIPE:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pyarrow.parquet.write_table(rows, output)
    elif kind == "arrow":
        pyarrow.feather.write_feather(rows, output)
    else:
        for place, field in enumerate(rows.schema):
            if pa.types.is_dictionary(field.type):  # which Arrow does not write as text
                rows = rows.set_column(place, field.name, rows.column(place).cast(field.type.value_type))
        text = pa.BufferOutputStream()
        pyarrow.csv.write_csv(rows, text, pyarrow.csv.WriteOptions(delimiter="\t" if kind == "tsv" else ","))
        if output == PIPE:
            sys.stdout.buffer.write(text.getvalue())
            sys.stdout.buffer.flush()
        else:
            Path(output).write_bytes(text.getvalue())


def _report(drawn: Sample, weights: str | None) -> Table:
    rows, weight = (drawn.groups[name].to_numpy().sum() for name in ("rows", "weight"))
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right", style="bold")
    table.add_row("rows read", f"{rows:,}")
    if weights is not None:
        table.add_row(escape(f"sum of {weights}"), f"{weight:,.6g}" if abs(weight) < 1e6 else f"{weight:,.0f}")
    if len(drawn.groups.column_names) > 2:
        table.add_row("groups", f"{len(drawn.groups):,}")
    table.add_row("rows drawn", f"{len(drawn):,}")
    return table


def _estimates(drawn: Sample, columns: list[str], by: list[str]) -> Table:
    """Of each column the sum, and with groups the sum in each of the first groups."""
    table = Table(title="Estimated sums over all rows", title_justify="left", title_style="bold")
    groups = by if 0 < len(drawn.groups) <= SHOWN else []
    for name in ("sum of", *map(escape, groups)):
        table.add_column(name, overflow="fold")
    for name in ("estimate", "± stderr", "in %", "effective rows"):
        table.add_column(name, justify="right", style="bold" if name == "estimate" else None)

    def add(cells: list[str], value: float, stderr: float, rows: float) -> None:
        # As many digits as the error leaves.
        digits = max(0, 1 - int(f"{stderr:e}".partition("e")[2])) if stderr > 0 else 2 if value % 1 else 0
        share = f"{stderr / abs(value):.2%}" if value else ""
        numbers = [f"{value:,.{digits}f}", f"{stderr:,.{digits}f}", share, f"{rows:,.0f}"]
        table.add_row(*map(escape, cells), *numbers)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for column in columns:
            add([column, *["all"] * len(groups)], *drawn.estimate(column))
            if groups:
                lines: Any = drawn.estimate(column, by=groups)
                for line in lines.to_pylist():
                    cells = [str(line[name]) for name in groups]
                    add([column, *cells], line["value"], line["stderr"], line["rows"])
    if any(issubclass(warning.category, RuntimeWarning) for warning in caught):
        table.caption = "With fewer than 20 effective rows, a standard error is not to be trusted: draw more rows."
    return table
