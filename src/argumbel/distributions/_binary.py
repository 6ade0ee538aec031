"""The concrete distribution over two outcomes: as a number in (0, 1), and as log odds."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints, relaxed_bernoulli
from torch.distributions.transforms import SigmoidTransform, Transform
from torch.nn.functional import logsigmoid

from .._core.integrals import mean_log_variance
from ..noise import logistic
from ..relax import gumbel_sigmoid
from . import _densities as densities
from ._base import Relaxed, Size, check, computed_once, floor
from ._monte_carlo import NUM_SAMPLES

__all__ = ["LogitRelaxedBernoulli", "RelaxedBernoulli"]


class RelaxedBinary(Relaxed):
    """The parameters of all relaxations of a choice between 0 and 1."""

    arg_constraints = {  # noqa: RUF012
        "temperature": constraints.positive,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    _event_dims = 0

    def _check_param(self, param: Tensor) -> None:
        if self._given == "probs":
            fine = (param >= 0) & (param <= 1)
            check("probs", param, fine, "probabilities of a 1, in [0, 1]", "for log odds pass logits=")
        else:
            check("logits", param, param.isfinite(), "finite", "for a certain outcome pass probs=0 or probs=1")

    @computed_once
    def _scores(self) -> Tensor:
        """Log odds in the working dtype. Log odds of probs are kept finite: certain outcomes have odds of 1e38
        (float64: 1e308), and the noise is never large enough to change them."""
        param = self._param.to(self._work)
        if self._given == "logits":
            return param
        least = torch.finfo(self._work).tiny
        return param.clamp(min=least).log() - (1 - param).clamp(min=least).log()

    @property
    def _certain_scores(self) -> Tensor:
        """Log odds in the working dtype, infinite for probs of 0 and 1; no gradient there."""
        if self._given == "logits":
            return self._scores
        param = self._param.to(self._work)
        return self._scores.masked_fill(param == 0, -torch.inf).masked_fill(param == 1, torch.inf)

    def _log_masses(self, work: torch.dtype | None = None) -> Tensor:
        """Log probabilities of 0 and of 1, in the last dimension."""
        work = self._work if work is None else work
        return densities.log_prob_pair(self._scores.to(work), self._param.to(work) if self._given == "probs" else None)

    @computed_once
    def logits(self) -> Tensor:
        """Log odds of a 1."""
        return self._param if self._given == "logits" else self._result(self._scores)

    @computed_once
    def probs(self) -> Tensor:
        """Probability of a 1: ``P(sample > 1/2)``, at every temperature."""
        return self._param if self._given == "probs" else self._result(torch.sigmoid(self._scores))

    def _like(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """value, scores and temperature in one working dtype."""
        work = torch.promote_types(self._work, value.dtype)
        return value.to(work), self._scores.to(work), self._tau.to(work)


def _logit(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Log odds of numbers in [0, 1]; 0 and 1 count as the nearest numbers of dtype inside (0, 1)."""
    return densities.unit_to_logit(value, floor(dtype), 1 - torch.finfo(dtype).eps / 2)


class LogitRelaxedBernoulli(RelaxedBinary, relaxed_bernoulli.LogitRelaxedBernoulli):  # type: ignore[override, unused-ignore]
    r"""``(logits + L) / temperature``, L standard logistic: the log odds of a relaxed Bernoulli variable.

    This is the logistic distribution with location logits / temperature and scale 1 / temperature, so everything but
    its KL has a closed form. Compute with this class: `RelaxedBernoulli` cannot tell log odds above 17 apart.
    ``temperature`` is torch's name for what the functions of argumbel call ``tau``: it divides the perturbed log
    odds.

    Args:
        temperature: positive; a number, or a tensor that broadcasts with probs or logits.
        probs: probability of a 1, in [0, 1]; a number, or a tensor of shape ``(*batch,)``. At 0 and 1 the log odds are
            kept finite, about +-87 (float64: +-708).
        logits: log odds of a 1, finite; a number, or a tensor of shape ``(*batch,)``. Pass either probs or logits.
        validate_args: check arguments and values; default as set for all of ``torch.distributions``.

    Raises:
        ValueError: temperature not positive and finite; probs outside [0, 1]; logits not finite; shapes that do not
            broadcast; both or neither of probs and logits.
        TypeError: an argument that is neither a number nor floating.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.LogitRelaxedBernoulli(0.1, probs=torch.tensor([0.2, 0.7]))
        >>> (1 - d.cdf(torch.zeros(2)))         # P(log odds > 0) is probs, at every temperature
        tensor([0.2000, 0.7000])
        >>> d.rsample((3,)).shape
        torch.Size([3, 2])

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix B and C.3.
    """

    support = constraints.real

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Log odds of shape ``(*sample_shape, *batch)``, differentiable in logits and temperature."""
        shape = self._extended_shape(sample_shape)
        noise = logistic(shape, generator=generator, dtype=self._work, device=self._scores.device)
        limit = torch.finfo(self._param.dtype).max
        return self._result(((self._scores + noise) / self._tau).clamp(-limit, limit))

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``log(t) + logsigmoid(d) + logsigmoid(-d)``, ``d = logits - t * value``, t the temperature."""
        value = self._value(value, self._param)
        return self._result(densities.logistic(*self._like(value)), value)

    def cdf(self, value: Tensor | float) -> Tensor:
        """``sigmoid(temperature * value - logits)``."""
        value = self._value(value, self._param)
        y, scores, tau = self._like(value)
        return self._result(torch.sigmoid(tau * y - scores), value)

    def log_cdf(self, value: Tensor | float) -> Tensor:
        """``logsigmoid(temperature * value - logits)``: right where ``cdf`` underflows."""
        value = self._value(value, self._param)
        y, scores, tau = self._like(value)
        return self._result(logsigmoid(tau * y - scores), value)

    def icdf(self, value: Tensor | float) -> Tensor:
        """``(logits + log(value) - log(1 - value)) / temperature``, for value in [0, 1]."""
        value = self._probability(value, self._param)
        u, scores, tau = self._like(value)
        return self._result((scores + torch.logit(u)) / tau, value)

    @property
    def mean(self) -> Tensor:
        """``logits / temperature``, also the median."""
        return self._result(self._scores / self._tau)

    @property
    def mode(self) -> Tensor:
        """``logits / temperature``: where the density is largest."""
        return self.mean

    @property
    def stddev(self) -> Tensor:
        """``pi / sqrt(3) / temperature``."""
        return self._result(math.pi / math.sqrt(3) / self._tau)

    @property
    def variance(self) -> Tensor:
        """``pi^2 / 3 / temperature^2``."""
        return self._result(math.pi**2 / 3 / self._tau.square())

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``2 - log(temperature)``. Exact: the two arguments serve classes that must sample; here they are unused."""
        return self._result(2 - self._tau.log())


class RelaxedBernoulli(RelaxedBinary, relaxed_bernoulli.RelaxedBernoulli):
    r"""``sigmoid((logits + L) / temperature)``, L standard logistic: a number in (0, 1).

    A drop-in for ``torch.distributions.RelaxedBernoulli``; arguments and errors as `LogitRelaxedBernoulli`.
    ``temperature`` is torch's name for what the functions of argumbel call ``tau``: it divides the perturbed log
    odds. ``P(sample > 1/2)`` is probs at every temperature.

    Samples always lie strictly inside (0, 1) and have a finite density: a sample too near 0 or 1 for its dtype is moved
    to the nearest number that is kept (1.2e-38 and 1 - 6e-8 in float32). Its density is then the density at the moved
    point. Where samples are moved (in float32 at even odds: 1 in 6 at temperature 0.1, 1 in 3000 at 0.5) compare
    densities of log odds, by ``base_dist``. In ``log_prob`` and ``cdf`` the values 0 and 1 count as these numbers too.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.RelaxedBernoulli(torch.tensor(0.5), logits=torch.tensor([-1.0, 0.0, 3.0]))
        >>> y = d.rsample()
        >>> bool(((y > 0) & (y < 1)).all()), d.log_prob(y).shape
        (True, torch.Size([3]))

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix B.
    """

    support = constraints.unit_interval

    @property
    def base_dist(self) -> LogitRelaxedBernoulli:  # type: ignore[override, unused-ignore]
        """The distribution of the log odds."""
        return self._as(LogitRelaxedBernoulli)

    @property
    def transforms(self) -> list[Transform]:  # type: ignore[override, unused-ignore]
        """From ``base_dist`` to this distribution."""
        return [SigmoidTransform()]

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Samples of shape ``(*sample_shape, *batch)``, differentiable in logits and temperature."""
        scores = self._scores.expand(self._extended_shape(sample_shape))
        y = self._result(gumbel_sigmoid(scores, self._tau, generator=generator))
        return y.clamp(floor(y.dtype), 1 - torch.finfo(y.dtype).eps / 2)

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``base_dist.log_prob(l) - log(value) - log(1 - value)``, where l are the log odds of value."""
        value = self._value(value, self._param)
        y, scores, tau = self._like(value)
        return self._result(densities.binary_concrete(_logit(y, value.dtype), scores, tau), value)

    def cdf(self, value: Tensor | float) -> Tensor:
        """``sigmoid(temperature * l - logits)``, where l are the log odds of value."""
        value = self._value(value, self._param)
        y, scores, tau = self._like(value)
        return self._result(torch.sigmoid(tau * _logit(y, value.dtype) - scores), value)

    def log_cdf(self, value: Tensor | float) -> Tensor:
        """``logsigmoid(temperature * l - logits)``, l the log odds of value: right where ``cdf`` underflows."""
        value = self._value(value, self._param)
        y, scores, tau = self._like(value)
        return self._result(logsigmoid(tau * _logit(y, value.dtype) - scores), value)

    def icdf(self, value: Tensor | float) -> Tensor:
        """``sigmoid((logits + log(value) - log(1 - value)) / temperature)``, for value in [0, 1]."""
        return torch.sigmoid(self.base_dist.icdf(value))

    @property
    def mode(self) -> Tensor:
        """Not offered: at temperatures below 1 the density on (0, 1) grows without bound towards 0 and towards 1.

        Raises:
            NotImplementedError: always; ``icdf(0.5)`` is the median, ``base_dist.mode`` the mode of the log odds.
        """
        raise NotImplementedError(
            "RelaxedBernoulli has no mode, for its density may have no maximum; take icdf(0.5), the median, or "
            "base_dist.mode, the mode of the log odds"
        )

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``2 - log(temperature) + E [log y + log(1 - y)]``: the mean is an integral, done by quadrature in float64.

        Exact to rounding and differentiable. Shape ``(*batch,)``; unit: nats. The two arguments serve classes that must
        sample; here they are unused.
        """
        tau = self._tau.double()
        return self._result(2 - tau.log() + mean_log_variance(self._scores.double(), tau))
