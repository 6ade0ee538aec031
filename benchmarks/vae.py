"""A whole training step: ``argumbel train`` beside a plain PyTorch script of the same model.

The categorical VAE of Jang et al. 2017 (20 latents of 10 classes, 784-512-256 perceptrons, batches of 100) on random
binary images, since speed does not depend on what they show.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import argumbel as ag

from .measure import OURS, take_turns

PIXELS, LATENTS, CLASSES, BATCH = 784, 20, 10, 100
AT_LEAST, SMALL_SHARE = 1.3, 0.05
TURNS = 7

Train = Callable[[int], float]  # so many more training steps -> the seconds they took


@dataclass
class Step:
    """Seconds a training step takes, and the share of it that one sample and its gradient take by themselves."""

    contestant: str
    library: str
    threads: int
    seconds: float
    share: float


def random_images() -> Tensor:
    return (torch.rand(2000, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.15).to(torch.uint8)


def plain(fused: bool) -> Train:
    """What one writes without a library."""
    images = random_images()
    mean = images.float().mean(0)
    encoder = nn.Sequential(
        nn.Linear(PIXELS, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, LATENTS * CLASSES)
    )
    decoder = nn.Sequential(
        nn.Linear(LATENTS * CLASSES, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, PIXELS)
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=fused)
    order, total = torch.randperm(len(images)), torch.zeros(())
    step = 0

    def train(steps: int) -> float:
        nonlocal step, order
        start = time.perf_counter()
        for _ in range(steps):
            at = step * BATCH % len(images)
            if at == 0:
                order = torch.randperm(len(images))
            tau = max(0.5, math.exp(-3e-5 * step))
            x = images[order[at : at + BATCH]].float()
            log_q = encoder(x - mean).view(BATCH, LATENTS, CLASSES).log_softmax(-1)
            y = F.gumbel_softmax(log_q, tau)
            pixels = decoder(y.flatten(1))
            loss = F.binary_cross_entropy_with_logits(pixels, x, reduction="sum") / BATCH
            loss = loss + LATENTS * math.log(CLASSES) + (log_q.exp() * log_q).sum() / BATCH
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total.add_(loss.detach())
            step += 1
        return time.perf_counter() - start

    return train


def ours(folder: Path) -> Train:
    """``argumbel train`` with the preset of mnist, stopped and resumed; its time is of steps alone."""
    from argumbel.experiments import Config, fit

    np.savez(folder / "random.npz", train=random_images().numpy(), valid=random_images()[:100].numpy())
    config = Config.make("random", data=str(folder / "random.npz"), valid_every=1 << 40, steps=1 << 40, device="cpu")
    if (config.latents, config.classes, config.hidden, config.batch) != (LATENTS, CLASSES, (512, 256), BATCH):
        raise ValueError("the mnist preset is not the model of this benchmark any more: change both together")
    run, done, seconds = None, 0, 0.0

    def train(steps: int) -> float:
        nonlocal run, done, seconds
        before, done = seconds, done + steps
        ended = fit(config, folder / "run", resume=run, stop_at=done)
        assert ended is not None  # one process
        run, seconds = ended[0], ended[1].seconds
        return seconds - before

    return train


def sampling(seconds: float) -> dict[str, float]:
    """Seconds of the part of a step that this library replaces: a sample, and its gradient."""
    log_q = torch.randn(BATCH, LATENTS, CLASSES).log_softmax(-1).requires_grad_()
    upstream = torch.randn(BATCH, LATENTS, CLASSES)
    key, rows = torch.tensor(1), torch.arange(BATCH * LATENTS)

    def of(sample: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(sample(), log_q, upstream)[0]

    calls = {
        OURS: of(lambda: ag.gumbel_softmax(log_q, 0.5, noise=ag.KeyedNoise(key, rows=rows))),
        "torch": of(lambda: F.gumbel_softmax(log_q, 0.5)),
    }
    return {library: statistics.median(taken) for library, taken in take_turns(calls, seconds).items()}


def measure(threads: int, seconds: float) -> list[Step]:
    """Ours and the plain scripts in turn, under as many threads; ``seconds`` is what each may train for."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trains = {
                ("argumbel train", OURS): ours(Path(folder)),
                ("plain script, fused Adam", "torch"): plain(fused=True),
                ("plain script, Adam as it comes", "torch"): plain(fused=False),
            }
            first = {name: train(10) / 10 for name, train in trains.items()}
            steps = {name: max(2, round(seconds / TURNS / first[name])) for name in trains}
            times: dict[tuple[str, str], list[float]] = {name: [] for name in trains}
            for _ in range(TURNS):
                for name, train in trains.items():
                    times[name].append(train(steps[name]) / steps[name])
        alone = sampling(seconds / 8)
    finally:
        torch.set_num_threads(before)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return [
        Step(name, library, threads, medians[name, library], alone[library] / medians[name, library])
        for name, library in trains
    ]
