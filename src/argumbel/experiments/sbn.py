"""A sigmoid belief network of two layers, on which REBAR was first measured: model, control variates, training.

Nothing but estimators of ``argumbel.estimators`` is needed, one inside the other: the loss of the lower layer's
estimator is what the upper layer's returns, given a sample of the lower.

Source: Tucker et al. 2017, "REBAR: low-variance, unbiased gradient estimates for discrete latent variable models".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..estimators import relax
from ..noise import gumbel
from .data import Images
from .estimator import Estimator
from .run import stream
from .train import Batches

__all__ = ["CONTROLLED", "SCORED", "BeliefNetwork", "Bound", "Control", "GradientVariance", "maximise"]

CONTROLLED = ("rebar", "relax")
SCORED = ("reinforce", "reinforce_loo", "stratified", "arm", "disarm")
"""What a network can be trained with: a control variate of its own for each layer, or a loss that is a black box."""


class BeliefNetwork(nn.Module):
    """``p(x | z1) p(z1 | z2) p(z2)`` and ``q(z1 | x) q(z2 | z1)``: Bernoullis whose logits are linear.

    Units are seen as -1 and 1, images less their ``mean``, (pixels,). The bias of the pixels begins at its logits.
    Shapes: x (batch, pixels), z1 and z2 (..., batch, units), 0 and 1 or between, the results (..., batch).
    """

    mean: Tensor

    def __init__(self, mean: Tensor, units: int, generator: torch.Generator) -> None:
        super().__init__()
        pixels = len(mean)
        self.q1, self.q2 = _linear(pixels, units, generator), _linear(units, units, generator)
        self.p1, self.p0 = _linear(units, units, generator), _linear(units, pixels, generator)
        self.prior = nn.Parameter(torch.zeros(units))
        self.register_buffer("mean", mean)
        with torch.no_grad():
            self.p0.bias.copy_(torch.logit(mean, eps=1e-3))

    def encode(self, x: Tensor) -> Tensor:
        """The logits of q(z1 | x)."""
        return self.q1(x - self.mean)

    def encode_top(self, z1: Tensor) -> Tensor:
        """The logits of q(z2 | z1)."""
        return self.q2(2 * z1 - 1)

    def loss(self, x: Tensor, z1: Tensor, logits1: Tensor) -> Tensor:
        """``log q(z1 | x) - log p(x | z1)``. The gradient of log q is left out, for its mean is zero."""
        return _log_prob(logits1.detach(), z1) - _log_prob(self.p0(2 * z1 - 1), x)

    def loss_top(self, z1: Tensor, z2: Tensor, logits2: Tensor) -> Tensor:
        """``log q(z2 | z1) - log p(z1 | z2) - log p(z2)``: together with ``loss`` minus the bound of one sample."""
        log_p = _log_prob(self.p1(2 * z2 - 1), z1) + _log_prob(self.prior, z2)
        return _log_prob(logits2, z2) - log_p


class Control(nn.Module):
    """``c(y) = eta f(y) + r(context)``, or ``r(context, y)``: what REBAR and RELAX subtract, for one layer of units.

    f is the loss, eta is in (0, 2), and y in (0, 1) the relaxed sample, see ``relaxed``; r is a small network, which
    begins at zero. The context is what the logits of the layer are made of.
    """

    def __init__(self, inputs: int, units: int, generator: torch.Generator, *, sees_sample: bool) -> None:
        super().__init__()
        self.sees_sample = sees_sample
        self.pre_eta = nn.Parameter(torch.zeros(()))
        self.log_tau = nn.Parameter(torch.tensor(0.5).log())
        self.hidden = _linear(inputs + units * sees_sample, 100, generator)
        self.out = nn.Linear(100, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def relaxed(self, perturbed: Tensor, logits: Tensor) -> Tensor:
        """``sigmoid(z / tau + logits tau / (tau + 1))`` of the perturbed logit z: closer to the mean than without the
        second term if tau is large (Tucker et al. 2017, section 3.3)."""
        tau = self.log_tau.exp()
        return torch.sigmoid(perturbed / tau + logits * (tau / (tau + 1)))

    def forward(self, loss: Tensor, y: Tensor, context: Tensor) -> Tensor:
        """c, in the shape of the relaxed loss f(y), (..., batch)."""
        if self.sees_sample:
            context = torch.cat([context.expand(*y.shape[:-1], -1), 2 * y - 1], -1)
        r = self.out(torch.tanh(self.hidden(context))).squeeze(-1)
        return 2 * torch.sigmoid(self.pre_eta) * loss + r


class Bound(nn.Module):
    """Minus the bound of one sample, and its gradient by the estimator that ``text`` names, once in each layer.

    An estimator of m samples has m of z1, and m of z2 given each of those. ``rebar`` and ``relax`` take no arguments:
    they have the ``controls`` of :class:`Control`, without and with the sample in view of r, which get the gradient of
    the variance.
    """

    def __init__(self, model: BeliefNetwork, text: str, generator: torch.Generator) -> None:
        super().__init__()
        self.model = model
        self.estimator = self.control = self.control_top = None
        if text in CONTROLLED:
            units, pixels = model.q1.weight.shape
            self.control = Control(pixels, units, generator, sees_sample=text == "relax")
            self.control_top = Control(units, units, generator, sees_sample=text == "relax")
        else:
            self.estimator = Estimator(text)
            if self.estimator.name not in SCORED:
                raise ValueError(
                    f"estimator of a belief network must be one of {', '.join(SCORED)}, or plainly "
                    f"{' or '.join(CONTROLLED)}; got {text!r}"
                )

    @property
    def controls(self) -> list[Control]:
        return [c for c in (self.control, self.control_top) if c is not None]

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Shapes: x (batch, pixels), the result (batch,)."""
        if self.control is not None and self.control_top is not None:
            return self._with_controls(x, self.control, self.control_top, generator)
        model, estimator = self.model, self.estimator
        assert estimator is not None
        logits1 = model.encode(x)

        def loss(b1: Tensor) -> Tensor:
            z1 = b1[..., 0]
            logits2 = model.encode_top(z1)

            def loss_top(b2: Tensor) -> Tensor:
                return model.loss_top(z1, b2[..., 0], logits2.detach())

            return model.loss(x, z1, logits1) + estimator(loss_top, _two(logits2), tau=1.0, generator=generator)

        return estimator(loss, _two(logits1), tau=1.0, generator=generator)

    def _with_controls(self, x: Tensor, control: Control, control_top: Control, generator: torch.Generator) -> Tensor:
        model = self.model
        logits1 = model.encode(x)
        fixed1, context = logits1.detach(), x - model.mean
        noise1, noise2 = (gumbel((1, *logits1.shape, 2), generator=generator, dtype=x.dtype) for _ in range(2))
        # The relaxed z2 has the noise of the discrete one: given that, both losses are functions of z1 alone.
        logistic2 = _one(noise2)

        def loss(b1: Tensor) -> Tensor:
            z1 = b1[..., 0]
            logits2 = model.encode_top(z1)
            fixed2, context = logits2.detach(), 2 * z1 - 1

            def loss_top(b2: Tensor) -> Tensor:
                return model.loss_top(z1, b2[..., 0], fixed2)

            def c_top(z: Tensor) -> Tensor:
                y2 = control_top.relaxed(_one(z), fixed2)
                return control_top(model.loss_top(z1, y2, fixed2), y2, context)

            own = list(control_top.parameters())
            top = relax(loss_top, _two(logits2), c=c_top, parameters=own, coupled=True, noise=noise2.unsqueeze(0))
            return model.loss(x, z1, logits1) + top

        def c(z: Tensor) -> Tensor:
            y1 = control.relaxed(_one(z), fixed1)
            logits2 = model.encode_top(y1)
            y2 = control.relaxed(logits2 + logistic2, logits2)
            return control(model.loss(x, y1, fixed1) + model.loss_top(y1, y2, logits2), y1, context)

        own = list(control.parameters())
        return relax(loss, _two(logits1), c=c, parameters=own, coupled=True, noise=noise1)


class GradientVariance:
    """``E g^2 - (E g)^2``, its mean over all parameters. E is a moving mean from zero: ``decay E + (1 - decay) g``."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.first = torch.zeros(sum(p.numel() for p in self.parameters))
        self.second = 0.0

    def update(self) -> float:
        """Take in the gradients as they are now; the variance. Not finite if one of them is not."""
        g = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        self.first.lerp_(g, 1 - self.decay)
        self.second += (1 - self.decay) * (float(g @ g) / len(g) - self.second)
        return self.second - float(self.first @ self.first) / len(g)


def maximise(
    estimator: str,
    images: Images,
    *,
    seed: int,
    steps: int,
    units: int = 200,
    batch: int = 24,
    lr: float = 3e-4,
    control_lr: float = 3e-2,
    beta2: float = 0.99999,
    epoch: int = 2084,
    every: int = 521,
    record: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> tuple[dict[str, float], float]:
    """Train a belief network on the training images by Adam, controls at a rate of their own.

    Args:
        images: binary ones.
        epoch: of so many steps the figures are means, counted back from the last step.
        record: gets ``{"step", "kind": "train", "elbo", "log_variance", ...}``, means of the last ``every`` steps, and
            the same of each epoch under the kind ``"epoch"``. The variance is that of a step's gradient, see
            :class:`GradientVariance`; the logarithm is that of its mean.

    Returns:
        The figures of the last epoch, and the seconds that the steps took.

    Raises:
        ValueError: grey images, or an estimator that is not one of those above.
        FloatingPointError: a gradient became infinite or NaN.
    """
    if not images.binary:
        raise ValueError(f"a belief network needs binary images; those of {images.name} are grey: give a binary .npz")
    generator = torch.Generator().manual_seed(stream(seed, "weights"))
    model = BeliefNetwork(images.train.float().mean(0), units, generator)
    bound = Bound(model, estimator, generator)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if bound.controls:
        groups.append({"params": [p for control in bound.controls for p in control.parameters()], "lr": control_lr})
    optimizer = torch.optim.Adam(groups, lr=lr, betas=(0.9, beta2), fused=True)
    batches = Batches(images.train, batch, seed, fixed=True)
    variance = GradientVariance(model.parameters())
    generator.manual_seed(stream(seed, "latents"))
    recent, whole = _Means(), _Means()
    figures: dict[str, float] = {}
    began = time.perf_counter()
    for step in range(1, steps + 1):
        loss = bound(batches(step - 1).float(), generator).mean()
        optimizer.zero_grad()
        loss.backward()
        measured = variance.update()
        optimizer.step()
        if not math.isfinite(measured) or not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise FloatingPointError(f"weights became infinite or NaN by step {step}: lower the learning rate")
        for means in (recent, whole):
            means.add(-float(loss.detach()), measured)
        if step % every == 0 or step == steps:
            record({"step": step, "kind": "train", **recent.take(), **_controls(bound)})
        if (steps - step) % epoch == 0:
            figures = whole.take()
            record({"step": step, "kind": "epoch", **figures})
    return figures, time.perf_counter() - began


class _Means:
    """The figures of the steps since the last ``take``."""

    def __init__(self) -> None:
        self.elbos: list[float] = []
        self.variances: list[float] = []

    def add(self, elbo: float, variance: float) -> None:
        self.elbos.append(elbo)
        self.variances.append(variance)

    def take(self) -> dict[str, float]:
        means = {"elbo": fmean(self.elbos), "log_variance": math.log(fmean(self.variances))}
        self.elbos.clear()
        self.variances.clear()
        return means


def _controls(bound: Bound) -> dict[str, float]:
    entries: dict[str, float] = {}
    for i, control in enumerate(bound.controls, 1):
        eta, tau = 2 * torch.sigmoid(control.pre_eta.detach()), control.log_tau.detach().exp()
        entries |= {f"eta{i}": float(eta), f"tau{i}": float(tau)}
    return entries


def _log_prob(logits: Tensor, z: Tensor) -> Tensor:
    """Of Bernoullis, summed: ``bernoulli_log_prob`` by what is differentiated twice in the fewest operations."""
    return (z * logits - F.softplus(logits)).sum(-1)


def _two(logits: Tensor) -> Tensor:
    """A coin's logit as those of its two items, the first being 1: (..., units) to (..., units, 2)."""
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def _one(values: Tensor) -> Tensor:
    return values[..., 0] - values[..., 1]


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Weights as the authors' code has them: normal, cut off at two deviations, of variance 2 / inputs; biases 0."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    std = math.sqrt(1.3 * 2 / inputs)
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
