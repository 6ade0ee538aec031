"""``argumbel sample``: what is written is what ``tables.sample`` draws; reports, pipes and errors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from argumbel import cli
from argumbel.cli import _sample
from argumbel.tables import sample

N = 2000
GENERATOR = np.random.default_rng(0)
PRICE = GENERATOR.integers(1, 400, N) + 0.5
TABLE = pa.table(
    {
        "order": GENERATOR.permutation(N) * 7919,
        "line": GENERATOR.integers(0, 9, N),
        "country": GENERATOR.choice(["DE", "FR", "LU"], N, p=[0.6, 0.3, 0.1]),
        "price": PRICE,
        "tax": 0.2 * PRICE + GENERATOR.normal(size=N).round(2),
        "size": GENERATOR.integers(1, 20, N),
    }
)
WANTED: dict[str, Any] = {"weights": "price", "key": "order", "seed": 4}
WORDS = ["--weights", "price", "--key", "order", "--seed", "4"]


@pytest.fixture(autouse=True)
def _orders(plain_terminal: None) -> None:
    pyarrow.parquet.write_table(TABLE, "orders.parquet", row_group_size=300)


def call(*words: str | Path, pipe: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.app, ["sample", *map(str, words)], input=pipe, catch_exceptions=False)


def done(*words: str | Path, pipe: bytes | None = None) -> Result:
    result = call(*words, pipe=pipe)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str | Path, pipe: bytes | None = None) -> str:
    result = call(*words, pipe=pipe)
    assert result.exit_code == 2
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def read(path: str) -> pa.Table:
    if path.endswith("parquet"):
        return pyarrow.parquet.read_table(path)
    if path.endswith("arrow"):
        return pyarrow.feather.read_table(path)
    delimiter = "\t" if path.endswith("tsv") else ","
    return pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "arrow"])
def test_files_in_and_out(suffix: str) -> None:
    source = f"orders.{suffix}"
    if suffix in ("csv", "tsv"):
        options = pyarrow.csv.WriteOptions(delimiter="\t" if suffix == "tsv" else ",")
        pyarrow.csv.write_csv(TABLE, source, options)
    if suffix == "arrow":
        pyarrow.feather.write_feather(TABLE, source)
    result = done(source, "-k", "50", *WORDS, "-o", f"new/out.{suffix}")
    assert read(f"new/out.{suffix}").equals(sample(TABLE, 50, **WANTED).table)
    report = " ".join(result.stdout.split())
    assert f"{source}, gumbel, seed 4" in report
    assert f"rows read │ 2,000 │ │ sum of price │ {PRICE.sum():,.0f} │ │ rows drawn │ 50" in report
    assert f"Wrote new/out.{suffix}" in result.stdout
    assert result.stderr == ""


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    return sink.getvalue()


def feather(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(table, sink)
    return sink.getvalue()


def text(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()


@pytest.mark.parametrize("kind", [stream, feather, text])
def test_a_pipe(kind: Any) -> None:
    """Nothing but rows goes to stdout; the report goes to stderr."""
    result = done("-", "-k", "30", *WORDS, "-o", "-", pipe=kind(TABLE))
    rows = pyarrow.csv.read_csv(io.BytesIO(result.stdout_bytes))
    assert rows.equals(sample(TABLE, 30, **WANTED).table)
    assert "the pipe, gumbel, seed 4" in result.stderr
    assert done("-", "-k", "30", *WORDS, pipe=kind(TABLE)).stdout == result.stdout


def test_groups_columns_and_estimates() -> None:
    words = ["-k", "40", *WORDS, "--by", "country", "--estimate", "tax", "--estimate", "price"]
    result = done("orders.parquet", *words, "--columns", "order,size", "-o", "out.parquet")
    drawn = sample(TABLE, 40, **WANTED, by="country")
    assert read("out.parquet").equals(drawn.table.select(["order", "size", "_key", "_weight"]))
    report = " ".join(result.stdout.replace("│", " ").split())
    assert "groups 3 rows drawn 120" in report
    total = drawn.estimate("tax")
    assert f"tax all {total.value:,.0f} {total.stderr:,.0f} {total.stderr / total.value:.2%} {total.rows:.0f}" in report
    each = drawn.estimate("tax", by="country").to_pylist()
    assert all(f"tax {g['country']} {g['value']:,.0f} {g['stderr']:,.0f}" in report for g in each)
    assert f"price all {PRICE.sum():,.0f} 0 0.00%" in report
    assert "not to be trusted" not in report
    # The estimates alone.
    alone = done("orders.parquet", *words)
    assert "Wrote" not in alone.stdout
    assert "tax" in alone.stdout
    few = done("orders.parquet", "-k", "10", *WORDS, "--estimate", "size")
    assert "fewer than 20 effective rows" in few.stdout


def test_many_groups_are_not_listed() -> None:
    words = ["-k", "1", "--weights", "price", "--by", "size", "--by", "line", "--estimate", "tax"]
    report = " ".join(done("orders.parquet", *words).stdout.split())
    assert "groups │ 171" in report
    assert "┃ line ┃" not in report


def test_keys_methods_budgets_units_and_nulls() -> None:
    done("orders.parquet", "-k", "20", "--key", "order", "--key", "line", "--method", "pareto", "-o", "a.parquet")
    assert read("a.parquet").equals(sample(TABLE, 20, key=["order", "line"], method="pareto").table)
    done("orders.parquet", *WORDS, "--budget", "size=100", "-o", "b.parquet")
    assert read("b.parquet").equals(sample(TABLE, **WANTED, budget=("size", 100)).table)
    done("orders.parquet", *WORDS, "--budget", "2kB", "-o", "c.parquet")
    assert read("c.parquet").equals(sample(TABLE, **WANTED, budget="2kB").table)
    done("orders.parquet", "-k", "2", "--key", "line", "--unit", "key", "-o", "d.parquet")
    assert read("d.parquet").equals(sample(TABLE, 2, key="line", unit="key").table)
    pyarrow.parquet.write_table(pa.table({"w": [1.0, None, 2.0]}), "null.parquet")
    assert "rows drawn │ 2" in " ".join(
        done("null.parquet", "-k", "3", "--weights", "w", "--nulls", "zero").stderr.split()
    )
    # Columns that are dictionaries, written as text.
    categories = TABLE.set_column(2, "country", TABLE["country"].dictionary_encode())
    result = done("-", "-k", "30", *WORDS, pipe=stream(categories))
    assert pyarrow.csv.read_csv(io.BytesIO(result.stdout_bytes)).equals(sample(TABLE, 30, **WANTED).table)


def test_a_bar_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "reading" not in done("orders.parquet", "-k", "5").stderr
    screen = io.StringIO()
    monkeypatch.setattr(_sample, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setenv("TERM", "xterm")
    seen: list[tuple[int, int | None]] = []
    with _sample._progress() as progress:
        assert progress is not None
        for method in ("gumbel", "pareto"):
            sample("orders.parquet", 5, weights="price", method=method, progress=lambda *at: seen.append(at))
        progress(1234, 2000)
    assert seen[-1] == (4000, 4000)
    assert (2000, 2000) in seen
    assert "1,234 rows" in screen.getvalue()
    sample(iter(TABLE.to_batches()), 5, progress=lambda *at: seen.append(at))
    assert seen[-1] == (2000, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere.parquet -k 1", "source must be files, but there is none at 'nowhere.parquet'; check the path"),
        ("broken.parquet -k 1", "Error creating dataset. Could not read schema from"),
        ("orders.parquet", "k must be given, or a budget, but neither is; pass the number of rows wanted"),
        ("orders.parquet -k 0", "k must be at least 1"),
        ("orders.parquet -k 1 --method best", "method must be one of"),
        ("orders.parquet -k 1 --weights cost", "the files must have the column 'cost', but they have ['order',"),
        ("orders.parquet -k 1 --columns cost", "the files must have the column 'cost', but they have ['order',"),
        ("orders.parquet -k 1 --weights country", "weights must be a column of numbers"),
        ("orders.parquet --budget size=much", "--budget must be like 100MB or COLUMN=TOTAL, but it is 'size=much'"),
        ("orders.parquet -k 1 -o rows.txt", "--output must end in .parquet,"),
        ("orders.parquet -k 1 -o orders.parquet", "--output must be another file than the source"),
        ("orders.parquet -k 50 --key line", "key must tell rows apart, but two rows have the same line"),
        ("orders.parquet -k 50 --estimate cost", "column must be a column of the table"),
    ],
)
def test_bad_words_are_one_line(words: str, message: str) -> None:
    Path("broken.parquet").write_text("a,b\n")
    result = call(*words.split())
    assert result.exit_code == 2
    assert f"error: {message}" in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_bad_pipes_are_one_line() -> None:
    assert "error: the pipe must give rows, but it is empty" in refused("-", "-k", "1", pipe=b"")
    parquet = Path("orders.parquet").read_bytes()
    assert "error: the pipe must be CSV or an Arrow stream, but it is Parquet" in refused("-", "-k", "1", pipe=parquet)
    assert "error: source must be a table that can be read twice" in refused(
        "-", "-k", "1", "--method", "poisson", pipe=text(TABLE)
    )
    assert "error: columns must be a column of the table" in refused(
        "-", "-k", "1", "--columns", "cost", pipe=text(TABLE)
    )
    ragged = b"a,b\n" + b"1,2\n" * 4_500_000 + b"1,x\n"  # beyond the block by which types are known
    assert "error: In CSV column #1" in refused("-", "-k", "1", "--weights", "b", pipe=ragged)
