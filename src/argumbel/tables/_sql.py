"""SQL text that draws a sample: for warehouses, where none of our code runs.

``src/argumbel/kernels/README.md``, written in SQL. It has neither words of 32 bits nor the bits of a float64: products
are of 64-bit numbers, and an exponent is found by comparisons with powers of two, whose products are exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .._core.checks import count, integer, one_of
from ._columns import Names, as_names

__all__ = ["sql"]

MASK = 2**32 - 1
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
SQRT_2 = 2 * float.fromhex("0x1.6a09e667f3bcdp-1")
LN2_HIGH, LN2_LOW = 0x162E42FEFA3 * 2.0**-41, 0x13DE6AF278ECE6 * 2.0**-94
CERTAIN = 40  # w T beyond which 1 - exp(-w T) is 1


class Duckdb:
    """What DuckDB calls things. Words are unsigned numbers of 64 bits, which hold a product of two words."""

    quote, text, fail = '"', "VARCHAR", "error"
    whole = (*(f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG")), "INTEGER", "UINTEGER",
             "BOOLEAN")  # fmt: skip

    def id(self, key: str) -> str:
        wide = f"CAST({key} AS HUGEINT)"
        return f"CAST(CASE WHEN {wide} >= {2**63} THEN {wide} - {2**64} ELSE {wide} END AS BIGINT)"

    def word(self, signed: str) -> str:
        return f"CAST({signed} AS UBIGINT)"

    def right(self, x: str, bits: int) -> str:
        return f"({x} >> {bits})"

    def xor(self, *words: str) -> str:
        first, *others = words
        for other in others:
            first = f"xor({first}, {other})"
        return first

    def product(self, constant: int, x: str) -> tuple[str, str]:
        """The upper and the lower word."""
        whole = f"{self.word(str(constant))} * {x}"
        return f"(({whole}) >> 32)", f"(({whole}) & {self.word(str(MASK))})"


class Spark(Duckdb):
    """What Spark calls things. Words are signed numbers of 64 bits; a product is made of halves of one factor."""

    quote, text, fail = "`", "STRING", "raise_error"
    whole = ("tinyint", "smallint", "int", "bigint", "boolean")

    def id(self, key: str) -> str:
        return f"CAST({key} AS BIGINT)"

    def word(self, signed: str) -> str:
        return f"CAST({signed} AS BIGINT)"

    def right(self, x: str, bits: int) -> str:
        return f"shiftright({x}, {bits})"

    def xor(self, *words: str) -> str:
        return f"({' ^ '.join(words)})"

    def product(self, constant: int, x: str) -> tuple[str, str]:
        factor = self.word(str(constant))
        low = f"{factor} * ({x} & 65535)"
        middle = f"({factor} * {self.right(x, 16)} + {self.right(low, 16)})"  # below 2^48 + 2^32
        return self.right(middle, 16), f"(({middle} & 65535) * 65536 + (({low}) & 65535))"


DIALECTS = {"duckdb": Duckdb(), "spark": Spark()}


def sql(
    table: str | Sequence[str],
    k: int,
    *,
    weights: str | None = None,
    key: str,
    seed: int = 0,
    dialect: str = "duckdb",
    columns: Names = None,
) -> str:
    """The text of a query that draws the rows of ``sample(table, k, weights=weights, key=key, seed=seed)``.

    It computes the time ``t_i = E_i / w_i`` of every row, from the seed and the row's id, in the operations of the
    library: the rows, their order and their ``_key`` are the same to the last bit. It is for engines that run no code
    of ours; a data frame or a file is sampled much faster by :func:`sample`.

    Args:
        table: the name of a table or view, or the parts of its name, as in ``("sales", "orders")``. Names are quoted.
        k: the number of rows, at least 1.
        weights: the column of weights, numbers of at least 0; a row of weight 0 is never drawn. Default: all weights 1.
        key: the column that tells rows apart, of integers. (Strings would need XXH64 with two seeds of our choice,
            which neither engine has.)
        seed: 64 bits.
        dialect: ``"duckdb"`` or ``"spark"``.
        columns: the columns of the sample; default all. ``_key`` and ``_weight`` are added, as in :class:`Sample`.

    Returns:
        The query, ``WITH ... SELECT ... ORDER BY ...``. It reads two columns of all rows, then the drawn rows. While it
        runs, it fails on a weight that is negative, NaN, infinite or null, on an id that is null or not an integer,
        and on an id that is drawn and comes twice.

    Raises:
        ValueError: another dialect; no key, or several; a name that is empty. TypeError: a name that is not a string.

    Example:
        >>> from argumbel.tables import sql
        >>> query = sql("orders", 100, weights="price", key="order_id", seed=7)
        >>> query.splitlines()[0], query.splitlines()[-1]
        ('WITH', 'ORDER BY d.t, d.id')

    Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    one_of("dialect", dialect, DIALECTS)
    names = as_names("key", key)
    if len(names) != 1:
        raise ValueError(
            f"key must be one column of integers for SQL, but it is {key!r}: rows of a query have no numbers, and "
            "engines have no XXH64 with the seeds 0 and 1, which ids of several columns need; add a column of integers"
        )
    engine, k, seed = DIALECTS[dialect], count("k", k, least=1), integer("seed", seed)
    parts = (table,) if isinstance(table, str) else tuple(table)
    source = ".".join(_quoted(engine, "table", part) for part in parts)
    kept = (
        "t.*"
        if columns is None
        else ", ".join(f"t.{_quoted(engine, 'columns', c)}" for c in as_names("columns", columns))
    )
    if not parts or not kept:
        raise ValueError("table and columns must be names, but there is none; leave columns out to take all")
    weight = _weight(engine, weights)
    row = _id(engine, names[0])
    stages = [("rows", f"{row} AS id, {weight} AS w", f"{source} AS t")]
    for number, chosen in enumerate([*_words(engine, seed), *_times()]):
        where = " WHERE w > 0" if number == 0 else ""
        stages.append((f"s{number}", chosen, stages[-1][0] + where))
    last = stages[-1][0]
    threshold = f"max(CASE WHEN n = {k + 1} THEN t END) OVER ()"
    stages += [
        ("least", "*", f"{last} ORDER BY t, id LIMIT {k + 1}"),
        ("ranked", "*, row_number() OVER (ORDER BY t, id) AS n", "least"),
        ("bounded", f"*, w * {threshold} / 2 AS y", "ranked"),
        ("drawn", _case(f"y < {CERTAIN // 2}", f"{_number(0.5)} / (exp(-y) * sinh(y))", _number(1)) + " AS u, *",
         "bounded"),
    ]  # fmt: skip
    text = ",\n".join(f"argumbel_{name} AS (SELECT {chosen} FROM {_own(of)})" for name, chosen, of in stages)
    twice = _failure(engine, f"'key must tell rows apart, but two rows have the same {_shown(names[0])}'", "DOUBLE")
    return (
        f"WITH\n{text}\n"
        f"SELECT {kept}, {_case('count(*) OVER (PARTITION BY d.id) > 1', twice, 'd.t')} AS _key, d.u AS _weight\n"
        f"FROM {source} AS t JOIN argumbel_drawn AS d ON {row} = d.id WHERE d.n <= {k}\n"
        "ORDER BY d.t, d.id"
    )


# --- names and values --------------------------------------------------------------------------------------------


def _quoted(engine: Duckdb, what: str, name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a name, but it is a {type(name).__name__}; pass a string")
    if not name or "\0" in name:
        raise ValueError(f"{what} must be a name, but it is {name!r}; pass the name as the engine shows it")
    return engine.quote + name.replace(engine.quote, 2 * engine.quote) + engine.quote


def _own(source: str) -> str:
    """A stage's name with the prefix that all have; the user's table has its quotes."""
    return source if source[0] in '"`' else f"argumbel_{source}"


def _shown(name: str) -> str:
    """A name as it may stand between quotation marks of any engine, whatever it escapes by."""
    return re.sub(r"[^\w .-]", "?", name)


def _number(x: float) -> str:
    """A float64, to the bit: a plain literal could be a decimal number."""
    return f"CAST('{x!r}' AS DOUBLE)"


def _case(condition: str, then: str, otherwise: str) -> str:
    return f"CASE WHEN {condition} THEN {then} ELSE {otherwise} END"


def _failure(engine: Duckdb, message: str, kind: str) -> str:
    return f"CAST({engine.fail}({message}) AS {kind})"


def _id(engine: Duckdb, key: str) -> str:
    name = f"t.{_quoted(engine, 'key', key)}"
    kinds = ", ".join(f"'{kind}'" for kind in engine.whole)
    is_not = f"'key must be of integers, but the type of {_shown(key)} is ' || typeof({name})"
    is_null = f"'key must tell rows apart, but {_shown(key)} is null'"
    return (
        f"CASE WHEN typeof({name}) NOT IN ({kinds}) THEN {_failure(engine, is_not, 'BIGINT')} "
        f"WHEN {name} IS NULL THEN {_failure(engine, is_null, 'BIGINT')} ELSE {engine.id(name)} END"
    )


def _weight(engine: Duckdb, weights: str | None) -> str:
    if weights is None:
        return _number(1.0)
    w = f"CAST(t.{_quoted(engine, 'weights', weights)} AS DOUBLE)"
    shown = f"coalesce(CAST({w} AS {engine.text}), 'null')"
    bad = f"'weights must be finite and at least 0, but {_shown(weights)} is ' || {shown}"
    return _case(f"{w} >= 0 AND {w} < CAST('Infinity' AS DOUBLE)", w, _failure(engine, bad, "DOUBLE"))


# --- the noise contract ------------------------------------------------------------------------------------------


def _words(engine: Duckdb, seed: int) -> list[str]:
    """What each stage computes, from ``id, w`` to ``id, w, f, g``: the words ``first`` and ``second``."""
    word, (k0, k1) = engine.word, (seed & MASK, seed >> 32 & MASK)
    lower, upper = f"{engine.right('id', 2)} & {MASK}", f"{engine.right('id', 34)} & {2**30 - 1}"
    # The counters of both streams differ in one bit of c1; c2 and c3 are 0. So most of round one is common.
    stages = [f"id, w, {word(lower)} AS c0, {word(upper)} AS c1"]
    high, low = engine.product(MULTIPLIERS[0], "c0")
    chosen = ["id", "w"]
    for name, stream in (("a", 0), ("b", 1 << 30)):
        zero = engine.xor("c1", word(str(k0 ^ stream)))
        chosen += [f"{zero} AS {name}0", f"{word('0')} AS {name}1", f"{engine.xor(high, word(str(k1)))} AS {name}2",
                   f"{low} AS {name}3"]  # fmt: skip
    stages.append(", ".join(chosen))
    for _ in range(ROUNDS - 1):
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
        chosen = ["id", "w"]
        for name in "ab":
            high0, low0 = engine.product(MULTIPLIERS[0], f"{name}0")
            high1, low1 = engine.product(MULTIPLIERS[1], f"{name}2")
            new = (engine.xor(high1, f"{name}1", word(str(k0))), low1,
                   engine.xor(high0, f"{name}3", word(str(k1))), low0)  # fmt: skip
            chosen += [f"{value} AS {name}{i}" for i, value in enumerate(new)]
        stages.append(", ".join(chosen))
    pick = "CAST(CASE id & 3 WHEN 0 THEN {0}0 WHEN 1 THEN {0}1 WHEN 2 THEN {0}2 ELSE {0}3 END AS BIGINT)"
    return [*stages, f"id, w, {pick.format('a')} AS f, {pick.format('b')} AS g"]


def _times() -> list[str]:
    """And from there to ``id, w, t``: section 2 of the contract, and float64 of its section 3."""
    side = f"f >= {2**31}"
    near = _case(side, f"({MASK} - f) * {2**32} + ({MASK} - g)", f"f * {2**32} + g")
    stages = [
        f"id, w, {side} AS side, (CAST({near} AS DOUBLE) + {_number(0.5)}) * {_number(2.0**-64)} AS h",
        f"id, w, side, h, {_case('side', 'h', f'{_number(1.0)} - h')} AS x",
        f"id, w, x, {_case('side', _number(0.0), f'({_number(1.0)} - x) - h')} / x AS c, x AS m, {_number(0.0)} AS n",
    ]
    for bits in (64, 32, 16, 8, 4, 2, 1):  # x = m 2^n, m in [sqrt(1/2), sqrt(2))
        small = f"m < {_number(SQRT_2 * 2.0**-bits)}"
        m, n = f"m * {_number(2.0**bits)}", f"n - {_number(float(bits))}"
        stages.append(f"id, w, c, {_case(small, m, 'm')} AS m, {_case(small, n, 'n')} AS n")
    r = _number(2 / 21)
    for odd in range(19, 1, -2):
        r = f"({r} * z + {_number(2 / odd)})"
    high, low = f"n * {_number(LN2_HIGH)}", f"n * {_number(LN2_LOW)}"
    return [
        *stages,
        f"id, w, c, n, m - {_number(1.0)} AS f",
        f"id, w, c, n, f, f / (f + {_number(2.0)}) AS s, ({_number(0.5)} * f) * f AS e",
        "id, w, c, n, f, s, e, s * s AS z",
        f"id, w, c, n, f, s, e, {r} * z AS r",
        f"id, w, -(({high} + ((f - (e - s * (e + r))) + {low})) + c) / w AS t",
    ]
