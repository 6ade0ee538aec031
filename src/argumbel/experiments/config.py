"""The settings of a training, each described once, beside its field."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from .. import schedules
from .._core.checks import one_of
from . import data as datasets
from . import estimator as estimators
from .data import Images
from .model import ACTIVATIONS, KL_FORMS, CategoricalVAE
from .settings import Setting, settings_of

__all__ = ["DEVICES", "FOLDER", "LR_SCHEDULES", "OPTIMIZERS", "PANELS", "Config", "run_on", "stream"]

OPTIMIZERS = ("adam", "adamw", "sgd", "radam")
DEVICES = ("auto", "cpu", "cuda")
LR_SCHEDULES = ("constant", "cosine")

PANELS = DATA, MODEL, TRAINING, MACHINE, FOLDER = ("Data", "Model", "Training", "Machine", "Run folder")
"""The parts of the help of ``argumbel train``, in their order."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training, and so everything that ``config.json`` holds.

    Make one with :meth:`make`, which knows the presets of the datasets. Numbers may be NumPy's or PyTorch's. The
    settings are the fields; ``argumbel train --help`` lists them.
    """

    dataset: Annotated[
        str, Setting(DATA, "digits (bundled), mnist, or a name that you choose for the images of --data.")
    ] = "digits"
    data: Annotated[
        str | None,
        Setting(
            DATA,
            "A .npz file of images, or the folder of the MNIST IDX files. Without it mnist is downloaded.",
            default_text="",
            path=True,
        ),
    ] = None
    arrays: Annotated[
        tuple[str, ...],
        Setting(
            DATA,
            "The arrays of the .npz file: train; train,test; or train,valid,test.",
            default_text="the arrays that have these names",
        ),
    ] = ()
    binarize: Annotated[
        str,
        Setting(
            DATA,
            "threshold (at 0.5), static (drawn once), dynamic (drawn again at each step) or none.",
            presets={"digits": "threshold"},
            choices=datasets.BINARIZE,
        ),
    ] = "static"
    latents: Annotated[int, Setting(MODEL, "Number of categorical latents.", presets={"digits": 10})] = 20
    classes: Annotated[int, Setting(MODEL, "Number of classes of each latent.")] = 10
    hidden: Annotated[
        tuple[int, ...],
        Setting(
            MODEL,
            "Sizes of the encoder's hidden layers. The decoder has the same sizes in reverse order.",
            presets={"digits": (256, 128)},
        ),
    ] = (512, 256)
    activation: Annotated[
        str,
        Setting(
            MODEL,
            "Activation after each hidden layer: relu, or leaky_relu (slope 0.1).",
            choices=tuple(ACTIVATIONS),
            later=True,
        ),
    ] = "relu"
    centre: Annotated[
        bool,
        Setting(
            MODEL,
            "Subtract the mean image from the encoder's input, and let the decoder's output start as the mean image.",
            later=True,
        ),
    ] = True
    estimator: Annotated[
        str,
        Setting(MODEL, "A name in argumbel.estimators, with arguments if needed: 'gumbel_rao(num_conditional=100)'."),
    ] = "gumbel_softmax"
    kl: Annotated[
        str,
        Setting(
            MODEL,
            "categorical (exact; with relaxed samples the objective is not a bound) or relaxed (estimated from the "
            "sample; the objective is a bound).",
            choices=KL_FORMS,
        ),
    ] = "categorical"
    prior_tau: Annotated[
        float | None,
        Setting(MODEL, "Temperature of the prior, with --kl relaxed.", default_text="the temperature of the posterior"),
    ] = None
    kl_warmup: Annotated[
        int,
        Setting(
            MODEL,
            "Number of steps in which the weight of the KL rises from 0 to 1.",
            default_text="0; a third of the steps with --kl relaxed",
            minimum=0,
        ),
    ] = 0
    schedule: Annotated[
        str,
        Setting(
            TRAINING,
            "Temperature: constant:value, exp:start,rate,floor,every, linear:start,end,steps, or half_cosine or "
            "quarter_cosine with the numbers of linear.",
            presets={"digits": "exp:1,5e-4,0.25,100"},
        ),
    ] = "exp:1,1e-4,0.5,1000"
    steps: Annotated[
        int,
        Setting(TRAINING, "Number of optimiser steps.", presets={"digits": 6000}, minimum=1, resumable=True),
    ] = 50_000
    batch: Annotated[
        int,
        Setting(TRAINING, "Images in each step, over all devices.", presets={"digits": 64}, minimum=1),
    ] = 100
    optimizer: Annotated[str, Setting(TRAINING, "adam, adamw, radam or sgd (momentum 0.9).", choices=OPTIMIZERS)] = (
        "adam"
    )
    lr: Annotated[float, Setting(TRAINING, "Learning rate.", presets={"digits": 3e-3}, positive=True)] = 1e-3
    lr_schedule: Annotated[
        str,
        Setting(TRAINING, "constant, or cosine (falls to 0 at the last step).", choices=LR_SCHEDULES),
    ] = "cosine"
    weight_decay: Annotated[float, Setting(TRAINING, "Weight decay of the optimiser.", minimum=0)] = 0.0
    seed: Annotated[int, Setting(TRAINING, "Decides the first weights, the order of the images and the noise.")] = 0
    threads: Annotated[
        int | None,
        Setting(MACHINE, "Number of CPU threads.", default_text="PyTorch's choice", minimum=1, resumable=True),
    ] = None
    device: Annotated[
        str,
        Setting(MACHINE, "auto (CUDA if there is a GPU), cpu or cuda.", choices=DEVICES, resumable=True),
    ] = "auto"
    devices: Annotated[
        int,
        Setting(MACHINE, "Number of devices that share each batch.", minimum=1, resumable=True),
    ] = 1
    precision: Annotated[str, Setting(MACHINE, "A precision of Lightning, such as 32-true, bf16-mixed or 64-true.")] = (
        "32-true"
    )
    log_every: Annotated[
        int,
        Setting(
            FOLDER,
            "Steps between two records of the training objective.",
            presets={"digits": 100},
            minimum=1,
            resumable=True,
        ),
    ] = 200
    valid_every: Annotated[
        int,
        Setting(
            FOLDER,
            "Steps between two validations. Each of them also writes a checkpoint.",
            presets={"digits": 200},
            minimum=1,
            resumable=True,
        ),
    ] = 2000
    tensorboard: Annotated[bool, Setting(FOLDER, "Also write TensorBoard logs.", default_text="")] = False

    @classmethod
    @functools.cache
    def settings(cls) -> Mapping[str, Setting]:
        """The description of each field."""
        return settings_of(cls)

    @classmethod
    def make(cls, dataset: str = "digits", **given: Any) -> Config:
        """The configuration of a dataset's preset, with what is ``given`` (and not None) in place of the preset's.

        >>> config = Config.make("digits", lr=0.01)
        >>> config.lr, config.latents, config.hidden
        (0.01, 10, (256, 128))
        """
        values = {name: s.presets[dataset] for name, s in cls.settings().items() if dataset in s.presets}
        values |= {name: value for name, value in given.items() if value is not None}
        config = cls(dataset=dataset, **values)
        # Under the relaxed KL the latents shut down in the first steps, and stay so, unless its weight begins small.
        if config.kl == "relaxed" and "kl_warmup" not in values:
            return replace(config, kl_warmup=config.steps // 3)
        return config

    def __post_init__(self) -> None:
        for name, setting in self.settings().items():
            object.__setattr__(self, name, setting.check(name, getattr(self, name)))
        estimators.parse(self.estimator)
        if self.batch % self.devices:
            raise ValueError(
                f"batch must be a multiple of the number of devices, {self.devices}, but it is {self.batch}; give "
                f"{self.batch - self.batch % self.devices or self.devices}"
            )
        if self.temperature(self.steps) <= 0:
            raise ValueError(
                f"schedule must keep the temperature above 0 for all {self.steps} steps, but it is {self.schedule!r}; "
                "give it a floor, an end above 0, or more steps"
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
        """The images of this run, made binary by the method ``binarize``."""
        images = datasets.load(self.dataset, Path(self.data) if self.data else None, arrays=self.arrays)
        return datasets.binarize(images, self.binarize, seed=stream(self.seed, "binarize"))

    def model(self, images: Images) -> CategoricalVAE:
        """The untrained model. Its weights are a function of the seed."""
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
    """``cpu`` or ``cuda``; ``auto`` becomes ``cuda`` if there is a GPU."""
    one_of("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device must be one that PyTorch finds, but it is cuda and PyTorch finds none; give --device cpu, or "
            "install PyTorch for CUDA"
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def stream(seed: int, purpose: str) -> int:
    """A seed (63 bits) for each purpose of a run, so that no two draws share random numbers."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
