"""The benchmarks: what is registered fits together, a check that must fail does, and a run comes to its end."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import chart, exactness, laws, machine, measure, page, peers, registry, report, structures
from benchmarks.problem import Problem, Size
from torch import Tensor

import argumbel as ag

ROOT = Path(__file__).parent.parent


def tempered(logits: Tensor) -> Tensor:
    """A sampler that is a little wrong."""
    return ag.categorical(1.2 * logits)


def results(rows: list[measure.Row]) -> report.Results:
    return report.Results(machine.describe(machine.cores()), machine.versions(), rows)


# ------------------------------------------------------------------------------------------------------------- registry


def test_cases_have_names_of_their_own_and_peers() -> None:
    names = [case.name for case in registry.CASES]
    assert len(set(names)) == len(names)
    assert {case.op.name for case in registry.CASES} == set(peers.PEERS)
    for case in registry.CASES:
        assert not case.peers[0].floor, case.name
        assert len({peer.name for peer in case.peers}) == len(case.peers), case.name


def test_targets_are_about_peers() -> None:
    for case in registry.CASES:
        for target in case.targets:
            assert set(target.against) <= {peer.name for peer in case.peers}, case.name
            assert target.at_least > 0


def test_select() -> None:
    assert registry.select([]) == registry.CASES
    assert {case.op.name for case in registry.select(["topk"])} == {"gumbel_topk", "gumbel_topk, float64"}
    assert registry.select(["no such case"]) == []


# Of structures whose scores have more than one dimension.
EVENTS = {structures.ARBORESCENCE: Size((6, 7, 7)), structures.VITERBI: Size((6, 8, 3, 3))}


@pytest.mark.parametrize("name", sorted(registry.OPS))
def test_every_operation_passes_its_check_and_runs(name: str) -> None:
    single = any(word in name for word in ("draws", "without", "tables", "data"))
    size = Size((500,), k=20, draws=3000) if single else EVENTS.get(name, Size((6, 300), k=5))
    problem = Problem(dataclasses.replace(size, depth=16) if "linear" in name else size)
    registry.OPS[name].check(problem)
    registry.OPS[name].ours(problem)()


# --------------------------------------------------------------------------------------------------------------- checks


def test_a_wrong_law_is_noticed() -> None:
    logits = Problem(Size((100, 500))).logits
    with pytest.raises(AssertionError):
        laws.check_categorical(logits, torch.stack([tempered(logits) for _ in range(50)]))
    with pytest.raises(AssertionError):
        laws.check_few_items(torch.float32, lambda x, g: tempered(x))


def test_wrong_noise_is_noticed() -> None:
    with pytest.raises(AssertionError):
        laws.check_noise(lambda g: ag.gumbel((400_000,), generator=g) * 1.03, torch.float32)


def test_a_wrong_race_is_noticed() -> None:
    _, keys = laws.keyed(Problem(Size((5, 40))).logits)
    values, indices = keys.topk(3, -1)
    laws.check_race(values, indices, keys, 3)
    for wrong in ((values + 1, indices), (values, indices.flip(-1)), (values[:, [0, 0, 2]], indices[:, [0, 0, 2]])):
        with pytest.raises(AssertionError):
            laws.check_race(*wrong, keys, 3)


@pytest.mark.parametrize("fault", ["keys", "items", "order", "twice"])
def test_a_wrong_draw_without_replacement_is_noticed(fault: str) -> None:
    logits = Problem(Size((5000,))).logits

    def draw() -> tuple[Tensor, Tensor]:
        keys, indices = ag.sample_without_replacement(logits * (0.7 if fault == "items" else 1), 2500)
        if fault == "keys":
            keys = keys + 0.2
        if fault == "order":
            indices = indices.flip(0)
        if fault == "twice":
            indices = torch.cat([indices[:1], indices[:-1]])
        return keys, indices

    laws.check_without_replacement(logits, 2500, lambda: ag.sample_without_replacement(logits, 2500))
    with pytest.raises(AssertionError):
        laws.check_without_replacement(logits, 2500, draw)


def test_a_wrong_sample_is_noticed() -> None:
    exact = torch.rand(10, dtype=torch.float64)
    laws.check_close(exact.float(), exact.float(), exact)
    with pytest.raises(AssertionError, match="error"):
        laws.check_close(exact.float() + 1e-5, exact.float(), exact)


# ------------------------------------------------------------------------------------------------------------------ run


def test_a_run_without_peers_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = peers.util.find_spec
    monkeypatch.setattr(peers.util, "find_spec", lambda name: None if name == "jax" else found(name))
    (case,) = registry.select(["categorical, 30,000 x 10"])
    row = measure.measure(case, seconds=0.01, least=1)
    assert row.failure is None
    assert row.ours.timing is not None
    absent = [entry for entry in row.entries if entry.library == "jax"]
    assert [entry.trouble for entry in absent] == ["jax is not installed"] * 2
    assert all(entry.timing and not entry.trouble for entry in row.entries if entry not in absent)
    text = page.markdown([results([row])], "chart.png")
    assert "jax is not installed" in text
    assert f"| categorical | 30,000 x 10 | {peers.CATEGORICAL} | 20x |" in text
    assert chart.draw([results([row])], tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_no_ratio_where_the_check_fails(tmp_path: Path) -> None:
    (case,) = registry.select(["categorical, 30,000 x 10"])
    op = dataclasses.replace(case.op, check=lambda p: laws.check_categorical(p.logits, tempered(p.logits).unsqueeze(0)))
    row = measure.measure(dataclasses.replace(case, op=op), seconds=0.01)
    assert row.failure is not None
    assert row.failure.startswith("AssertionError")
    assert row.entries == []
    text = page.markdown([results([row])], None)
    assert "our check fails | not measured" in text
    assert "Our check fails" in text
    assert not chart.draw([results([row])], tmp_path / "chart.png")


def test_a_peer_that_cannot_is_named() -> None:
    def broken(problem: Problem) -> peers.Call:
        raise RuntimeError("too many categories")

    (case,) = registry.select(["gumbel_topk, k = 50"])
    peer = peers.Peer("broken", "torch", broken)
    row = measure.measure(_with(case, [peer]), seconds=0.01, least=1)
    assert [entry.trouble for entry in row.entries] == [None, "RuntimeError: too many categories"]


def _with(case: registry.Case, entrants: list[peers.Peer]) -> registry.Case:
    class Alone(registry.Case):
        @property
        def peers(self) -> list[peers.Peer]:
            return entrants

    return Alone(case.op, case.size, case.targets)


def test_targets_are_judged() -> None:
    target = registry.Target((peers.ARGPARTITION,), 20)
    (case,) = (c for c in registry.CASES if c.targets == (target,) and c.size.k == 10)
    row = measure.Row(case.name, case.op.name, str(case.size), case.size.elements)
    row.entries = [measure.Entry("ours", measure.OURS), measure.Entry(peers.ARGPARTITION, "numpy")]
    assert report.judge([row])[0].reached is None
    for seconds, reached in ((0.2, True), (0.19, False)):
        row.entries[0].timing = measure.Timing(0.01, 0.01, 0.01, 9)
        row.entries[1].timing = measure.Timing(seconds, seconds, seconds, 9)
        assert report.judge([row])[0].reached is reached


def test_memory_is_that_of_the_call() -> None:
    def call() -> Tensor:
        return torch.ones(20_000_000).square().sum()  # two tensors of 80 MB at once

    if measure.RESET.exists():
        assert 150e6 < measure.memory(call) < 250e6
    else:
        measure.measure_memory(rows := [measure.Row("", "", "", 1, [measure.Entry("ours", measure.OURS)])])
        assert rows[0].ours.memory is None


def test_the_command(tmp_path: Path) -> None:
    arguments = ["--quick", "--only", "gumbel_max, 4,096", "--threads", "1", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (saved,) = page.stored(tmp_path)
    stored = tmp_path / page.FOLDER / f"{saved.kernels}.json"
    assert [row.case for row in saved.rows] == ["gumbel_max, 4,096 x 128"]
    assert saved.machine["threads"] == "1"
    assert json.loads(stored.read_text()) == json.loads(json.dumps(dataclasses.asdict(saved)))
    assert (tmp_path / "RESULTS.md").read_text() == page.markdown([saved], "chart.png")


# ------------------------------------------------------------------------------------------------------------ exactness


def question(name: str, draw: object) -> exactness.Finding:
    (asked,) = (q for q in exactness.QUESTIONS if q.name == name)
    (finding,) = exactness.ask(dataclasses.replace(asked, contestants={(measure.OURS, "test"): draw}), 0.5)
    return finding


@pytest.mark.parametrize("name", ["ties", "forbidden"])
def test_ours_is_exact(name: str) -> None:
    assert question(name, exactness.DRAWS[measure.OURS, "categorical"]).verdict == "pass"


def test_faults_are_found() -> None:
    def low(logits: Tensor, m: int) -> Tensor:
        return torch.randint(0, len(logits) // 2, (m,))

    def anything(logits: Tensor, m: int) -> Tensor:
        return torch.randint(0, len(logits), (m,))

    def refuse(logits: Tensor, m: int) -> Tensor:
        raise RuntimeError("number of categories cannot exceed 2^24")

    assert question("ties", low).verdict == "fail"
    assert question("items", low).verdict == "fail"
    assert question("forbidden", anything).verdict == "fail"
    assert question("gap", anything).verdict == "fail"
    assert question("items", refuse).verdict == "cannot"
    assert question("tail", lambda n: (0, float("inf"))).verdict == "fail"
    assert question("tail", lambda n: (0, 15.9)).verdict == "fail"  # 2^28 draws, and none beyond
