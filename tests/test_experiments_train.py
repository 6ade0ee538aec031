"""Training: batches, resumed and interrupted runs, precision, divergence and records."""

from __future__ import annotations

import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from argumbel.experiments import Config, Run, evaluate, fit
from argumbel.experiments.train import Batches
from tests.small_runs import tiny


def test_batches_are_a_function_of_the_step() -> None:
    source = torch.arange(23)[:, None].expand(-1, 4)
    batches = Batches(source, 5, seed=1, fixed=True)
    whole = [batches(step)[:, 0].tolist() for step in range(12)]
    for epoch in range(3):
        rows = [row for batch in whole[4 * epoch : 4 * epoch + 4] for row in batch]
        assert len(set(rows)) == 20
    assert whole[:4] != whole[4:8]
    jump = Batches(source, 5, seed=1, fixed=True)
    for step in (11, 0, 6, 3):
        assert jump(step)[:, 0].tolist() == whole[step]
    assert Batches(source, 5, seed=2, fixed=True)(0)[:, 0].tolist() != whole[0]
    shares = [Batches(source, 4, seed=1, fixed=True, rank=r, world=2)(7) for r in range(2)]
    assert torch.equal(torch.cat(shares), Batches(source, 4, seed=1, fixed=True)(7))
    with pytest.raises(ValueError, match="batch must be at most the number of training images, 23, but it is 24"):
        Batches(source, 24, seed=1, fixed=True)


def test_grey_batches_are_drawn_afresh_every_step() -> None:
    grey = torch.tensor([0.0, 0.25, 1.0]).expand(400, 3)
    batches = Batches(grey, 400, seed=0, fixed=False)
    first, second = batches(0), batches(1)
    assert torch.equal(first, batches(0))
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    means = torch.stack([batches(step).mean(0) for step in range(20)]).mean(0)
    assert means[0] == 0
    assert means[2] == 1
    assert abs(means[1] - 0.25) < 6 * (0.25 * 0.75 / 8000) ** 0.5
    shares = [Batches(grey, 400, seed=0, fixed=False, rank=r, world=4)(3) for r in range(4)]
    assert torch.equal(torch.cat(shares), batches(3))


def state_of(run: Run) -> dict[str, Any]:
    return run.load("checkpoint.pt")


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal to the bit, tensors inside dictionaries and lists included."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, Tensor):
        assert torch.equal(a, b), path
    elif path != "/seconds":
        assert a == b, path


def without_clock(run: Run) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "steps_per_second"} for record in run.records()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "lr": 0.001, "estimator": "gumbel_straight_through", "binarize": "dynamic"},
        {"precision": "64-true"},
        {"optimizer": "radam", "kl": "relaxed", "weight_decay": 0.01},
        {
            "optimizer": "adamw",
            "estimator": "softmax_straight_through",
            "lr_schedule": "constant",
            "schedule": "constant:1",
        },
        {"estimator": "rebar", "binarize": "none", "activation": "leaky_relu", "centre": False},
        {"estimator": "unordered_set(num_samples=4)"},
    ],
)
def test_a_resumed_run_is_the_run_not_stopped(tmp_path: Path, changes: dict) -> None:
    config = tiny(**changes)
    straight, _ = fit(config, tmp_path / "straight")
    # 15 is no multiple of log_every: the running mean has to travel too.
    stopped, state = fit(config, tmp_path / "stopped", stop_at=15)
    assert state.step == 15
    resumed, _ = fit(stopped.config(), resume=Run.open(stopped.path))
    assert_same(state_of(straight), state_of(resumed))
    assert_same(straight.load("best.pt"), resumed.load("best.pt"))
    assert without_clock(straight) == without_clock(resumed)
    assert [r["step"] for r in straight.records() if r["kind"] == "train"] == [10, 20, 30, 40]


def test_more_steps_on_a_constant_rate_are_the_longer_run(tmp_path: Path) -> None:
    config = tiny(lr_schedule="constant", steps=20)
    run, _ = fit(config, tmp_path / "a")
    longer, _ = fit(run.config(steps=40), resume=run)
    straight, _ = fit(tiny(lr_schedule="constant"), tmp_path / "b")
    assert_same(state_of(longer), state_of(straight))
    with pytest.raises(
        ValueError, match=r"steps must be more than the 40 steps that .* has, but it is 40; give --steps"
    ):
        fit(longer.config(), resume=longer)


def test_a_crash_after_the_checkpoint_leaves_nothing_double(tmp_path: Path) -> None:
    config = tiny()

    def crash(record: dict) -> None:
        if record["step"] == 30:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit(config, tmp_path / "a", listener=crash)
    run = Run.open(tmp_path / "a")
    assert state_of(run)["step"] == 20
    fit(config, resume=run)
    straight, _ = fit(config, tmp_path / "b")
    assert without_clock(run) == without_clock(straight)
    assert_same(state_of(run), state_of(straight))


def test_interrupt_ends_the_step_and_saves(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run, state = fit(tiny(), tmp_path / "a", listener=lambda record: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert state.step == state_of(run)["step"] == 10
    fit(tiny(), resume=run)
    straight, _ = fit(tiny(), tmp_path / "b")
    assert_same(state_of(run), state_of(straight))


def test_the_seed_decides(tmp_path: Path) -> None:
    torch.manual_seed(1)
    a, _ = fit(tiny(), tmp_path / "a")
    torch.manual_seed(2)
    b, _ = fit(tiny(), tmp_path / "b")
    c, _ = fit(tiny(seed=1), tmp_path / "c")
    assert_same(state_of(a), state_of(b))
    assert not torch.equal(state_of(a)["model"]["decoder.0.weight"], state_of(c)["model"]["decoder.0.weight"])


@pytest.mark.parametrize(
    "estimator",
    [
        *(
            "gumbel_softmax",
            "gumbel_straight_through",
            "softmax_straight_through",
            "reinmax",
            "gumbel_rao(num_conditional=4)",
        ),
        *("reinforce_loo(num_samples=4)", "rebar"),
    ],
)
def test_it_learns(tmp_path: Path, estimator: str) -> None:
    config = Config.make(
        latents=6, classes=8, hidden=(128,), steps=600, valid_every=200, threads=1, device="cpu", estimator=estimator
    )
    run, state = fit(config, tmp_path / "run")
    loaded = config.images()
    ignored = float(evaluate.baseline(loaded.train, loaded.valid).mean())
    assert state.best > ignored + 1.5
    best, saved = run.trained(loaded)
    assert saved["elbo"] == state.best
    again = evaluate.discrete_elbo(best, loaded.valid, seed=123, samples=8)
    assert abs(again[0] - again[1] - state.best) < 0.5


def test_kl_warmup_holds_the_kl_back_at_first(tmp_path: Path) -> None:
    config = Config.make(kl="relaxed", steps=150, log_every=50, valid_every=150, threads=1, device="cpu", hidden=(64,))
    assert config.kl_warmup == 50
    assert [config.kl_weight(step) for step in (0, 25, 50, 150)] == [0.0, 0.5, 1.0, 1.0]
    assert Config.make().kl_weight(0) == 1.0
    records = {}
    for warmup in (0, 10**6):
        run, _ = fit(dataclasses.replace(config, kl_warmup=warmup), tmp_path / str(warmup))
        records[warmup] = list(run.records())[2]
    assert records[10**6]["kl"] > 10 * records[0]["kl"]
    assert records[10**6]["log_likelihood"] > records[0]["log_likelihood"] + 2
    # The objective that is reported has the whole KL, whatever its weight.
    assert records[10**6]["elbo"] == pytest.approx(records[10**6]["log_likelihood"] - records[10**6]["kl"])


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_precision(tmp_path: Path, precision: str) -> None:
    run, _ = fit(tiny(precision=precision, steps=20), tmp_path / "run")
    assert [r["kind"] for r in run.records()] == ["train", "train", "valid"]
    assert all(math.isfinite(r["elbo"]) for r in run.records())
    expected = {"64-true": torch.float64, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}[precision]
    assert state_of(run)["model"]["decoder.0.weight"].dtype == expected


def test_divergence_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError,
        match=r"weights must be finite, but became infinite or NaN by step \d; lower the learning rate",
    ):
        fit(tiny(optimizer="sgd", lr=1e12, lr_schedule="constant"), tmp_path / "run")
    with pytest.raises(FloatingPointError, match=r"by step 1; lower the learning rate"):  # by the validation
        fit(tiny(optimizer="sgd", lr=1e38, lr_schedule="constant", valid_every=1, log_every=9), tmp_path / "other")


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.save("checkpoint.pt", {"step": 1})

    def fail(state: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            run.save("checkpoint.pt", {"step": 2})
    assert run.load("checkpoint.pt") == {"step": 1}


def test_tensorboard(tmp_path: Path) -> None:
    run, _ = fit(tiny(tensorboard=True), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("train/elbo")]
    assert [step for step, _ in logged] == [10, 20, 30, 40]
    assert [v for _, v in logged] == pytest.approx([r["elbo"] for r in run.records() if r["kind"] == "train"])
