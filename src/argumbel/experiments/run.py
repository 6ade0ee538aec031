"""What an experiment is (its configuration) and where it lives (the run folder)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import schedules
from . import data as datasets
from . import estimator as estimators
from .data import Images
from .model import ACTIVATIONS, KL_FORMS, CategoricalVAE

__all__ = ["OPTIMIZERS", "PRESETS", "Config", "Run", "run_on", "stream"]

OPTIMIZERS = ("adam", "adamw", "sgd", "radam")
DEVICES = ("auto", "cpu", "cuda")
LR_SCHEDULES = ("constant", "cosine")

#: What each bundled dataset trains with unless told otherwise; every other dataset starts from the preset of mnist.
PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "binarize": "threshold",
        "latents": 10,
        "classes": 10,
        "hidden": (256, 128),
        "schedule": "exp:1,5e-4,0.25,100",
        "lr": 3e-3,
        "batch": 64,
        "steps": 6000,
        "log_every": 100,
        "valid_every": 200,
    },
    "mnist": {
        "binarize": "static",
        "latents": 20,
        "classes": 10,
        "hidden": (512, 256),
        "schedule": "exp:1,1e-4,0.5,1000",
        "batch": 100,
        "steps": 50_000,
        "log_every": 200,
        "valid_every": 2000,
    },
}


@dataclass(frozen=True)
class Config:
    """Everything that decides a training, and so everything that ``config.json`` holds."""

    dataset: str
    data: str | None
    arrays: tuple[str, ...]
    binarize: str
    latents: int
    classes: int
    hidden: tuple[int, ...]
    estimator: str
    kl: str
    prior_tau: float | None
    kl_warmup: int
    schedule: str
    optimizer: str
    lr: float
    lr_schedule: str
    weight_decay: float
    batch: int
    steps: int
    seed: int
    log_every: int
    valid_every: int
    threads: int | None
    device: str
    devices: int
    precision: str
    tensorboard: bool
    activation: str = "relu"
    centre: bool = True

    @classmethod
    def make(cls, dataset: str = "digits", **given: Any) -> Config:
        """The configuration of a dataset's preset, with what is ``given`` (and not None) in place of the preset's."""
        base: dict[str, Any] = {
            "dataset": dataset,
            "data": None,
            "arrays": (),
            "estimator": "gumbel_softmax",
            "kl": "categorical",
            "prior_tau": None,
            "optimizer": "adam",
            "lr": 1e-3,
            "lr_schedule": "cosine",
            "weight_decay": 0.0,
            "seed": 0,
            "threads": None,
            "device": "auto",
            "devices": 1,
            "precision": "32-true",
            "tensorboard": False,
            **PRESETS.get(dataset, PRESETS["mnist"]),
        }
        base |= {name: value for name, value in given.items() if value is not None}
        # Under the relaxed KL the latents shut down in the first steps, and stay so, unless it begins small.
        base.setdefault("kl_warmup", base["steps"] // 3 if base["kl"] == "relaxed" else 0)
        return cls(**base)

    def __post_init__(self) -> None:
        for name, known in (
            ("binarize", datasets.BINARIZE),
            ("kl", KL_FORMS),
            ("activation", tuple(ACTIVATIONS)),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", LR_SCHEDULES),
            ("device", DEVICES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        estimators.parse(self.estimator)
        for name in ("batch", "steps", "log_every", "valid_every", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if self.kl_warmup < 0:
            raise ValueError(f"kl_warmup must be a number of steps, 0 for none; got {self.kl_warmup}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be 1 or more; got {self.threads}")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"lr must be positive and weight_decay not negative; got {self.lr} and {self.weight_decay}"
            )
        if self.batch % self.devices:
            raise ValueError(f"batch must divide among the devices; got a batch of {self.batch} on {self.devices}")
        if self.temperature(self.steps) <= 0:
            raise ValueError(
                f"schedule must keep the temperature positive for all {self.steps} steps; got {self.schedule!r}"
            )

    @property
    def temperature(self) -> schedules.Schedule:
        return schedules.parse(self.schedule)

    @property
    def kl_weight(self) -> schedules.Schedule:
        return schedules.Linear(0.0, 1.0, self.kl_warmup) if self.kl_warmup else schedules.Constant(1.0)

    @property
    def learning_rate(self) -> schedules.Schedule:
        if self.lr_schedule == "constant":
            return schedules.Constant(self.lr)
        return schedules.HalfCosine(self.lr, 0.0, self.steps)

    def images(self) -> Images:
        """The images of this run, binarised as it says."""
        images = datasets.load(self.dataset, Path(self.data) if self.data else None, arrays=self.arrays)
        return datasets.binarize(images, self.binarize, seed=stream(self.seed, "binarize"))

    def model(self, images: Images) -> CategoricalVAE:
        """The untrained model, its weights a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self.seed, "weights"))
            return CategoricalVAE(
                pixels=images.pixels,
                latents=self.latents,
                classes=self.classes,
                hidden=self.hidden,
                estimator=self.estimator,
                kl=self.kl,
                prior_tau=self.prior_tau,
                activation=self.activation,
                mean=images.train.float().mean(0) if self.centre else None,
            )


def run_on(device: str) -> str:
    """``cpu`` or ``cuda``, which is what ``auto`` picks where there is one."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, and PyTorch finds none: give --device cpu, or install PyTorch for CUDA")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def stream(seed: int, purpose: str) -> int:
    """A seed of its own (63 bits) for each purpose of a run, so that no two draws share random numbers."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Run:
    """A folder: ``config.json``, ``metrics.jsonl``, checkpoints, then ``evaluation.json`` and ``report.html``."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @classmethod
    def create(cls, path: Path, config: Config, *, overwrite: bool = False) -> Run:
        """A new folder holding ``config``; ``ValueError`` when there is a run in it already, unless ``overwrite``."""
        run = cls(path)
        if (path / "config.json").exists():
            if not overwrite:
                raise ValueError(
                    f"there is a run in {path} already: "
                    "continue it (--resume), replace it (--overwrite), or name another folder (--run)"
                )
            for name in ("metrics.jsonl", "checkpoint.pt", "best.pt", "evaluation.json", "report.html"):
                (path / name).unlink(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        run.write_json("config.json", asdict(config))
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        if not (path / "config.json").is_file():
            raise ValueError(f"there is no run in {path} (no config.json): give a folder that argumbel train wrote")
        return cls(path)

    def config(self, **changes: Any) -> Config:
        """The configuration of this run, with what is changed (and not None) for its continuation."""
        stored = json.loads((self.path / "config.json").read_text())
        # Settings that came later have a default, which is what earlier runs were trained with.
        known = {f.name for f in fields(Config)}
        needed = {f.name for f in fields(Config) if f.default is MISSING}
        if not needed <= set(stored) <= known:
            differing = ", ".join(sorted((needed - set(stored)) | (set(stored) - known)))
            raise ValueError(
                f"{self.path / 'config.json'} is of another version of argumbel (it differs in {differing})"
            )
        stored["hidden"], stored["arrays"] = tuple(stored["hidden"]), tuple(stored["arrays"])
        return replace(Config(**stored), **{name: value for name, value in changes.items() if value is not None})

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        _replace(self.path / name, lambda part: part.write_text(json.dumps(content, indent=2) + "\n"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        return json.loads(file.read_text()) if file.is_file() else None

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint whole or not at all: a crash leaves the one before it."""
        _replace(self.path / name, lambda part: torch.save(dict(state), part))

    def load(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            raise ValueError(
                f"{self.path} has no {name}: the run was stopped before its first checkpoint; train it again"
            )
        return torch.load(file, map_location="cpu", weights_only=True)

    def trained(self, images: Images) -> tuple[CategoricalVAE, dict[str, Any]]:
        """The model that was best on the validation images, and the rest of its checkpoint."""
        state = self.load("best.pt")
        model = self.config().model(images)
        model.load_state_dict(state.pop("model"))
        return model.eval(), state

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        if self.metrics.is_file():
            for line in self.metrics.read_text().splitlines():
                yield json.loads(line)

    def forget_after(self, step: int) -> None:
        """Drop the records after ``step``: those a crash left behind, later than the checkpoint to resume from."""
        kept = [record for record in self.records() if record["step"] <= step]
        _replace(self.metrics, lambda part: part.write_text("".join(json.dumps(r) + "\n" for r in kept)))


def _replace(file: Path, write: Any) -> None:
    part = file.with_name(f".{file.name}.part")
    write(part)
    os.replace(part, file)
