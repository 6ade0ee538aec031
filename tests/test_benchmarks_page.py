"""What the benchmarks store, write and refuse, with figures that nobody measured."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import typer
from benchmarks import __main__ as command
from benchmarks import alone, chart, compare, machine, measure, page, peers, quiet, registry, report
from benchmarks.exactness import Finding
from typer.testing import CliRunner, Result

app = typer.Typer()
app.command()(command.main)
MACHINE = {"date": "never", "CPU": "none, 2 cores", "system": "Linux", "threads": "2", "PyTorch's CPU path": "AVX512"}
SOFTMAX = "gumbel_softmax, 30,000 x 10"  # 15x with AVX-512, 12x with AVX2


def timed(name: str, ours: float, others: float) -> measure.Row:
    """A row as if these seconds had been measured."""
    (case,) = (c for c in registry.CASES if c.name == name)
    row = measure.Row(case.name, case.op.name, str(case.size), case.size.elements)
    row.entries = [measure.Entry("ours", measure.OURS, timing=measure.Timing(ours, ours, ours, 9))]
    timing = measure.Timing(others, others, others, 9)
    row.entries += [measure.Entry(peer.name, peer.library, peer.floor, timing) for peer in case.peers]
    return row


def results(kernels: str, *rows: measure.Row, others: float = 0.0) -> report.Results:
    return report.Results({**MACHINE, "kernels": kernels}, {"torch": "2", "argumbel": "1"}, list(rows), others=others)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Sets the shares that others take of each second that is looked at, and gives the pauses that were made."""

    def shares(*given: float) -> list[float]:
        clock, pauses = [quiet.Window()], list[float]()
        for share in given:
            clock += [clock[-1], clock[-1] + quiet.Window(2 * share, 2.0)]
        readings = iter(clock[1:])
        monkeypatch.setattr(quiet.Watch, "now", staticmethod(lambda: next(readings)))
        monkeypatch.setattr(quiet.time, "sleep", pauses.append)
        return pauses

    return shares


# ---------------------------------------------------------------------------------------------------------------- quiet


def test_what_is_disturbed_is_measured_again(windows: Callable[..., list[float]]) -> None:
    pauses = windows(0.2, 0.0, 0.04)
    watch, calls = quiet.Watch(again=True), iter(range(9))
    assert watch.measure("first", lambda: next(calls)) == 1
    assert watch.measure("second", lambda: next(calls)) == 2
    assert pauses == [quiet.PAUSES[0]]
    assert watch.total.share == pytest.approx(0.02)  # what was dropped does not count


def test_it_gives_up_after_three_tries(windows: Callable[..., list[float]]) -> None:
    pauses = windows(0.2, 0.3, 0.4, 0.0)
    calls = iter(range(9))
    with pytest.raises(quiet.Disturbed, match=r"a case: other processes took 40% of the cores' time in the last of 3"):
        quiet.Watch(again=True).measure("a case", lambda: next(calls))
    assert next(calls) == 3
    assert pauses == list(quiet.PAUSES)


def test_who_does_not_mind_measures_once(windows: Callable[..., list[float]]) -> None:
    pauses = windows(0.5)
    watch = quiet.Watch(again=False)
    assert watch.measure("a case", lambda: 7) == 7
    assert watch.total.share == pytest.approx(0.5)
    assert pauses == []


def test_short_windows_may_miss_by_some_ticks() -> None:
    assert not quiet.Window(0.04, 0.2).disturbed
    assert quiet.Window(0.04 + 0.2, 0.2).disturbed
    assert not quiet.Window(5.0, 100.0).disturbed
    assert quiet.Window(5.1, 100.0).disturbed
    assert quiet.Window().share is None
    assert not quiet.Window().disturbed


def test_what_the_system_tells_grows() -> None:
    before = quiet.Watch.now()
    window = quiet.Watch.now() - before
    assert window.whole >= 0
    assert not quiet.STAT.exists() or before.whole > 0


# ----------------------------------------------------------------------------------------------------------------- page


def test_instruction_sets_stand_side_by_side(tmp_path: Path) -> None:
    rows = [timed(SOFTMAX, 1e-3, 14e-3), timed("gumbel_max, 30,000 x 10", 1e-3, 30e-3)]
    page.store(results("v3", *rows), tmp_path)
    page.store(dataclasses.replace(results("v4", rows[0]), machine={**MACHINE, "CPU": "X", "kernels": "v4"}), tmp_path)
    runs = page.stored(tmp_path)
    assert [run.kernels for run in runs] == ["v4", "v3"]
    text = page.write(tmp_path).read_text()
    assert text == page.markdown(runs, "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert "|  | AVX-512 (`v4`) | AVX2 (`v3`) |" in text
    assert "| CPU | X | none, 2 cores |" in text
    assert "AVX-512: 0 of 1 reached. AVX2: 2 of 2 reached." in text
    assert (
        f"| gumbel_softmax | 30,000 x 10 | {peers.F_GUMBEL_SOFTMAX} | 15x (AVX-512) | 14.0x | **missed** |  |  |"
        in text
    )
    assert f"| gumbel_softmax | 30,000 x 10 | {peers.F_GUMBEL_SOFTMAX} | 12x (AVX2) |  |  | 14.0x | reached |" in text
    assert f"| gumbel_max | 30,000 x 10 | {peers.RACE} | 15x |  |  | 30.0x | reached |" in text
    assert "| argumbel 1 | **ours** | 1.00 ms [1.00 ms, 1.00 ms] | 3.33 | 1.00x |  | 1.00 ms" in text


def test_new_results_take_the_place_of_their_own_set_alone(tmp_path: Path) -> None:
    for kernels, seconds in (("v4", 1.0), ("v3", 2.0), ("v4", 3.0)):
        page.store(results(kernels, timed(SOFTMAX, seconds, 9.0)), tmp_path)
    assert [run.rows[0].ours.timing.median for run in page.stored(tmp_path)] == [3.0, 2.0]


def test_one_instruction_set_has_no_names_in_its_columns() -> None:
    text = page.markdown([results("v3", timed(SOFTMAX, 1e-3, 14e-3))], None)
    assert "| library | way | time | ns / element | ratio | memory, MB |" in text
    assert "AVX-512" not in text


def test_findings_that_differ_are_told_apart() -> None:
    runs = [results("v4"), results("v3")]
    for run, verdict in zip(runs, ("pass", "undecided"), strict=True):
        run.findings = [Finding("ties", "way", "torch", "0.5", "0.5", verdict, 0.5)]
        run.findings += [Finding("gap", "way", "torch", "1", "1", "pass", 0.5)]
    text = page.markdown(runs, None)
    assert "| torch 2 | `way` | right | AVX-512: right, AVX2: undecided |" in text
    assert "| torch 2 | `way` | AVX2 | 0.5 | 0.5 | 0.5 | undecided |" in text


def test_stored_rows_of_cases_that_are_no_more_are_shown() -> None:
    row = timed(SOFTMAX, 1e-3, 14e-3)
    row.case = row.op = "an operation of old"
    assert "### an operation of old" in page.markdown([results("v4", row)], None)


def test_the_page_is_that_of_the_stored_results() -> None:
    runs = page.stored(command.HERE)
    same = (command.HERE / "RESULTS.md").read_text() == page.markdown(runs, "chart.png")
    assert same, "RESULTS.md is not written from benchmarks/results/: run python -m benchmarks --redraw"


def test_a_chart_needs_times(tmp_path: Path) -> None:
    assert not chart.draw([results("v4")], tmp_path / "chart.png")


# ------------------------------------------------------------------------------------------------------------- refusing


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command on one case, of which others take this share."""

    def run(folder: Path, *arguments: str, others: float = 0.0, home: Path | None = None) -> Result:
        def measured(case: registry.Case, seconds: float, least: int = 3, watch: quiet.Watch | None = None) -> object:
            assert watch is not None
            watch.total += quiet.Window(2 * others, 2.0)
            if others > 0.5:
                raise quiet.Disturbed(f"{case.name}: other processes took {others:.0%}")
            return timed(case.name, 1e-3, 20e-3)

        monkeypatch.setattr(command.machine, "confine", lambda threads: None)
        monkeypatch.setattr(measure, "measure", measured)
        monkeypatch.setattr(measure, "measure_memory", lambda rows: None)
        monkeypatch.setattr(machine, "describe", lambda cores: {**MACHINE, "kernels": "v4"})
        if home:
            monkeypatch.setattr(command, "HERE", home)
        where = [] if home else ["--out", str(folder)]
        return CliRunner().invoke(app, ["--only", SOFTMAX, *where, *arguments])

    return run


def test_a_quiet_run_writes_the_page(bench: Callable[..., Result], tmp_path: Path) -> None:
    done = bench(tmp_path, others=0.04)
    assert done.exit_code == 0, done.output
    assert "| other processes | 4% of the cores' time |" in (tmp_path / "RESULTS.md").read_text()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["RESULTS.md", "chart.png", "results"]


@pytest.mark.parametrize("others", [0.06, 0.6])
def test_a_busy_machine_is_refused(bench: Callable[..., Result], tmp_path: Path, others: float) -> None:
    bench(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")}
    done = bench(tmp_path, others=others)
    assert done.exit_code == command.DISTURBED
    assert f"other processes took {others:.0%}" in done.output
    assert "The page stays as it was." in done.output
    after = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")}
    if others < 0.5:  # it ended before the first case had been measured
        assert f"{tmp_path / 'run-v4.json'} holds what it measured" in done.output
        assert report.Results.load(tmp_path / "run-v4.json").others == pytest.approx(others)
        del after["run-v4.json"]
    assert after == before


def test_a_busy_machine_can_be_accepted(bench: Callable[..., Result], tmp_path: Path) -> None:
    done = bench(tmp_path, "--busy", others=0.06)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "RESULTS.md").read_text()
    assert "**AVX-512: the machine was busy. Other processes took 6% of the cores' time" in text


def test_a_part_leaves_the_page_alone(bench: Callable[..., Result], tmp_path: Path) -> None:
    done = bench(tmp_path, home=tmp_path)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["run-v4.json"]


def test_redraw(bench: Callable[..., Result], tmp_path: Path) -> None:
    assert bench(tmp_path, "--redraw").exit_code == command.REFUSED
    page.store(results("v3", timed(SOFTMAX, 1e-3, 14e-3)), tmp_path)
    assert bench(tmp_path, "--redraw").exit_code == 0
    assert "AVX2 (`v3`)" in (tmp_path / "RESULTS.md").read_text()


# ------------------------------------------------------------------------------------------------------------ comparing


def of_alone(times: dict[str, list[float] | None]) -> Callable[[Sequence[str]], list[measure.Row]]:
    def measured(cases: Sequence[str], *_: object, **__: object) -> list[measure.Row]:
        rows = [timed(case, 1.0, 1.0) for case in cases]
        for row in rows:
            row.entries, row.alone = [], copy.copy(times[row.case])
            row.failure = None if row.alone else "AssertionError: a wrong law"
        return rows

    return measured


def test_ten_rows_are_chosen() -> None:
    assert len(set(alone.TEN)) == 10
    assert set(alone.TEN) <= {case.name for case in registry.CASES}


def test_a_row_is_slower_beyond_the_gate() -> None:
    one, two = alone.TEN[:2]
    new = of_alone({one: [1.05, 1.2, 1.3], two: [1.06, 1.4, 1.2]})
    first, second = compare.compare({one: 1.0, two: 1.0}, new)
    assert (first.ratio, first.passed) == (1.05, True)
    assert (second.ratio, second.passed) == (1.06, False)
    text = compare.lines([first, second])
    assert f"| {two} | 1,000 ms | 1,060 ms | 1.060 | **slower** |" in text
    assert "1 of 2 rows" in text


def test_what_seems_slower_is_measured_again() -> None:
    one, two = alone.TEN[:2]
    rounds = iter([{one: [1.2, 1.3], two: [1.0]}, {one: [1.1, 1.4]}, {one: [1.01, 1.2]}])
    asked: list[list[str]] = []

    def measured(cases: Sequence[str]) -> list[measure.Row]:
        asked.append(list(cases))
        return of_alone(next(rounds))(cases)

    assert [c.ratio for c in compare.compare({one: 1.0, two: 1.0}, measured)] == [1.01, 1.0]
    assert asked == [[one, two], [one], [one]]


def test_what_stays_slower_does_not_pass() -> None:
    one, asked = alone.TEN[0], []

    def measured(cases: Sequence[str]) -> list[measure.Row]:
        asked.append(list(cases))
        return of_alone({one: [1.06 + 0.01 * len(asked)]})(cases)

    (compared,) = compare.compare({one: 1.0}, measured)
    assert (compared.ratio, compared.passed) == (1.07, False)
    assert len(asked) == 1 + compare.AGAIN


def test_old_and_new_take_turns() -> None:
    one, two = alone.TEN[:2]
    order: list[str] = []

    def measured(name: str, times: dict[str, Iterator[float]]) -> compare.Measure:
        def once(cases: Sequence[str]) -> list[measure.Row]:
            order.append(name)
            return of_alone({case: [next(times[case])] for case in cases})(cases)

        return once

    # The machine becomes slower with every run; the new code of the second row is slower by itself.
    first, second = compare.in_turn(
        [one, two],
        measured("old", {one: itertools.count(1.0, 0.1), two: itertools.count(1.0, 0.1)}),
        measured("new", {one: itertools.count(1.02, 0.1), two: itertools.count(1.2, 0.1)}),
    )
    assert (first.ratio, first.passed) == (1.02, True)
    assert (second.ratio, second.passed) == (1.2, False)
    assert order[:6] == ["new", "old", "old", "new", "new", "old"]
    assert order.count("old") == order.count("new") == alone.RUNS * (1 + compare.AGAIN)


def test_old_code_that_fails_its_check_is_no_measure() -> None:
    one = alone.TEN[0]
    with pytest.raises(compare.Refused, match="old code must pass the check"):
        compare.in_turn([one], of_alone({one: None}), of_alone({one: [1.0]}))


def test_a_failed_check_does_not_pass() -> None:
    (compared,) = compare.compare({alone.TEN[0]: 1.0}, of_alone({alone.TEN[0]: None}))
    assert not compared.passed
    assert "a wrong law" in compare.lines([compared])


def test_best_is_the_least_of_the_runs() -> None:
    assert alone.best([1.3, 1.0, 1.2]) == 1.0


@pytest.mark.parametrize("name", compare.SAME)
def test_another_machine_is_refused(name: str) -> None:
    old = results("v4")
    compare.check(old, dict(old.machine))
    with pytest.raises(compare.Refused, match="must be of the same machine and instruction set"):
        compare.check(old, {**old.machine, name: "another"})


def test_notes_tell_what_may_explain_a_difference() -> None:
    old = results("v4", others=0.1)
    assert compare.notes(old, {"torch": "3", "argumbel": "1"}) == [
        "torch was 2, and is 3",
        "other processes took 10% of the cores' time of the old results",
    ]


@pytest.mark.parametrize(("factor", "code"), [(1.04, 0), (1.06, command.WRONG)])
def test_the_commands(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factor: float, code: int
) -> None:
    case = next(c.name for c in registry.CASES if SOFTMAX in c.name)
    old = tmp_path / "old.json"
    monkeypatch.setattr(alone, "measure", of_alone({case: [0.2, 0.1]}))
    assert bench(tmp_path, "--baseline", str(old)).exit_code == 0
    monkeypatch.setattr(alone, "measure", of_alone({case: [0.1 * factor, 0.3]}))
    done = bench(tmp_path, "--compare", str(old))
    assert done.exit_code == code, done.output
    assert f"{factor:.3f}" in done.output


@pytest.mark.parametrize(("factor", "code"), [(1.04, 0), (1.06, command.WRONG)])
def test_against_other_code(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factor: float, code: int
) -> None:
    def measured(cases: Sequence[str], *_: object, python: str | None = None, **__: object) -> list[measure.Row]:
        return of_alone({case: [0.1 if python == __file__ else 0.1 * factor] for case in cases})(cases)

    monkeypatch.setattr(alone, "measure", measured)
    done = bench(tmp_path, "--against", __file__)
    assert done.exit_code == code, done.output
    assert f"{factor:.3f}" in done.output
    assert bench(tmp_path, "--against", str(tmp_path / "absent")).exit_code == command.REFUSED


def test_results_that_cannot_be_compared_with(bench: Callable[..., Result], tmp_path: Path) -> None:
    done = bench(tmp_path, "--compare", str(tmp_path / "absent.json"))
    assert done.exit_code == command.REFUSED
    path = page.store(results("v4", timed(SOFTMAX, 1.0, 2.0)), tmp_path)
    done = bench(tmp_path, "--compare", str(path))
    assert done.exit_code == command.REFUSED
    assert "a time of ours alone" in done.output
    path = page.store(results("v3"), tmp_path)
    done = bench(tmp_path, "--compare", str(path))
    assert done.exit_code == command.REFUSED
    assert "set ARGUMBEL_KERNELS=v3 to measure this path" in done.output


def test_another_interpreter_imports_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"  # what answers only where PYTHONPATH does not lead to our code
    answer = json.dumps({"times": [[alone.TEN[0], 0.5, None]], "window": [0.0, 1.0]})
    python.write_text(f"#!/bin/sh\n[ -z \"$PYTHONPATH\" ] && echo '{answer}'\n")
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", "src")
    (row,) = alone.measure([alone.TEN[0]], quiet.Watch(), runs=1, python=str(python))
    assert row.alone == [0.5]


def test_a_run_alone_is_a_process_of_its_own() -> None:
    (row,) = alone.measure(["noise, 4,000,000"], quiet.Watch(), seconds=0.0, runs=1)
    assert row.failure is None
    assert row.alone is not None
    assert len(row.alone) == 1
