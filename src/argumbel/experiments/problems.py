"""Problems on which estimators are compared: a loss of discrete choices, and the logits of the choices."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._core import checks
from .model import bernoulli_log_prob
from .run import Config, Run

__all__ = ["PROBLEMS", "Problem", "load", "polynomial", "quadratic", "toy", "vae"]


@dataclass(frozen=True)
class Problem:
    """``f`` and ``logits`` as the estimators take them, and the exact ``gradient`` if there is a formula for it."""

    text: str
    f: Callable[[Tensor], Tensor]
    logits: Tensor
    gradient: Tensor | None = None


def toy(t: float) -> Problem:
    """``(b - t)^2`` for one fair coin b. If t is near one half, both sides cost nearly the same.

    >>> toy(0.45).logits
    tensor([0., 0.])

    Source: Tucker et al. 2017 (REBAR), section 5.1.
    """
    return Problem(f"toy: E (b - {t})^2, b a fair coin", lambda z: (z[..., 1] - t) ** 2, torch.zeros(2))


def polynomial(p: float) -> Problem:
    """``mean_i |x_i - 0.45|^p`` over 128 coins x_i. Their log odds are standard normal numbers, always the same.

    The coins are one joint choice among 2^128 outcomes, but there is a formula for its gradient.

    Source: Liu et al. 2023 (ReinMax), section 5.
    """
    n, c = 128, 0.45
    logits = torch.zeros(n, 2)
    logits[:, 1] = torch.randn(n, generator=torch.Generator().manual_seed(0))
    slope = logits.softmax(-1).prod(-1) * ((1 - c) ** p - c**p) / n
    return Problem(
        f"polynomial: E mean |x - {c}|^{p:g} over {n} coins",
        lambda z: ((z[..., 1] - c).abs() ** p).mean(-1),
        logits,
        torch.stack([-slope, slope], -1),
    )


def quadratic() -> Problem:
    """``(sum_i a_i[z_i])^2`` for three choices z_i among four. The cost of each choice depends on the other choices."""
    generator = torch.Generator().manual_seed(0)
    a, logits = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    return Problem("quadratic: E (sum of 3 choices among 4)^2", lambda z: (z * a).sum((-2, -1)) ** 2, logits)


def vae(checkpoint: Path | None = None, *, count: int = 10) -> Problem:
    """``-log p(x | z)`` of the first ``count`` test images x under a trained model, with z from the encoder.

    Args:
        checkpoint: a run folder of ``argumbel train``; its best weights are used. None trains a small model of the
            digits with 4 latents of 4 classes, so that all outcomes can be listed.
        count: number of images. Their gradients are compared as one gradient.

    Raises:
        ValueError: ``count`` is below 1, or there is no run in ``checkpoint``.
    """
    count = checks.count("count", count, least=1)
    if checkpoint is None:
        from .train import fit

        config = Config.make("digits", latents=4, classes=4, hidden=(64,), steps=500, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            ended = fit(config, Path(folder) / "run")
            assert ended is not None  # one process
            return vae(ended[0].path, count=count)
    run = Run.open(checkpoint)
    config = run.config()
    images = config.images()
    model, state = run.trained(images)
    model.requires_grad_(False)
    x = images.test[:count]
    return Problem(
        f"vae: E -log p(x | z) of {len(x)} images of {config.dataset}, {config.latents} latents of {config.classes} "
        f"classes, after {state['step']:,} steps",
        lambda z: -bernoulli_log_prob(model.decode(z), x),
        model.encode(x),
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "toy-0.45": functools.partial(toy, 0.45),
    "toy-0.499": functools.partial(toy, 0.499),
    "polynomial-1.5": functools.partial(polynomial, 1.5),
    "polynomial-2": functools.partial(polynomial, 2.0),
    "polynomial-3": functools.partial(polynomial, 3.0),
    "quadratic": quadratic,
    "vae": vae,
}


def load(name: str, *, checkpoint: Path | None = None, count: int = 10) -> Problem:
    """The problem of this name in ``PROBLEMS``; or the pair (f, logits) that ``package.module:function`` returns.

    Args:
        name: a name in ``PROBLEMS``, or ``package.module:function``.
        checkpoint: a run folder, for the problem ``vae``.
        count: number of images, for the problem ``vae``.

    Raises:
        ValueError: an unknown name, or a checkpoint for another problem than ``vae``.
        TypeError: the function returns something else.
    """
    if checkpoint is not None and name != "vae":
        raise ValueError(f"problem must be vae if there is a --checkpoint, but it is {name!r}; leave --checkpoint out")
    if name == "vae":
        return vae(checkpoint, count=count)
    if name in PROBLEMS:
        return PROBLEMS[name]()
    if ":" not in name:
        raise ValueError(
            f"problem must be one of {', '.join(PROBLEMS)}, or package.module:function, but it is {name!r}; give "
            "one of these"
        )
    made = _imported(name)()
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[0]) or not isinstance(made[1], Tensor):
        raise TypeError(
            f"{name} must return a pair (f, logits), a function and a tensor, but it returns a {type(made).__name__}; "
            "return f, logits"
        )
    return Problem(name, *made)


def _imported(name: str) -> Callable[[], object]:
    """The function that ``package.module:function`` names. The module may be in the working directory."""
    module_name, _, attribute = name.partition(":")
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        raise ValueError(
            f"problem must name a module that can be imported, but {module_name!r} cannot ({error}); run the "
            "command in the folder of the module, or install it"
        ) from error
    finally:
        sys.path.remove(directory)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(
            f"problem must name a function of {module_name}, but {attribute!r} is no function there; check its name"
        )
    return function
