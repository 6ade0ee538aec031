"""A sample of all rows of a table, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from .._core.checks import count
from ._clusters import open_cluster, sample_cluster
from ._columns import Names, as_names, needed
from ._decay import as_decay
from ._reservoir import Reservoir
from ._sample import Sample
from ._scale import Scale, Scales
from ._sources import Files, Source, open_source

__all__ = ["sample"]


def sample(
    source: Any,
    k: int | None = None,
    *,
    weights: str | None = None,
    key: Names = None,
    by: Names = None,
    seed: int = 0,
    method: str = "gumbel",
    budget: tuple[str, float] | str | None = None,
    unit: str = "row",
    nulls: str = "error",
    columns: Names = None,
    decay: tuple[str, float] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Sample:
    """k rows of a table without replacement, each next one with probability ``w_i / sum of w over the rows left``.

    The same seed gives the same rows, whatever engine holds the table, however it is split into batches and files, and
    (with ``key``) in whatever order the rows come: row i arrives at ``t_i = E_i / w_i``, where E_i is the exponential
    noise of its id, and the k first rows are the sample. Memory is two batches and the sample.

    Args:
        source: the table. A path or a pattern of Parquet, CSV or Arrow files, a folder of such files, or a list (the
            files are taken in the order of their names); anything with ``__arrow_c_stream__``: a data frame of pandas
            or Polars, a relation of DuckDB, a table of Arrow, ...; a ``LazyFrame`` of Polars; a ``Dataset`` of
            PyArrow; an iterator of batches; or a data frame of Dask or Spark or a dataset of Ray, which need ``key``.
        k: the number of rows, at least 1. May be left out where a budget is given.
        weights: the column of weights, numbers of at least 0; a row of weight 0 is never drawn. Default: all weights 1.
        key: the column, or columns, that tell rows apart. Default: the number of the row in the source, so a source in
            another order gives another sample.
        by: the column, or columns, of groups: k rows of each, or a budget for each.
        seed: 64 bits. Tables sampled with the same seed, and whose rows share ids, share their noise.
        method: ``"gumbel"``, ``"priority"``, ``"poisson"`` (k rows on average) or ``"pareto"`` (k rows, row i with
            probability about ``min(1, c w_i)``): see :class:`Reservoir`. The last two read the weights twice.
        budget: the greatest total cost, ``(column, total)`` or bytes, ``"100MB"``.
        unit: ``"row"`` or ``"key"``: see :class:`Reservoir`.
        nulls: ``"error"``, or ``"zero"``: a null weight counts as 0.
        columns: the columns of the sample; default all. Of files the other columns are read for the drawn rows alone;
            on a cluster these columns and those that the draw needs are read.
        decay: ``(column of times, rate)``, weights of ``w exp(rate t)``: see :class:`Reservoir`.
        progress: called after each batch with the number of rows read so far, and that of all rows to read, which is
            None where the source does not say. What is read twice counts twice. A cluster reports its own progress.

    Returns:
        :class:`Sample`. Where fewer rows have a positive weight, all of these.

    Raises:
        ValueError, TypeError: as :class:`Reservoir`; FileNotFoundError: no such file.

    Example:
        >>> import pyarrow as pa
        >>> from argumbel.tables import sample
        >>> table = pa.table({"city": ["Oslo", "Rome", "Bern", "Nice"], "people": [700.0, 2800.0, 130.0, 340.0]})
        >>> sample(table, 2, weights="people", key="city", seed=3).table["city"].to_pylist()
        ['Oslo', 'Rome']

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir"; Vieira 2014, "Gumbel-max trick
    and weighted reservoir sampling".
    """
    decay = as_decay(decay)
    cluster = open_cluster(source)
    if cluster is not None:
        return sample_cluster(
            cluster, k, weights=weights, key=key, by=by, seed=seed, method=method, budget=budget, unit=unit,
            nulls=nulls, columns=columns, decay=decay,
        )  # fmt: skip
    rows = open_source(source)
    scale, read_twice = None, method in ("poisson", "pareto")
    watch = _Watch(progress, rows, 2 if read_twice else 1)
    if read_twice:
        scale = _scale(rows, Scale(count("k", k, least=1), weights, nulls, by), watch)
    narrow = needed(weights, key, by, budget, decay)
    wanted = None if columns is None else list(as_names("columns", columns))
    rows.check(wanted)
    # Files of many columns: one pass over the few that the race needs, then the winners' rows.
    is_wide = wanted is None or not set(narrow) >= set(wanted)
    files = rows if isinstance(rows, Files) and is_wide and not isinstance(budget, str) else None
    reservoir = Reservoir(
        k, weights=weights, key=key, by=by, seed=seed, method=method, scale=scale, budget=budget, unit=unit,
        nulls=nulls, columns=wanted if files is None else [name for name in narrow if wanted is None or name in wanted],
        decay=decay,
    )  # fmt: skip
    more = () if files is not None else wanted
    for batch in watch(rows.batches(None if more is None else list(dict.fromkeys([*narrow, *more])))):
        reservoir.update(batch)
    found = reservoir.result()
    if files is None:
        return found
    kept = found.table.select(range(found.table.num_columns - 2))  # without _key and _weight
    return found.with_rows(files.complete(kept, found.positions, wanted))


class _Watch:
    """Passes batches on, and says after each how many rows have been read, in one pass or several."""

    def __init__(self, progress: Callable[[int, int | None], None] | None, rows: Source, passes: int) -> None:
        total = rows.count() if progress is not None else None
        self._progress, self._done, self._total = progress, 0, None if total is None else passes * total

    def __call__(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for batch in batches:
            yield batch
            self._done += len(batch)
            if self._progress is not None:
                self._progress(self._done, self._total)


def _scale(rows: Source, scale: Scale, watch: _Watch) -> Scales:
    """What multiplies the weights, by a pass over them."""
    if not rows.can_repeat:
        raise ValueError(
            "source must be a table that can be read twice for 'poisson' and 'pareto', but it is a stream; write it to "
            "a file first, or pass scale= to a Reservoir"
        )
    for batch in watch(rows.batches([*([scale.weights] if scale.weights else []), *scale.by] or None)):
        scale.update(batch)
    return scale.value()
