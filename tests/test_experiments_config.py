"""The configuration of a run: its checks, its numbers, its folder and its device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from argumbel.experiments import Config, Run, fit
from argumbel.experiments.run import run_on
from tests.small_runs import tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, but it is 0"),
        ({"kl_warmup": -1}, "kl_warmup must be at least 0, but it is -1"),
        ({"threads": 0}, "threads must be at least 1, but it is 0"),
        ({"lr": -1.0}, "lr must be above 0, but it is -1.0"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'adamw', 'sgd', 'radam', but it is 'lion'"),
        ({"lr_schedule": "step"}, "lr_schedule must be one of 'constant', 'cosine'"),
        ({"binarize": "no"}, "binarize must be one of"),
        ({"devices": 3}, "batch must be a multiple of the number of devices, 3, but it is 32"),
        (
            {"schedule": "linear:1,0,20"},
            "schedule must keep the temperature above 0 for all 40 steps, but it is 'linear:1,0,20'",
        ),
        ({"schedule": "warm:1"}, "schedule must be one of"),
        ({"device": "abacus"}, "device must be one of 'auto', 'cpu', 'cuda', but it is 'abacus'"),
    ],
)
def test_bad_config(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("latents", np.int64(3), 3),
        ("latents", torch.tensor(3), 3),
        ("seed", np.uint8(7), 7),
        ("lr", np.float64(0.25), 0.25),
        ("lr", torch.tensor(0.25), 0.25),
        ("lr", 1, 1.0),
        ("prior_tau", np.float32(0.5), 0.5),
        ("hidden", np.array([8, 4]), (8, 4)),
        ("hidden", torch.Size([8, 4]), (8, 4)),
        ("hidden", [torch.tensor(8)], (8,)),
        ("centre", np.bool_(False), False),
        ("data", Path("a.npz"), "a.npz"),
    ],
)
def test_numbers_of_numpy_and_torch_are_taken(tmp_path: Path, name: str, given: Any, plain: Any) -> None:
    config = tiny(**{name: given})
    value = getattr(config, name)
    assert value == plain
    assert type(value) is type(plain)
    if isinstance(plain, tuple):
        assert all(type(element) is int for element in value)
    assert Run.create(tmp_path, config).config() == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": 3.5}, "latents must be an integer, but it is 3.5; give a whole number"),
        ({"batch": True}, "batch must be an integer, but it is True"),
        ({"lr": "0.1"}, "lr must be a number, but it is '0.1'"),
        ({"hidden": "256,128"}, "hidden must be a tuple, but it is '256,128'"),
        ({"hidden": 256}, "hidden must be a tuple, but it is 256"),
        ({"hidden": (3, "x")}, "each of hidden must be an integer, but it is 'x'"),
        ({"centre": "no"}, "centre must be True or False, but it is 'no'"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_settings_of_another_kind(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tiny(**changes)


def test_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(steps=2, log_every=1)
    run, _ = fit(config, tmp_path / "a")
    assert run.config() == config
    with pytest.raises(ValueError, match=r"there is a run in .*a; continue it \(--resume\)"):
        fit(config, tmp_path / "a")
    fit(config, tmp_path / "a", overwrite=True)
    assert len(list(run.records())) == 3
    with pytest.raises(ValueError, match=r"run must be a folder that argumbel train wrote, but .*b has no config.json"):
        Run.open(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    paths = [fit(config)[0].path for _ in range(2)]
    assert paths == [Path("runs/digits-gumbel_softmax"), Path("runs/digits-gumbel_softmax-2")]
    stored = json.loads((run.path / "config.json").read_text())
    earlier = {name: value for name, value in stored.items() if name not in ("activation", "centre")}
    (run.path / "config.json").write_text(json.dumps(earlier))  # of before there were these settings
    assert run.config() == config
    for before, now in (
        ("straight_through", "softmax_straight_through"),
        ("straight_through(tau=0.5)", "softmax_straight_through(tau=0.5)"),
        ("gumbel_straight_through", "gumbel_straight_through"),
    ):
        (run.path / "config.json").write_text(json.dumps(stored | {"estimator": before}))
        assert run.config().estimator == now
    (run.path / "config.json").write_text(json.dumps(stored | {"colour": "blue"}))
    with pytest.raises(
        ValueError, match=r"must have the settings of this version of argumbel, but it differs in colour"
    ):
        run.config()
    (run.path / "best.pt").unlink()
    with pytest.raises(ValueError, match=r"has no best\.pt"):
        run.load("best.pt")


def test_other_images_train_from_the_preset_of_mnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", train=np.packbits(rng.integers(0, 2, (64, 64), dtype=np.uint8), axis=1))
    config = Config.make("mine", data=str(tmp_path / "a.npz"), hidden=(8,), steps=3, batch=10, threads=1, device="cpu")
    assert (config.latents, config.classes, config.binarize) == (20, 10, "static")
    run, state = fit(config, tmp_path / "run")
    assert state.step == 3
    assert run.config() == config


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_on("auto") == run_on("cpu") == "cpu"
    with pytest.raises(
        ValueError,
        match="device must be one that PyTorch finds, but it is cuda and PyTorch finds none; give --device cpu",
    ):
        run_on("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [run_on(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
