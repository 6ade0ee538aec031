"""Straight-through classes: discrete samples with the gradient of relaxed samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical, constraints
from torch.nn.functional import one_hot

from .._core.elementwise import log_softmax
from ..relax import gumbel_sigmoid, gumbel_softmax
from . import _densities as densities
from ._base import Size
from ._binary import RelaxedBinary
from ._categorical import RelaxedCategorical
from ._monte_carlo import NUM_SAMPLES

__all__ = ["RelaxedBernoulliStraightThrough", "RelaxedOneHotCategoricalStraightThrough"]


class RelaxedOneHotCategoricalStraightThrough(RelaxedCategorical):
    r"""``one_hot(z) + (y - y.detach())``: the one-hot vector of the argmax z of a relaxed sample y, with y's gradient.

    ``P(z = k) = probs[k]`` at every temperature, so as a random variable this *is* the categorical distribution:
    ``log_prob``, moments, entropy and KL are those of the categorical distribution. The temperature is used by
    ``rsample`` only, where it shapes the gradient (biased, of low variance). Arguments and errors as
    `ExpRelaxedCategorical`. ``temperature`` is torch's name for what the functions of argumbel call ``tau``: it
    divides the perturbed logits.

    ``log_prob(value)`` is a function of ``value`` alone, and linear in it (``sum_i value_i log probs_i``), so a loss
    that contains it gets both gradients: through the sample and through the parameters. To get the density of the
    relaxed sample behind a one-hot vector, draw from `RelaxedOneHotCategorical` with the same generator seed.

    Warning: ``torch.distributions.OneHotCategorical.log_prob(z)`` has no gradient in z (it takes the argmax). As the
    prior in a variational bound it leaves its probabilities out of the gradient, and training ends at equal
    probabilities. Use a prior of this class, or ``kl_divergence(q, prior)``, which takes either class and is exact.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> logits = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        >>> d = agd.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=logits)
        >>> z = d.rsample(generator=torch.Generator().manual_seed(0))
        >>> z.sum().item(), set(z.tolist()) == {0.0, 1.0}, z.requires_grad
        (1.0, True, True)
        >>> torch.equal(d.log_prob(z.clone()), (d.logits * z).sum())
        True

    Source: Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax", section 2.2.
    """

    support = constraints.one_hot
    has_enumerate_support = True

    @property
    def discrete(self) -> OneHotCategorical:
        """The law of the samples."""
        return OneHotCategorical(logits=self._scores, validate_args=False)

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """One-hot vectors of shape ``(*sample_shape, *batch, n)``, with the gradient of the relaxed sample."""
        scores = self._scores.expand(self._extended_shape(sample_shape))
        return self._result(gumbel_softmax(scores, self._tau, hard=True, generator=generator))

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``sum_i value_i log probs_i``: for a one-hot value, the log probability of its category."""
        value = self._value(value, self._param)
        work = torch.promote_types(self._work, value.dtype)
        return self._result(densities.category_mass(value.to(work), self._log_masses(work)), value)

    def _log_masses(self, work: torch.dtype | None = None) -> Tensor:
        """Log probabilities of the categories, in the last dimension."""
        return log_softmax(self._scores.to(self._work if work is None else work))

    @property
    def mean(self) -> Tensor:
        """``probs``."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """``probs * (1 - probs)``, entry by entry."""
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Tensor:
        """The one-hot vector of the most probable category."""
        return self._result(one_hot(self._scores.argmax(-1), self.event_shape[0]))

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``-sum_i probs_i log probs_i``. Exact: the two arguments serve classes that must sample."""
        log_probs = self._log_masses()
        return self._result(-densities.category_mass(log_probs.exp(), log_probs))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The n one-hot vectors, shape ``(n, *batch, n)``; if not expand, with 1 in place of each batch dimension."""
        return self._result(self.discrete.enumerate_support(expand))


class RelaxedBernoulliStraightThrough(RelaxedBinary):
    r"""``z + (y - y.detach())``: ``z = [y > 1/2]``, exactly 0 or 1, with the gradient of the relaxed sample y.

    ``P(z = 1) = probs`` at every temperature, so as a random variable this *is* the Bernoulli distribution:
    ``log_prob``, moments, entropy and KL are those of the Bernoulli distribution. Arguments and errors as
    `LogitRelaxedBernoulli`. ``temperature`` is torch's name for what the functions of argumbel call ``tau``: it
    divides the perturbed log odds, for the gradient of ``rsample`` only.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.RelaxedBernoulliStraightThrough(torch.tensor(0.5), probs=torch.tensor([0.1, 0.5, 0.9]))
        >>> z = d.rsample()
        >>> bool(((z == 0) | (z == 1)).all())
        True
        >>> d.log_prob(torch.ones(3)).exp()
        tensor([0.1000, 0.5000, 0.9000])

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix B; Bengio, Léonard and Courville 2013,
    "Estimating or propagating gradients through stochastic neurons for conditional computation".
    """

    support = constraints.boolean
    has_enumerate_support = True

    @property
    def discrete(self) -> Bernoulli:
        """The law of the samples, as torch's class; of a certain outcome it has a small probability of the opposite."""
        return Bernoulli(logits=self._scores, validate_args=False)

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """0 or 1, shape ``(*sample_shape, *batch)``, with the gradient of the relaxed sample."""
        scores = self._scores.expand(self._extended_shape(sample_shape))
        return self._result(gumbel_sigmoid(scores, self._tau, hard=True, generator=generator))

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``value * log(probs) + (1 - value) * log(1 - probs)``; -inf for an outcome of probability 0."""
        value = self._value(value, self._param)
        work = torch.promote_types(self._work, value.dtype)
        z = value.to(work)
        return self._result(densities.category_mass(torch.stack([1 - z, z], -1), self._log_masses(work)), value)

    @property
    def mean(self) -> Tensor:
        """``probs``."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """``probs * (1 - probs)``."""
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Tensor:
        """The more probable of 0 and 1; 0 at even odds."""
        return self._result(self._scores > 0)

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``-p log p - (1-p) log(1-p)``. Exact: the two arguments serve classes that must sample."""
        log_probs = self._log_masses()
        return self._result(-densities.category_mass(log_probs.exp(), log_probs))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """0 and 1, shape ``(2, *batch)``; if not expand, with 1 in place of each batch dimension."""
        return self._result(self.discrete.enumerate_support(expand))
