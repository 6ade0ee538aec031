"""Small trainings and models with few latents, whose outcomes can be listed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributions

from argumbel.experiments import Config, model

TINY: dict[str, Any] = {
    "latents": 3,
    "classes": 4,
    "hidden": (16,),
    "batch": 32,
    "steps": 40,
    "log_every": 10,
    "valid_every": 20,
    "threads": 1,
    "device": "cpu",
}


def tiny(**changes: Any) -> Config:
    return Config.make(**(TINY | changes))


def small_vae(
    *, latents: int = 2, classes: int = 3, pixels: int = 5, seed: int = 0, **more: Any
) -> model.CategoricalVAE:
    """A VAE whose posteriors and pixels differ from uniform by far, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = model.CategoricalVAE(pixels=pixels, latents=latents, classes=classes, hidden=(7,), **more).double()
        for parameter in vae.parameters():
            parameter.data.mul_(3.0)
    return vae.eval()


def images(count: int, pixels: int = 5, seed: int = 1) -> Tensor:
    return torch.randint(2, (count, pixels), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def enumerate_log_joint(vae: model.CategoricalVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x) for every z: each (K**N, batch)."""
    codes = torch.cartesian_prod(*[torch.arange(vae.classes)] * vae.latents).reshape(-1, vae.latents)
    one_hot = torch.nn.functional.one_hot(codes, vae.classes).double()
    with torch.no_grad():
        pixels = vae.decode(one_hot)
        log_p = distributions.Bernoulli(logits=pixels[:, None]).log_prob(x.double()).sum(-1)
        log_q = (vae.encode(x)[None] * one_hot[:, None]).sum((-1, -2))
    return log_p - vae.latents * math.log(vae.classes), log_q
