"""Divergences, registered with ``torch.distributions.kl_divergence``.

- Gumbel with Gumbel: closed form. Gumbel to Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform and Normal,
  and Exponential, Gamma, Uniform and Normal to Gumbel: as torch's Gumbel.
- ExpRelaxedCategorical and RelaxedOneHotCategorical, each with its own class: Monte Carlo in log space with
  `NUM_SAMPLES` samples (`kl_monte_carlo` takes another number, and a generator).
- LogitRelaxedBernoulli and RelaxedBernoulli, each with its own class: quadrature.
- Each of these with torch's class of the same name, in both directions: as with its own class.
- A straight-through class with its own class, or with the torch distribution of its samples: closed form.
- HardConcrete with HardConcrete: quadrature.
- PlackettLuce with PlackettLuce and TopKSubset with TopKSubset, of equal n and k: the sum over all outcomes up to 5040
  of them, else Monte Carlo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical, kl, kl_divergence, register_kl
from torch.distributions.utils import euler_constant

from .._core.elementwise import log_softmax
from .._core.integrals import mean_log_variance
from ..noise import work_dtype
from . import _densities as densities
from ._base import with_one_batch
from ._binary import LogitRelaxedBernoulli, RelaxedBernoulli
from ._categorical import ExpRelaxedCategorical, RelaxedCategorical, RelaxedOneHotCategorical
from ._gumbel import Gumbel
from ._hard_concrete import HardConcrete
from ._monte_carlo import NUM_SAMPLES, kl_monte_carlo
from ._straight_through import RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough
from ._subset import PlackettLuce, TopKSubset

__all__: list[str] = []


Other = torch.distributions.Distribution


@register_kl(Gumbel, Gumbel)
@register_kl(Gumbel, torch.distributions.Gumbel)
@register_kl(torch.distributions.Gumbel, Gumbel)
def _gumbel(p: Gumbel | torch.distributions.Gumbel, q: Gumbel | torch.distributions.Gumbel) -> Tensor:
    """With r = scale_p / scale_q and d = (loc_p - loc_q) / scale_q:
    ``-log r - 0.5772 - 1 + d + 0.5772 r + exp(-d) Gamma(1 + r)``."""
    p, q = (d if isinstance(d, Gumbel) else Gumbel(d.loc, d.scale, validate_args=False) for d in (p, q))
    dtype = torch.promote_types(p._dtype, q._dtype)
    loc_p, scale_p, _ = p._working()
    loc_q, scale_q, _ = q._working()
    r, d = scale_p / scale_q, (loc_p - loc_q) / scale_q
    return (d + euler_constant * (r - 1) - 1 - r.log() + torch.exp(torch.lgamma(1 + r) - d)).to(dtype)


def _as_torch(d: Other) -> Other:
    """torch's Gumbel for ours, whose divergences it registers; any other distribution as it is."""
    if not isinstance(d, Gumbel):
        return d
    return d._torchs


def _by_torchs(p: Other, q: Other) -> Tensor:
    p, q = with_one_batch(p, q)
    result = kl_divergence(_as_torch(p), _as_torch(q))
    dtype = next(d for d in (p, q) if isinstance(d, Gumbel))._dtype
    return result if result.dtype == torch.float64 else result.to(dtype)


for _name in ("Beta", "ContinuousBernoulli", "Exponential", "Gamma", "Pareto", "Uniform", "Normal"):
    register_kl(Gumbel, getattr(torch.distributions, _name))(_by_torchs)
for _name in ("Exponential", "Gamma", "Normal", "Uniform"):
    register_kl(getattr(torch.distributions, _name), Gumbel)(_by_torchs)


PAIRS: dict[Any, Any] = {
    torch.distributions.relaxed_categorical.ExpRelaxedCategorical: ExpRelaxedCategorical,
    torch.distributions.RelaxedOneHotCategorical: RelaxedOneHotCategorical,
    torch.distributions.relaxed_bernoulli.LogitRelaxedBernoulli: LogitRelaxedBernoulli,
    torch.distributions.RelaxedBernoulli: RelaxedBernoulli,
}


def _as_ours(d: Any) -> Any:
    """Our class for torch's of the same name."""
    theirs: Any
    for theirs, ours in PAIRS.items():
        if isinstance(d, theirs) and not isinstance(d, ours):
            tau, logits = d.temperature, d.logits
            if issubclass(ours, RelaxedCategorical) and tau.ndim:
                if tau.shape[-1] != 1:
                    raise ValueError(
                        "temperature must be the same for all categories of a row, but its shape is "
                        f"{tuple(tau.shape)} for logits of shape {tuple(logits.shape)}; pass shape (..., 1) to "
                        "torch's class"
                    )
                tau = tau.squeeze(-1)
            return ours(tau, logits=logits, validate_args=False)
    return d


def _exp_relaxed(p: Any, q: Any) -> Tensor:
    return kl_monte_carlo(_as_ours(p), _as_ours(q))


def _relaxed(p: Any, q: Any) -> Tensor:
    """A change of variables changes no divergence."""
    return kl_monte_carlo(_as_ours(p).base_dist, _as_ours(q).base_dist)


def _logit(p: Any, q: Any) -> Tensor:
    """``log(t_p / t_q) - 2 - E [log y + log(1 - y)]``, ``y = sigmoid(logits_q - t_q * l)`` for log odds l of p."""
    p, q = _as_ours(p), _as_ours(q)
    scores_p, tau_p, scores_q, tau_q = (x.double() for d in (p, q) for x in (d._scores, d._tau))
    ratio = tau_p / tau_q
    divergence = ratio.log() - 2 - mean_log_variance(scores_p - scores_q * ratio, ratio)
    same = (ratio == 1) & (scores_p == scores_q)
    divergence = divergence - torch.where(same, divergence.detach(), 0.0)  # exactly 0, which rounding may miss
    return divergence.to(torch.promote_types(p._param.dtype, q._param.dtype))


RULES: dict[Any, Callable[[Any, Any], Tensor]] = {
    ExpRelaxedCategorical: _exp_relaxed,
    RelaxedOneHotCategorical: _relaxed,
    LogitRelaxedBernoulli: _logit,
    RelaxedBernoulli: _logit,
}
for _theirs, _ours in PAIRS.items():
    for _pair in ((_ours, _ours), (_ours, _theirs), (_theirs, _ours)):
        register_kl(*_pair)(RULES[_ours])


Discrete = RelaxedOneHotCategoricalStraightThrough | RelaxedBernoulliStraightThrough | OneHotCategorical | Bernoulli


@register_kl(RelaxedOneHotCategoricalStraightThrough, RelaxedOneHotCategoricalStraightThrough)
@register_kl(RelaxedOneHotCategoricalStraightThrough, OneHotCategorical)
@register_kl(OneHotCategorical, RelaxedOneHotCategoricalStraightThrough)
@register_kl(RelaxedBernoulliStraightThrough, RelaxedBernoulliStraightThrough)
@register_kl(RelaxedBernoulliStraightThrough, Bernoulli)
@register_kl(Bernoulli, RelaxedBernoulliStraightThrough)
def _discrete(p: Discrete, q: Discrete) -> Tensor:
    log_p, log_q = _log_masses(p), _log_masses(q)
    work = torch.promote_types(log_p.dtype, log_q.dtype)
    divergence = densities.divergence_of_masses(*torch.broadcast_tensors(log_p.to(work), log_q.to(work)))
    return divergence.to(torch.promote_types(p._param.dtype, q._param.dtype))


def _log_masses(d: Discrete) -> Tensor:
    """Log probabilities of the outcomes; torch's own ``logits`` have no -inf where the probability was given as 0."""
    if isinstance(d, (RelaxedOneHotCategoricalStraightThrough, RelaxedBernoulliStraightThrough)):
        return d._log_masses()
    param = d._param.to(work_dtype(d._param.dtype))
    given = param if d._param is d.probs else None
    if isinstance(d, Bernoulli):
        return densities.log_prob_pair(param, given)
    if given is None:
        return log_softmax(param)
    return given.masked_fill(given == 0, 1).log().masked_fill(given == 0, -torch.inf)


@register_kl(HardConcrete, HardConcrete)
def _hard_concrete(p: HardConcrete, q: HardConcrete) -> Tensor:
    return p.cross_entropy(q) - p.entropy()


MAX_LISTED = 5040  # outcomes that are listed for an exact sum: all orders of seven items


@register_kl(PlackettLuce, PlackettLuce)
@register_kl(TopKSubset, TopKSubset)
def _subsets(p: PlackettLuce | TopKSubset, q: PlackettLuce | TopKSubset) -> Tensor:
    """The sum over all outcomes, or a mean over `NUM_SAMPLES` of them with a score-function gradient."""
    n = p.logits.shape[-1]
    if p.k != q.k or n != q.logits.shape[-1]:
        raise ValueError(
            f"p and q must draw equally many of equally many items, but p draws {p.k} of {n} and q draws {q.k} of "
            f"{q.logits.shape[-1]}; their supports differ"
        )
    dtype = torch.promote_types(p.logits.dtype, q.logits.dtype)
    p, q = with_one_batch(p, q)
    if p.num_outcomes <= MAX_LISTED:
        outcomes = p.enumerate_support()
        log_p, log_q = (d.log_prob(outcomes).movedim(0, -1).to(work_dtype(dtype)) for d in (p, q))
        return densities.divergence_of_masses(log_p, log_q).to(dtype)
    # Where q forbids what p allows: from its samples the estimate would not always see it.
    missing = ((p.logits > -torch.inf) & (q.logits == -torch.inf)).any(-1)
    sample = p.sample((NUM_SAMPLES,))
    log_p, log_q = p.log_prob(sample), q.log_prob(sample).masked_fill(missing, 0)
    ratio = (log_p - log_q).detach()
    advantage = (ratio - ratio.mean(0)) * (NUM_SAMPLES / (NUM_SAMPLES - 1))
    surrogate = (advantage * log_p - log_q).mean(0)
    return (ratio.mean(0) + (surrogate - surrogate.detach())).masked_fill(missing, torch.inf).to(dtype)


# torch searches the registry at the first call of a pair and remembers what it found. torch.compile cannot trace the
# search where several entries match, as for subclasses of torch's classes, so it is done here.
for _pair in [(p, q) for p, q in kl._KL_REGISTRY if p.__module__.startswith(__package__)]:
    kl._KL_MEMOIZE[_pair] = kl._dispatch_kl(*_pair)
