"""The training loop. A step is a function of (seed, step), so a resumed run is the same as one that was not stopped."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .estimator import parse
from .evaluate import discrete_elbo
from .run import Config, Run, run_on, stream

__all__ = ["Batches", "State", "fit"]

Listener = Callable[[dict[str, Any]], None]


class Batches:
    """``batches(step)``: the images of a step, ``(batch, pixels)``, a pure function of seed and step.

    Each epoch goes once through the training images, in another order. The images that are left after the last full
    batch are left out.

    Args:
        images: the training images, ``(n, pixels)``.
        batch: images in a batch.
        seed: seed of the orders, and of the draws if the images are not ``fixed``.
        fixed: whether the images are taken as they are. Otherwise binary images are drawn from the grey images at every
            step.
        rank: which of ``world`` equal parts of each batch is returned, when several processes share the batch.
        world: number of processes.

    Raises:
        ValueError: ``batch`` is larger than n.
    """

    def __init__(self, images: Tensor, batch: int, seed: int, *, fixed: bool, rank: int = 0, world: int = 1) -> None:
        if batch > len(images):
            raise ValueError(
                f"batch must be at most the number of training images, {len(images)}, but it is {batch}; lower it"
            )
        self.images, self.batch, self.seed, self.fixed = images, batch, seed, fixed
        self.share = slice(rank * (batch // world), (rank + 1) * (batch // world))
        self.epoch, self.order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        epoch, place = divmod(step, len(self.images) // self.batch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(stream(self.seed, f"order/{epoch}"))
            self.epoch, self.order = epoch, torch.randperm(len(self.images), generator=generator).to(self.images.device)
        x = self.images[self.order[place * self.batch : (place + 1) * self.batch][self.share]]
        if self.fixed:
            return x
        generator = torch.Generator(device=x.device).manual_seed(stream(self.seed, f"binarize/{step}"))
        u = torch.rand((self.batch, x.shape[1]), generator=generator, device=x.device)
        return (x > u[self.share]).to(x.dtype)


@dataclass
class State:
    """What a checkpoint holds, apart from the weights and the optimiser."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps
    best: float = -math.inf  # validation ELBO of the weights in best.pt
    best_step: int = 0
    count: int = 0  # steps in the running sums
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])


def fit(
    config: Config,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    resume: Run | None = None,
    stop_at: int | None = None,
    listener: Listener | None = None,
) -> tuple[Run, State] | None:
    """Train a model, and write the run to a folder.

    Training ends after ``config.steps`` steps, at ``stop_at``, or after Ctrl-C at the end of the current step. In each
    case a checkpoint is written.

    Args:
        config: what to train.
        out: the folder of the run. By default it is ``runs/<dataset>-<estimator>``, with a number if that exists.
        overwrite: whether to replace the run that is in ``out``.
        resume: a run to continue from its checkpoint. On one CPU, with the same number of threads, the result is equal
            to the bit to the result of a run that was not stopped.
        stop_at: stop after this step.
        listener: is called with every record of ``metrics.jsonl``.

    Returns:
        The run and its state, or None in all processes but the first of a training on several devices.

    Raises:
        ValueError: ``out`` holds a run, the run to resume is complete, or the data do not fit.
        FloatingPointError: the objective or a weight became infinite or NaN.
    """
    fabric = _fabric(config)
    training = _Training(fabric, config, None if resume is None else resume.load("checkpoint.pt"))
    state = training.state
    if resume is not None and state.step >= config.steps:
        raise ValueError(
            f"steps must be more than the {state.step} steps that {resume.path} has, but it is {config.steps}; give "
            "--steps to train on"
        )
    run = resume
    if fabric.is_global_zero:
        if run is None:
            run = Run.create(out or _free_folder(config), config, overwrite=overwrite)
        else:
            run.drop_records_after(state.step)
            run.write_json("config.json", asdict(config))
    run = fabric.broadcast(run)
    stop = config.steps if stop_at is None else min(stop_at, config.steps)
    recorder = _Recorder(run if fabric.is_global_zero else None, config, state.step, listener)
    with recorder as record, _interruptible(fabric.world_size == 1) as interrupted:
        training.loop(run, record, stop, interrupted)
    return (run, state) if fabric.is_global_zero else None


class _Training:
    """What a training step needs, new or from the checkpoint ``saved``."""

    def __init__(self, fabric: Any, config: Config, saved: dict[str, Any] | None) -> None:
        rank, world, device = fabric.global_rank, fabric.world_size, fabric.device
        images = config.images()
        train = images.train.to(device)
        fixed = config.binarize != "dynamic" or images.binary
        self.batches = Batches(train, config.batch, config.seed, fixed=fixed, rank=rank, world=world)
        self.valid = images.valid.to(device)
        self.fabric, self.config, self.state, self.model = fabric, config, State(), config.model(images)
        self.module, self.optimizer = fabric.setup(self.model, _optimizer(config, self.model.parameters()))
        if saved is not None:  # after setup, which decides where and how precise the weights are
            self.model.load_state_dict(saved.pop("model"))
            self.optimizer.load_state_dict(saved.pop("optimizer"))
            self.state = State(**saved)
        self.temperature, self.learning_rate, self.kl_weight = (
            config.temperature,
            config.learning_rate,
            config.kl_weight,
        )
        self.sums = torch.tensor(self.state.sums, dtype=torch.float64, device=device)
        self.noise_seed = torch.tensor(stream(config.seed, "latents"), device=device)
        self.rows_a_step = config.batch * config.latents
        share = self.rows_a_step // world
        self.rows = torch.arange(rank * share, (rank + 1) * share, device=device)

    def loop(self, run: Run, record: Listener, stop: int, interrupted: threading.Event) -> None:
        state, config = self.state, self.config
        began, logged, saved = time.perf_counter(), state.step, state.step
        while state.step < stop and not interrupted.is_set():
            tau, lr = self.step(state.step)
            state.step, state.count = state.step + 1, state.count + 1
            last = state.step == config.steps
            if last or state.step % config.log_every == 0:
                entry = self.means()
                elapsed = time.perf_counter() - began
                rate = (state.step - logged) / elapsed
                record(
                    {
                        "step": state.step,
                        "kind": "train",
                        **entry,
                        "temperature": tau,
                        "lr": lr,
                        "steps_per_second": rate,
                    }
                )
                state.seconds += elapsed
                began, logged = time.perf_counter(), state.step
            if last or state.step % config.valid_every == 0:
                state.seconds += time.perf_counter() - began
                self.validate(run, record)
                self.save(run)
                began, logged, saved = time.perf_counter(), state.step, state.step
        state.seconds += time.perf_counter() - began
        if saved != state.step:
            self.save(run)

    def step(self, step: int) -> tuple[float, float]:
        """One optimiser step. Returns its temperature and its learning rate."""
        tau, lr = self.temperature(step), self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # Row ids count the latents of the whole training, so a draw does not depend on the process that makes it.
        rows = self.rows + step * self.rows_a_step
        x = self.batches(step)
        with self.sampling(x):
            log_likelihood, kl = self.module(x, tau, self.noise_seed, rows)
        log_likelihood, kl = log_likelihood.mean(), kl.mean()
        self.fabric.backward(self.kl_weight(step) * kl - log_likelihood)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sums += torch.stack((log_likelihood.detach(), kl.detach()))
        return tau, lr

    def means(self) -> dict[str, float]:
        """The mean objective since the last call, over all processes. Here training waits for the device."""
        means = self.fabric.all_reduce(self.sums, reduce_op="mean") / self.state.count
        log_likelihood, kl = means.tolist()
        elbo = log_likelihood - kl
        if not math.isfinite(elbo):
            raise self.diverged("training objective", str(elbo))
        self.sums.zero_()
        self.state.count = 0
        return {"elbo": elbo, "log_likelihood": log_likelihood, "kl": kl}

    @contextmanager
    def sampling(self, x: Tensor) -> Iterator[None]:
        """The sampler raises an error if logits are NaN. This finds out where the NaN comes from."""
        try:
            yield
        except ValueError as error:
            if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
                raise self.diverged("weights", "infinite or NaN") from error
            with torch.no_grad():
                if bool(self.model.encode(x).isnan().any()):
                    raise self.diverged("logits of the latents", "NaN") from error
            raise

    def diverged(self, what: str, became: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} must be finite, but became {became} by step {self.state.step}; lower the learning rate, or keep "
            "the temperature further from 0"
        )

    def validate(self, run: Run, record: Listener) -> None:
        state = self.state
        with self.sampling(self.valid):
            log_likelihood, kl = discrete_elbo(self.model, self.valid, seed=stream(self.config.seed, "valid"))
        elbo = log_likelihood - kl
        record({"step": state.step, "kind": "valid", "elbo": elbo, "log_likelihood": log_likelihood, "kl": kl})
        if elbo > state.best or not math.isfinite(state.best):
            state.best, state.best_step = elbo, state.step
            if self.fabric.is_global_zero:
                run.save("best.pt", {"model": self.model.state_dict(), "step": state.step, "elbo": elbo})

    def save(self, run: Run) -> None:
        self.state.sums = self.sums.tolist()
        if self.fabric.is_global_zero:
            tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            run.save("checkpoint.pt", {**tensors, **asdict(self.state)})


class _Recorder:
    """Writes each record to ``metrics.jsonl``, to TensorBoard (if asked) and to the listener. Without a run it writes
    nothing."""

    def __init__(self, run: Run | None, config: Config, step: int, listener: Listener | None) -> None:
        self.listener = listener
        self.file = None if run is None else run.metrics.open("a")
        self.board = None
        if run is not None and config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "tensorboard must be installed for --tensorboard, but it is not; pip install 'argumbel[train]'"
                ) from error
            self.board = SummaryWriter(run.path / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> Listener:
        return self.record

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def record(self, entry: dict[str, Any]) -> None:
        if self.file is None:
            return
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        if self.board is not None:
            for name in entry.keys() - {"step", "kind"}:
                self.board.add_scalar(f"{entry['kind']}/{name}", entry[name], entry["step"])
        if self.listener is not None:
            self.listener(entry)


def _fabric(config: Config) -> Any:
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise ImportError(
            "Lightning Fabric must be installed for training, but it is not; pip install 'argumbel[train]'"
        ) from error
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    fabric = Fabric(accelerator=run_on(config.device), devices=config.devices, precision=config.precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def _optimizer(config: Config, parameters: Iterator[Any]) -> torch.optim.Optimizer:
    decay, fused = config.weight_decay, True  # one pass over all weights; RAdam has no such form
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=decay, fused=fused)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=decay, fused=fused)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=decay, fused=fused)
    return torch.optim.RAdam(parameters, lr=config.lr, weight_decay=decay)


def _free_folder(config: Config) -> Path:
    """``runs/<dataset>-<estimator>``, or the first that does not exist of ``-2``, ``-3`` and so on."""
    name, number = f"{config.dataset}-{parse(config.estimator)[0]}", 1
    path = Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


@contextmanager
def _interruptible(wanted: bool) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the current step ends. A second Ctrl-C interrupts at once."""
    event = threading.Event()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
