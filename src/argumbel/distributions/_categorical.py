"""The concrete (Gumbel-softmax) distribution over n categories: on the simplex, and as logarithms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints, relaxed_categorical
from torch.distributions.transforms import ExpTransform, Transform
from torch.distributions.utils import euler_constant

from .._core.checks import count
from .._core.elementwise import log_softmax, top_at_zero
from ..noise import gumbel
from ..relax import gumbel_softmax, log_gumbel_softmax
from . import _densities as densities
from ._base import Relaxed, Simplex, Size, check, computed_once, floor, simplex
from ._monte_carlo import NUM_SAMPLES, controlled_mean

__all__ = ["ExpRelaxedCategorical", "RelaxedOneHotCategorical"]


class RelaxedCategorical(Relaxed):
    """The parameters of all relaxations of a choice between n categories."""

    arg_constraints = {  # noqa: RUF012
        "temperature": constraints.positive,
        "probs": simplex,
        "logits": constraints.real_vector,
    }
    _event_dims = 1

    def _check_param(self, param: Tensor) -> None:
        if param.shape[-1] == 0:
            raise ValueError(
                f"{self._given} must have at least one category, but its shape is {tuple(param.shape)}; leave out a "
                "distribution without categories"
            )
        if self._given == "probs":
            fine = ((param >= 0) & (param < torch.inf)).all(-1)
            check("probs", param, fine, "nonnegative and finite", "for log probabilities pass logits=")
        else:
            fine = (param < torch.inf).all(-1)
            check("logits", param, fine, "below +inf and not NaN", "for a certain category make the others -inf")
        possible = (param > (0 if self._given == "probs" else -torch.inf)).any(-1)
        check(self._given, param, possible, "possible for at least one category of each row", "allow one")

    def _prepare(self, param: Tensor) -> Tensor:
        return param / param.sum(-1, keepdim=True) if self._given == "probs" else param

    @computed_once
    def _scores(self) -> Tensor:
        """Logits in the working dtype, as given: the choice does not need them normalised."""
        param = self._param.to(self._work)
        if self._given == "logits":
            return param
        # log(0) = -inf forbids the category; the gradient of the logarithm, 1 / 0, must not become NaN.
        impossible = param == 0
        return param.masked_fill(impossible, 1).log().masked_fill(impossible, -torch.inf)

    @computed_once
    def logits(self) -> Tensor:
        """Normalised log probabilities of the categories, as in ``torch.distributions``; -inf for probability 0."""
        return self._result(log_softmax(self._scores))

    @computed_once
    def probs(self) -> Tensor:
        """Probabilities of the categories: ``P(argmax of a sample = k)``, at every temperature."""
        return self._param if self._given == "probs" else self._result(torch.softmax(self._scores, -1))

    @property
    def _allowed(self) -> Tensor:
        return self._scores > -torch.inf


class ExpRelaxedCategorical(RelaxedCategorical, relaxed_categorical.ExpRelaxedCategorical):  # type: ignore[override, unused-ignore]
    r"""``log softmax((logits + G) / temperature)``, G standard Gumbel: the logarithm of a relaxed one-hot vector.

    Compute with this class: at temperature 0.1 and 1000 categories most samples of `RelaxedOneHotCategorical` have
    entries that float32 cannot hold; float32 can hold their logarithms. ``temperature`` is torch's name for
    what the functions of argumbel call ``tau``: it divides the perturbed logits.

    Args:
        temperature: positive; a number, or a tensor that broadcasts against the batch shape ``(*batch,)``. For logits
            of shape ``(b, n)``, shape ``(b,)`` is one temperature for each row; shape ``(t, 1)`` makes a batch of shape
            ``(t, b)``: every temperature with every row. torch's class broadcasts the temperature against the logits
            instead, categories included. Its shape ``(1,)`` for logits of shape ``(n,)`` means the same here; its shape
            ``(b, 1)``, one temperature for each row, has two meanings here and is refused; its shape ``(n,)`` for
            logits of shape ``(n,)``, one temperature for each category, makes a batch of n here.
        probs: probabilities of the categories, shape ``(*batch, n)``; need not be normalised; 0 forbids a category.
        logits: log probabilities up to a constant, shape ``(*batch, n)``; -inf forbids a category (its log sample is
            -inf). Pass either probs or logits.
        validate_args: check arguments and values; default as set for all of ``torch.distributions``.

    Raises:
        ValueError: temperature not positive and finite; NaN, +inf or a row without a possible category in probs or
            logits; a temperature that does not broadcast, or in two ways; both or neither of probs and
            logits; a value of the wrong shape.
        TypeError: an argument that is not floating.

    Densities are in the n - 1 log ratios of the sample, ``log y_i - log y_n`` (torch uses this base measure too). Work
    is done in float32 at least; results are cast to the dtype of the parameter (and of the value).

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.ExpRelaxedCategorical(torch.tensor(0.1), logits=torch.zeros(8, 1000))
        >>> log_y = d.rsample()
        >>> d.log_prob(log_y).isfinite().all()
        tensor(True)
        >>> torch.allclose(log_y.exp().sum(-1), torch.ones(8))
        True

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix C.3 (ExpConcrete).
    """

    support = constraints.real_vector

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Log samples of shape ``(*sample_shape, *batch, n)``, differentiable in logits and temperature."""
        scores = self._scores.expand(self._extended_shape(sample_shape))
        log_y = log_gumbel_softmax(scores, self._tau, generator=generator)
        # Only forbidden categories are -inf: entries that overflow at a very small temperature are clamped.
        finite = log_y.clamp(min=torch.finfo(self._param.dtype).min)
        return self._result(torch.where(self._allowed, finite, log_y))

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``log (n-1)! + (n-1) log(temperature) + sum_i log_softmax(logits - temperature * value)_i``.

        ``value`` is a log sample of shape ``(*batch, n)``; a constant added to all its entries changes nothing. The
        result has the shape ``(*batch,)``, or the shape that it and value broadcast to.
        """
        value = self._value(value, self._param)
        work = torch.promote_types(self._work, value.dtype)
        density = densities.exp_concrete(value.to(work), self._scores.to(work), self._tau.to(work))
        return self._result(density, value)

    @property
    def mode(self) -> Tensor:
        """``log_softmax(logits / temperature)``: the only maximum of the density in log ratios."""
        scores, allowed = top_at_zero(self._scores), self._allowed
        tempered = (scores.masked_fill(~allowed, 0) / self._tau).masked_fill(~allowed, -torch.inf)
        return self._result(log_softmax(tempered))

    def _entropy(self) -> Tensor:
        n = self._allowed.sum(-1).to(self._work)
        harmonic = torch.where(n == 1, torch.zeros_like(n), euler_constant + torch.digamma(n))  # of n - 1
        return n * harmonic - torch.lgamma(n) - (n - 1) * self.temperature.to(self._work).log()

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``n (0.5772 + digamma(n)) - log (n-1)! - (n-1) log(temperature)``, whatever the logits.

        Exact: `logits - temperature * log y` is noise plus a constant, and the sum of its exponentials is a Gamma
        variable. The two arguments serve classes that must sample; here they are unused.
        """
        return self._result(self._entropy())


class RelaxedOneHotCategorical(RelaxedCategorical, relaxed_categorical.RelaxedOneHotCategorical):
    r"""``softmax((logits + G) / temperature)``, G standard Gumbel: a relaxed one-hot vector, a point of the simplex.

    A drop-in for ``torch.distributions.RelaxedOneHotCategorical``; arguments and errors as `ExpRelaxedCategorical`.
    ``temperature`` is torch's name for what the functions of argumbel call ``tau``: it divides the perturbed logits.
    ``P(argmax = k)`` is probs[k] at every temperature.

    Samples always lie in the support and have a finite density: they sum to 1 within rounding, and an entry too small
    for its dtype is raised to the least positive number kept (1.2e-38 in float32 and bfloat16, 2.2e-308 in float64,
    6e-8 in float16). The density is then the density at the raised point, not at the point drawn. Where samples
    underflow (log y < -87 in float32: 7 in 10 at temperature 0.1 and 1000 equal logits) use ``base_dist``. In
    ``log_prob`` a zero in ``value`` counts as the least positive number too. The gradient of a density with respect to
    the point grows like 1 / y (more than float16 can hold) and is 0 at raised entries, so use ``base_dist`` also for a
    loss with ``log_prob(rsample())`` in it.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.RelaxedOneHotCategorical(torch.tensor([0.5, 1.0]), logits=torch.tensor([[1.0, 0.0, 0.0]]))
        >>> d.batch_shape, d.event_shape
        (torch.Size([2]), torch.Size([3]))
        >>> y = d.rsample((4,), generator=torch.Generator().manual_seed(0))
        >>> y.shape, d.log_prob(y).shape
        (torch.Size([4, 2, 3]), torch.Size([4, 2]))

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution"; Jang, Gu and Poole 2017, "Categorical
    reparameterization with Gumbel-softmax".
    """

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """The simplex, within the rounding of the parameter's dtype (or of the value's dtype, if it is coarser)."""
        return Simplex(self._param.dtype)

    @property
    def base_dist(self) -> ExpRelaxedCategorical:  # type: ignore[override, unused-ignore]
        """The distribution of the logarithms."""
        return self._as(ExpRelaxedCategorical)

    @property
    def transforms(self) -> list[Transform]:  # type: ignore[override, unused-ignore]
        """From ``base_dist`` to this distribution."""
        return [ExpTransform()]

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Samples of shape ``(*sample_shape, *batch, n)``, differentiable in logits and temperature."""
        scores = self._scores.expand(self._extended_shape(sample_shape))
        y = self._result(gumbel_softmax(scores, self._tau, generator=generator))
        return torch.where(self._allowed, y.clamp(min=floor(y.dtype)), y)

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``base_dist.log_prob(log(value)) - sum_i log(value_i)``: the density in any n - 1 of the n coordinates.

        ``value`` has the shape ``(*batch, n)``; the result has the shape ``(*batch,)``, or the shape that it and value
        broadcast to.
        """
        value = self._value(value, self._param)
        work = torch.promote_types(self._work, value.dtype)
        scores, tau = self._scores.to(work), self._tau.to(work)
        log_value = densities.simplex_to_log(value.to(work), scores, floor(value.dtype))
        return self._result(densities.concrete(log_value, scores, tau), value)

    @property
    def mode(self) -> Tensor:
        """Not offered: at temperatures up to 1 / (n - 1) the density on the simplex has no maximum, it grows without
        bound towards the corners; above, the maximum has no closed form.

        Raises:
            NotImplementedError: always; ``base_dist.mode.exp()`` is ``softmax(logits / temperature)``, the mode of the
                density in log ratios.
        """
        raise NotImplementedError(
            "RelaxedOneHotCategorical has no mode, for its density may have no maximum; take base_dist.mode.exp(), the "
            "mode of the logarithms"
        )

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``base_dist.entropy() + E sum_i log y_i``: the first term exact, the second Monte Carlo in log space.

        Two control variates whose means are known, the sum of the noise and the largest perturbed logit, take off 80 to
        99% of the standard deviation. Unbiased and differentiable. Shape ``(*batch,)``; unit: nats.

        Raises:
            ValueError: num_samples is less than 1.
            TypeError: num_samples is not an integer.
        """
        allowed, scores = self._allowed, top_at_zero(self._scores)
        shape = (count("num_samples", num_samples, least=1), *scores.shape)
        noise = gumbel(shape, generator=generator, dtype=self._work, device=scores.device)
        values = scores + noise
        log_y = log_gumbel_softmax(scores.expand(shape), self._tau, noise=noise)
        jacobian = log_y.masked_fill(~allowed, 0).sum(-1)
        total = noise.masked_fill(~allowed, 0).sum(-1) - euler_constant * allowed.sum(-1)
        highest = values.amax(-1) - torch.logsumexp(scores, -1) - euler_constant
        mean = controlled_mean(jacobian, torch.stack([total, highest], -1))
        return self._result(self.base_dist._entropy() + mean)
