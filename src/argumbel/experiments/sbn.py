"""A sigmoid belief network of two layers, the first model on which REBAR was measured: model, control variates,
training.

The estimators are those of ``argumbel.estimators``, one inside the other: the loss of the lower layer's estimator
contains the value of the upper layer's estimator, given a sample of the lower layer.

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
"""The estimators: ``CONTROLLED`` have a control variate for each layer, ``SCORED`` need only values of the loss."""


class BeliefNetwork(nn.Module):
    """``p(x | z1) p(z1 | z2) p(z2)`` and ``q(z1 | x) q(z2 | z1)``: Bernoullis whose logits are linear.

    The next layer sees a unit as -1 or 1, and an image minus the mean image. In the methods, x is ``(batch, pixels)``,
    z1 and z2 are ``(*samples, batch, units)`` with numbers from 0 to 1, and results are ``(*samples, batch)``.

    Args:
        mean: the mean image, ``(pixels,)``. The bias of the pixels starts at its logits.
        units: in each layer.
        generator: draws the first weights.
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
        """``log q(z1 | x) - log p(x | z1)``. The gradient of log q is left out, because its mean is 0."""
        return _log_prob(logits1.detach(), z1) - _log_prob(self.p0(2 * z1 - 1), x)

    def loss_top(self, z1: Tensor, z2: Tensor, logits2: Tensor) -> Tensor:
        """``log q(z2 | z1) - log p(z1 | z2) - log p(z2)``. The sum with ``loss`` is minus the bound from one sample."""
        log_p = _log_prob(self.p1(2 * z2 - 1), z1) + _log_prob(self.prior, z2)
        return _log_prob(logits2, z2) - log_p


class Control(nn.Module):
    """``c(y) = eta f(y) + r(context)``: the control variate of REBAR for one layer of units.

    f is the loss, eta is in (0, 2), y in (0, 1) is the relaxed sample (see :meth:`relaxed`), and r is a small network
    that starts at 0. The context is the input of the layer. For RELAX the network sees the sample too,
    ``r(context, y)``.

    Args:
        inputs: size of the context.
        units: of the layer.
        generator: draws the first weights of r.
        sees_sample: whether r sees the sample.
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
        """``sigmoid(z / tau + logits tau / (tau + 1))`` of the perturbed logit z. If tau is large, the second term
        brings it closer to the mean (Tucker et al. 2017, section 3.3)."""
        tau = self.log_tau.exp()
        return torch.sigmoid(perturbed / tau + logits * (tau / (tau + 1)))

    def forward(self, loss: Tensor, y: Tensor, context: Tensor) -> Tensor:
        """c(y), in the shape of the relaxed loss f(y), ``(*samples, batch)``."""
        if self.sees_sample:
            context = torch.cat([context.expand(*y.shape[:-1], -1), 2 * y - 1], -1)
        r = self.out(torch.tanh(self.hidden(context))).squeeze(-1)
        return 2 * torch.sigmoid(self.pre_eta) * loss + r


class Bound(nn.Module):
    """Minus the bound from one sample. Its gradient is the estimate by the estimator that ``text`` names, in both
    layers.

    An estimator with m samples has m samples of z1, and m samples of z2 given each sample of z1. The estimators
    ``rebar`` and ``relax`` take no arguments. They have a :class:`Control` for each layer (``controls``), which gets
    the gradient of the variance; in ``relax`` its network sees the sample.

    Args:
        model: the network.
        text: one of ``CONTROLLED``; or one of ``SCORED``, with arguments if needed.
        generator: draws the first weights of the controls.

    Raises:
        ValueError: another estimator.
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
                    f"estimator of a belief network must be one of {', '.join(SCORED)}, or {' or '.join(CONTROLLED)} "
                    f"without arguments, but it is {text!r}; give one of these"
                )

    @property
    def controls(self) -> list[Control]:
        return [c for c in (self.control, self.control_top) if c is not None]

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the bound of each image, ``(batch,)``, of images ``(batch, pixels)``."""
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

            return model.loss(x, z1, logits1) + estimator(loss_top, _item_logits(logits2), tau=1.0, generator=generator)

        return estimator(loss, _item_logits(logits1), tau=1.0, generator=generator)

    def _with_controls(self, x: Tensor, control: Control, control_top: Control, generator: torch.Generator) -> Tensor:
        model = self.model
        logits1 = model.encode(x)
        fixed1, context = logits1.detach(), x - model.mean
        noise1, noise2 = (gumbel((1, *logits1.shape, 2), generator=generator, dtype=x.dtype) for _ in range(2))
        # The relaxed z2 has the noise of the discrete z2. Given this noise, both losses are functions of z1 alone.
        logistic2 = _difference(noise2)

        def loss(b1: Tensor) -> Tensor:
            z1 = b1[..., 0]
            logits2 = model.encode_top(z1)
            fixed2, context = logits2.detach(), 2 * z1 - 1

            def loss_top(b2: Tensor) -> Tensor:
                return model.loss_top(z1, b2[..., 0], fixed2)

            def c_top(z: Tensor) -> Tensor:
                y2 = control_top.relaxed(_difference(z), fixed2)
                return control_top(model.loss_top(z1, y2, fixed2), y2, context)

            own = list(control_top.parameters())
            top = relax(
                loss_top, _item_logits(logits2), c=c_top, parameters=own, coupled=True, noise=noise2.unsqueeze(0)
            )
            return model.loss(x, z1, logits1) + top

        def c(z: Tensor) -> Tensor:
            y1 = control.relaxed(_difference(z), fixed1)
            logits2 = model.encode_top(y1)
            y2 = control.relaxed(logits2 + logistic2, logits2)
            return control(model.loss(x, y1, fixed1) + model.loss_top(y1, y2, logits2), y1, context)

        own = list(control.parameters())
        return relax(loss, _item_logits(logits1), c=c, parameters=own, coupled=True, noise=noise1)


class GradientVariance:
    """``E g^2 - (E g)^2``, averaged over all parameters. E is a moving mean from 0: ``decay E + (1 - decay) g``."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.first = torch.zeros(sum(p.numel() for p in self.parameters))
        self.second = 0.0

    def update(self) -> float:
        """Add the present gradients, and return the variance. It is not finite if one of the gradients is not."""
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
    """Train a belief network on the training images by Adam.

    Args:
        estimator: text, as :class:`Bound` takes it.
        images: binary images.
        seed: seed of the weights, the batches and the draws.
        steps: number of steps.
        units: in each layer.
        batch: images in each step.
        lr: learning rate of the network.
        control_lr: learning rate of the controls.
        beta2: of Adam.
        epoch: number of steps in an epoch. Epochs are counted back from the last step.
        every: steps between two records of the kind ``"train"``.
        record: is called with ``{"step", "kind": "train", "elbo", "log_variance", ...}``, means over the last ``every``
            steps, and with the same means over each epoch, of the kind ``"epoch"``. ``log_variance`` is the logarithm
            of the mean of :class:`GradientVariance`.

    Returns:
        The means over the last epoch, and the seconds that the steps took.

    Raises:
        ValueError: the images are grey, or :class:`Bound` does not take the estimator.
        FloatingPointError: a gradient became infinite or NaN.
    """
    if not images.binary:
        raise ValueError(
            f"images of a belief network must be binary, but the images of {images.name} are grey; give a binary .npz"
        )
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
            raise FloatingPointError(
                f"gradients must be finite, but became infinite or NaN by step {step}; lower the learning rate"
            )
        for means in (recent, whole):
            means.add(-float(loss.detach()), measured)
        if step % every == 0 or step == steps:
            record({"step": step, "kind": "train", **recent.take(), **_controls(bound)})
        if (steps - step) % epoch == 0:
            figures = whole.take()
            record({"step": step, "kind": "epoch", **figures})
    return figures, time.perf_counter() - began


class _Means:
    """Means over the steps since the last ``take``."""

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
    """``bernoulli_log_prob`` by the fewest operations that can be differentiated twice."""
    return (z * logits - F.softplus(logits)).sum(-1)


def _item_logits(logits: Tensor) -> Tensor:
    """The logits of the two items of each coin, ``(*batch, units, 2)``, from its log odds. Item 0 is the outcome 1."""
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def _difference(values: Tensor) -> Tensor:
    """The log odds of each coin, ``(*batch, units)``, from the logits of its two items."""
    return values[..., 0] - values[..., 1]


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Weights as in the authors' code: normal, truncated at two deviations, with variance 2 / inputs. Biases are 0."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    std = math.sqrt(1.3 * 2 / inputs)
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
