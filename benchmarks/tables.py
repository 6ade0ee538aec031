"""Samples of rows, and a weighted order of a training set: our calls, their checks, and the peers."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import argumbel as ag

from .ops import op
from .peers import ARGPARTITION, Call, peer
from .problem import Problem

if TYPE_CHECKING:
    import pyarrow as pa

RESERVOIR, SCATTERED = "tables.Reservoir", "tables.Reservoir, scattered ids"
FILE, WHOLE_FILE = "tables.sample of a Parquet file", "tables.sample of a Parquet file, all columns"
ORDER, BUCKET = "data.WeightedSampler", "data.WeightedSampler, made before"

# Names that targets refer to.
DUCKDB = "select ... order by -ln(random()) / w limit k"
READ = "read the columns of the sample"
MAPPED = "read the columns of the sample, from mapped memory"
MULTINOMIAL = "multinomial(w, k)"

BATCH = 1_000_000
SEED = 7


def columns(p: Problem) -> pa.Table:
    """Rows with two ids: their numbers, and numbers of 62 bits without order. Made once, kept with the problem."""
    import pyarrow as pa

    if not hasattr(p, "columns"):
        n, generator = len(p.weights64), np.random.default_rng(0)
        p.columns = pa.table(
            {
                "number": np.arange(n),
                "id": generator.integers(0, 2**62, n),
                "w": p.weights64,
                "country": pa.DictionaryArray.from_arrays(generator.integers(0, 5, n, dtype=np.int8), list("ABCDE")),
                "x": generator.standard_normal(n),
            }
        )
    return p.columns


def file(p: Problem) -> str:
    """The rows as a Parquet file; it goes when the problem goes."""
    import pyarrow.parquet as pq

    if not hasattr(p, "file"):
        folder = tempfile.mkdtemp(prefix="argumbel-benchmark-")
        weakref.finalize(p, shutil.rmtree, folder)
        p.file = str(Path(folder) / "rows.parquet")
        pq.write_table(columns(p), p.file, row_group_size=BATCH, compression="zstd")
    return p.file


def use_threads() -> None:
    import pyarrow as pa

    pa.set_cpu_count(torch.get_num_threads())


# ----------------------------------------------------------------------------------------------------------------- ours


def check_race(p: Problem, weights: Any, ids: Any, noise: ag.KeyedNoise, drawn: Any, times: Any = None) -> None:
    """The k rows of least time, in order, and their times to the bit: those of the float64 noise over the weights."""
    exact = noise.exponential((1, len(weights)), dtype=torch.float64)[0].numpy() / np.asarray(weights, np.float64)
    first = np.argpartition(exact, p.k)[: p.k]
    first = first[np.argsort(exact[first], kind="stable")]
    assert np.array_equal(np.asarray(drawn), np.asarray(ids)[first]), "not the rows of least time"
    assert times is None or np.array_equal(np.asarray(times), exact[first]), "not the times of the plain expression"


def reservoir(p: Problem, key: str | None) -> Call:
    from argumbel.tables import Reservoir

    narrow = columns(p).select([key or "number", "w"])
    batches = narrow.to_batches(max_chunksize=BATCH)

    def call() -> pa.Table:
        rows = Reservoir(p.k, weights="w", key=key, seed=SEED)
        for batch in batches:
            rows.update(batch)
        return rows.result().table

    return call


def check_reservoir(p: Problem, key: str | None) -> None:
    drawn, ids = reservoir(p, key)(), columns(p)[key or "number"].to_numpy()
    noise = ag.KeyedNoise(SEED, rows=[0], items=ids)
    check_race(p, p.weights64, ids, noise, drawn[key or "number"], drawn["_key"])


@op(RESERVOIR, lambda p: check_reservoir(p, None))
def _(p: Problem) -> Call:
    return reservoir(p, None)


@op(SCATTERED, lambda p: check_reservoir(p, "id"))
def _(p: Problem) -> Call:
    return reservoir(p, "id")


def of_file(p: Problem, names: list[str] | None) -> Call:
    from argumbel.tables import sample

    use_threads()
    path = file(p)
    return lambda: sample(path, p.k, weights="w", seed=SEED, columns=names).table


def check_file(p: Problem, names: list[str] | None) -> None:
    drawn = of_file(p, names)()
    noise = ag.KeyedNoise(SEED, rows=[0], items=np.arange(len(p.weights64)))
    check_race(p, p.weights64, p.weights64, noise, drawn["w"], drawn["_key"])


@op(FILE, lambda p: check_file(p, ["w"]))
def _(p: Problem) -> Call:
    return of_file(p, ["w"])


@op(WHOLE_FILE, lambda p: check_file(p, None))
def _(p: Problem) -> Call:
    return of_file(p, None)


def check_order(p: Problem) -> None:
    sampler = ag.data.WeightedSampler(p.weights, p.k, seed=SEED)
    items = np.arange(len(p.weights))
    noise = ag.KeyedNoise(int(sampler.noise.seed), rows=[0], items=items)
    check_race(p, p.weights.numpy(), items, noise, next(sampler.indices(p.k)))


@op(ORDER, check_order)
def _(p: Problem) -> Call:
    seeds = itertools.count()
    return lambda: next(ag.data.WeightedSampler(p.weights, p.k, seed=next(seeds)).indices(p.k))


@op(BUCKET, check_order)
def _(p: Problem) -> Call:
    sampler, epochs = ag.data.WeightedSampler(p.weights, p.k), itertools.count()

    def call() -> Tensor:
        sampler.set_epoch(next(epochs))
        return next(sampler.indices(p.k))

    return call


# ---------------------------------------------------------------------------------------------------------------- peers


def duckdb_query(p: Problem, what: str, name: str, source: Any) -> Call:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"set threads = {torch.get_num_threads()}")
    if not isinstance(source, str):
        connection.register(name, source)
    query = f"select {what} from {name} order by -ln(random()) / w limit {p.k}"
    return lambda: connection.execute(query).fetchnumpy()


for _op, _id in ((RESERVOIR, "number"), (SCATTERED, "id")):

    @peer(DUCKDB, _op, library="duckdb")
    def _(p: Problem, name: str = _id) -> Call:
        return duckdb_query(p, f"{name}, w", "source", columns(p))


@peer(DUCKDB, FILE, library="duckdb")
def _(p: Problem) -> Call:
    return duckdb_query(p, "w", f"read_parquet('{file(p)}')", file(p))


@peer(DUCKDB, WHOLE_FILE, library="duckdb")
def _(p: Problem) -> Call:
    return duckdb_query(p, "*", f"read_parquet('{file(p)}')", file(p))


@peer(f"{ARGPARTITION}, batch by batch", RESERVOIR, SCATTERED, library="numpy")
def _(p: Problem) -> Call:
    rng, table = np.random.default_rng(0), columns(p)
    weights, ids = table["w"].to_numpy(), table["id"].to_numpy()

    def call() -> Any:
        times, places = np.zeros(0), np.zeros(0, np.int64)
        for start in range(0, len(weights), BATCH):
            w = weights[start : start + BATCH]
            times = np.concatenate([times, rng.standard_exponential(len(w)) / w])
            places = np.concatenate([places, np.arange(start, start + len(w))])
            least = np.argpartition(times, p.k)[: p.k] if len(times) > p.k else np.arange(len(times))
            times, places = times[least], places[least]
        places = places[np.argsort(times)]
        return ids[places], weights[places]

    return call


def read(p: Problem, names: list[str] | None, mapped: bool = False) -> Call:
    """As PyArrow reads by default; or as `tables` does: from mapped memory, and without more threads than cores."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.fs

    use_threads()
    dataset = ds.dataset(file(p), filesystem=pyarrow.fs.LocalFileSystem(use_mmap=mapped))
    threads = pa.cpu_count() > 1 or not mapped

    def call() -> Any:
        batches = dataset.to_batches(columns=names, batch_size=1 << 20, fragment_readahead=2, use_threads=threads)
        return np.int64(sum(len(batch) for batch in batches))

    return call


@peer(READ, FILE, library="pyarrow", floor=True)
def _(p: Problem) -> Call:
    return read(p, ["w"])


@peer(READ, WHOLE_FILE, library="pyarrow", floor=True)
def _(p: Problem) -> Call:
    return read(p, None)


@peer(MAPPED, FILE, library="pyarrow", floor=True)
def _(p: Problem) -> Call:
    return read(p, ["w"], mapped=True)


@peer(MAPPED, WHOLE_FILE, library="pyarrow", floor=True)
def _(p: Problem) -> Call:
    return read(p, None, mapped=True)


@peer(MULTINOMIAL, ORDER, BUCKET)
def _(p: Problem) -> Call:
    return lambda: torch.multinomial(p.weights, p.k)


@peer(ARGPARTITION, ORDER, BUCKET, library="numpy")
def _(p: Problem) -> Call:
    rng, w = np.random.default_rng(0), p.weights64

    def call() -> Any:
        times = rng.standard_exponential(len(w)) / w
        first = np.argpartition(times, p.k)[: p.k]
        return first[np.argsort(times[first])]

    return call
