"""The benchmark of the GPU kernels, as far as it can be tested without one: every part runs, targets are judged."""

from __future__ import annotations

import dataclasses
import itertools
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from benchmarks import report
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, clock, page, peers, tails
from benchmarks.measure import OURS, Entry, Row, Timing
from benchmarks.problem import Problem
from typer.testing import CliRunner

CPU = torch.device("cpu")
app = typer.Typer()
app.command()(command.main)


def run(*words: str) -> page.GpuResults:
    """A dry run."""
    results = page.GpuResults(page.describe(CPU), {}, quick=True)
    for _ in command.run(results, list(words), CPU, 600, 0.0, 0.0):
        pass
    return results


def timed(case: cases.GpuCase, seconds: dict[str, float]) -> Row:
    """A row as if these had been measured; the first is ours."""
    row = Row(case.name, case.op.name, str(case.size), case.size.elements)
    for name, t in seconds.items():
        row.entries.append(Entry(name, OURS if name == "ours" else "torch", timing=Timing(t, t, t, 9)))
    return row


def find(name: str) -> cases.GpuCase:
    (case,) = (c for c in cases.CASES if c.name == name)
    return case


# ------------------------------------------------------------------------------------------------------------- registry


def test_cases_have_names_of_their_own_and_peers() -> None:
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    assert {case.op.name for case in cases.CASES} == set(peers.PEERS)
    assert {case.name for case in cases.REPLAYED} <= set(names)
    for case in cases.CASES:
        assert len({peer.name for peer in case.peers}) == len(case.peers), case.name
        for target in case.targets:
            assert set(target.against) <= {peer.name for peer in case.peers}, case.name


def test_the_grid_is_whole() -> None:
    names = {case.name for case in cases.CASES}
    for op in ("categorical", "gumbel_max", "gumbel_softmax", "gumbel_softmax + backward"):
        for batch, n, dtype in itertools.product(
            ("1", "8", "64", "256", "1,024"), ("32,000", "128,256", "256,000"), ("", " bfloat16")
        ):
            assert f"{op}, {batch} x {n}{dtype}" in names


def test_what_targets_are_about_comes_first() -> None:
    wanted = [bool(case.targets) for case in cases.CASES]
    assert wanted == sorted(wanted, reverse=True)
    assert sum(wanted) == 11


def test_bytes_that_have_to_be_moved() -> None:
    n = 256 * 128_256
    assert find("categorical, 256 x 128,256 bfloat16").bytes == 2 * n
    assert find("gumbel_max, 256 x 128,256").bytes == 4 * n
    assert find("gumbel_softmax, 256 x 128,256").bytes == 8 * n
    assert find("gumbel_softmax + backward, 256 x 128,256 bfloat16").bytes == 10 * n
    linear = find("linear_categorical, 8 x 151,936 D = 4,096 bfloat16")
    assert linear.bytes == 2 * 4096 * (151_936 + 8)
    assert find("noise, 67,108,864").bytes == 4 << 26


# -------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(("argmax", "race", "reached"), [(0.8, 3.0, [True, True]), (0.79, 2.9, [False, False])])
def test_targets_are_judged(argmax: float, race: float, reached: list[bool]) -> None:
    case = find("categorical, 256 x 128,256 bfloat16")
    row = timed(case, {"ours": 1.0, peers.ARGMAX: argmax, peers.RACE: race})
    assert [judged.reached for judged in report.judge([row], cases.CASES)] == reached


def test_a_layer_is_judged_against_the_fastest_sampler_there_is() -> None:
    case = find("linear_categorical, 8 x 151,936 D = 4,096 bfloat16")
    row = timed(case, {"ours": 1.0, "slow": 3.0, "fast": 1.1, peers.LINEAR: 0.9})
    row.entries[-1].floor = True
    row.entries.append(Entry("absent", "flashinfer", trouble="flashinfer is not installed"))
    (judged,) = report.judge([row], cases.CASES)
    assert (judged.ratio, judged.reached) == (1.1, True)
    row.entries.append(Entry("broken", "torch", trouble="RuntimeError: out of memory"))
    (judged,) = report.judge([row], cases.CASES)
    assert (judged.reached, judged.trouble) == (None, "no time of broken")


def test_the_page_gives_bandwidth_and_failures(tmp_path: Path) -> None:
    first, second = find("gumbel_max, 256 x 128,256 bfloat16"), find("gumbel_max, 256 x 128,256")
    results = page.GpuResults({"GPU": "none", "date": "never"}, {}, bandwidth=3e12)
    seconds = first.bytes / 1.5e12
    results.rows = [timed(first, {"ours": seconds, peers.ARGMAX: seconds / 2}), timed(second, {})]
    results.rows[0].ours.host, results.rows[0].ours.memory = 30e-6, 5_000_000
    results.rows[1].failure = "AssertionError: a wrong law"
    text = page.markdown(results)
    assert "| 256 x 128,256 bfloat16 | 43.8 µs | 30.0 µs | 1,500 | 50% | 0.50x |" in text
    assert "| gumbel_max | 256 x 128,256 bfloat16 | torch.argmax | 0.5x | 0.50x | reached |" in text
    assert "| gumbel_max | 256 x 128,256 | torch.argmax | 0.5x | our check fails | not measured |" in text
    assert "**check failed**: `AssertionError: a wrong law`" in text
    assert "| 256 x 128,256 bfloat16 | 5.00 |" in text
    results.save(tmp_path / "results.json")
    assert page.GpuResults.load(tmp_path / "results.json") == results


def test_results_of_parts_are_put_together(tmp_path: Path) -> None:
    case = find("gumbel_max, 256 x 128,256")
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        results = page.GpuResults({"GPU": "none", "date": name}, {}, [timed(case, {"ours": seconds})])
        results.save(tmp_path / f"{name}.json")
    arguments = [word for name in ("one", "two") for word in ("--redraw", str(tmp_path / f"{name}.json"))]
    assert CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")]).exit_code == 0
    merged = page.GpuResults.load(tmp_path / "out" / "results_gpu.json")
    assert [row.ours.timing.median for row in merged.rows if row.ours.timing] == [2.0]
    assert (tmp_path / "out" / "RESULTS_GPU.md").read_text().startswith(page.TITLE)
    with pytest.raises(ValueError, match="different machines"):
        merged.add(page.GpuResults({"GPU": "another", "date": ""}, {}))


# ------------------------------------------------------------------------------------------------------------- dry runs


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("categorical, 3 x 200", 4),  # of a linear layer too
        ("gumbel_max, 3 x 200", 3),
        ("gumbel_softmax, 3 x 200", 2),
        ("gumbel_softmax + backward, 3 x 200 bfloat16", 1),
        ("gumbel_topk", 1),
        ("noise", 2),
    ],
)
def test_a_dry_run(words: str, rows: int) -> None:
    results = run(words)
    assert len(results.rows) == rows
    assert results.troubles == []
    for row in results.rows:
        assert row.failure is None, row
        for entry in row.entries:
            assert entry.timing or entry.trouble == f"{entry.library} is not installed", entry
    text = page.markdown(results)
    assert text.startswith("# A dry run")
    assert all(f"| {row.size} |" in text for row in results.rows)


def test_a_dry_run_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "REPLAYED", cases.REPLAYED[1:6:2])
    results = run("graphs")
    assert len(results.replays) == 3
    assert all(row.failure is None and row.ours.timing for row in results.replays)
    assert "### gumbel_softmax, replayed" in page.markdown(results)


def test_a_graph_that_repeats_itself_is_noticed() -> None:
    problem = Problem(cases.REPLAYED[1].tiny().size)
    once = problem.logits.argmax(-1)
    with pytest.raises(AssertionError, match="all replays are the same"):
        tails.check_replays(problem, lambda: once)
    with pytest.raises(AssertionError):
        tails.check_replays(problem, lambda: torch.randint(0, 200, (3,)))


def test_every_contestant_draws() -> None:
    logits = torch.tensor([0.0, -torch.inf, 1.0], dtype=torch.bfloat16)
    for (library, name), draw in tails._draws(CPU).items():
        if library != "flashinfer":
            drawn = draw(logits, 20)
            assert drawn.shape == (20,), name
            assert set(drawn.tolist()) == {0, 2}, name


def test_a_dry_run_of_tails_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {key: draw for key, draw in tails._draws(CPU).items() if "Gumbel" in key[1] or key[1] == "categorical"}
    monkeypatch.setattr(tails, "_draws", lambda device: few)
    results = run("tails", "keys")
    found = {(f.question, f.contestant): f.verdict for f in results.findings if f.library == OURS}
    assert {question for question, _ in found} == {q.name for q in tails.QUESTIONS}
    assert found[tails.KEYS, "gumbel_max, rows of 10"] == "pass"
    assert "fail" not in found.values()
    assert any(f.library == "torch" and f.verdict == "fail" for f in results.findings)
    assert "2,000 | 0 |" in page.markdown(results)


def test_another_choice_of_the_same_key_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, true = itertools.count(), tails.ag.gumbel_max

    def wrong(logits: torch.Tensor, noise: object) -> object:
        choice = true(logits, noise=noise)
        return choice if next(calls) % 2 else choice._replace(indices=choice.indices.roll(1))

    monkeypatch.setattr(tails.ag, "gumbel_max", wrong)
    (finding,) = tails.same_choice(CPU, 1.0, {10: 100})
    assert finding.verdict == "fail"


def test_what_there_is_no_time_for_is_named() -> None:
    results = page.GpuResults({}, {}, quick=True)
    list(command.run(results, ["noise"], CPU, 0.0, 0.0, 0.0))
    assert results.rows == []
    assert results.troubles == ["out of time: noise, 4,096; noise, 4,096 bfloat16"]


def test_the_command_writes_nothing_without_a_gpu(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--out", str(tmp_path), "--only", "noise, 4,096 bfloat16"]
    outcome = CliRunner().invoke(app, [*arguments, "--quick"])
    assert outcome.exit_code == 0, outcome.output
    assert "nothing was written" in outcome.output
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ the GPU's clock


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CUDA's events, graphs and counters, by the CPU's clock; what was done stands in the list."""
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, end: Event) -> float:
            return (end.at - self.at) * 1e3

    memory = itertools.count(1000, 1000)
    fakes = {
        "set_device": lambda device: None,
        "Event": Event,
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: next(memory),
        "max_memory_allocated": lambda: next(memory),
        "Stream": lambda: SimpleNamespace(wait_stream=lambda stream: None),
        "current_stream": lambda: SimpleNamespace(wait_stream=lambda stream: None),
        "stream": lambda stream: nullcontext(),
        "set_sync_debug_mode": log.append,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        "graph": lambda graph: nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(clock, "FLUSH", 1 << 10)
    return log


def test_time_by_events_is_that_of_the_call_alone(pretended: list[str]) -> None:
    ticks = clock.Events(CPU)
    taken = ticks.take_turns({"slow": lambda: time.sleep(2e-3), "fast": lambda: None}, 0.02, 10)
    assert 10 <= len(taken["slow"]) <= 15
    assert len(taken["fast"]) == 200
    assert 2e-3 <= sorted(taken["slow"])[5] < 4e-3
    assert sorted(taken["fast"])[100] < 1e-4
    assert (ticks.host(lambda: time.sleep(1e-3)) or 0) >= 1e-3
    assert clock.copy_bandwidth(ticks, CPU, 1 << 12) > 0


def test_memory_is_that_beyond_the_result(pretended: list[str]) -> None:
    assert clock.Events(CPU).memory(lambda: torch.zeros(100, dtype=torch.int8)) == 900


def test_a_graph_is_captured_after_a_call_that_must_not_wait(pretended: list[str]) -> None:
    replay = clock.Events(CPU).capture(lambda: 7)
    assert pretended == ["error", "default"]
    assert replay() == 7
    assert pretended[-1] == "replay"


def test_a_call_that_waits_is_not_captured(pretended: list[str]) -> None:
    def waits() -> None:
        if pretended and pretended[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        clock.Events(CPU).capture(waits)
    assert pretended == ["error", "default"]


def test_quick_sizes_keep_what_matters() -> None:
    case = find("linear_categorical, 256 x 151,936 D = 4,096 bfloat16")
    small = case.tiny()
    assert small.size == dataclasses.replace(case.size, shape=(3, 200), depth=16)
    assert small.targets == case.targets
