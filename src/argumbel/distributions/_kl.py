"""Divergences, registered with ``torch.distributions.kl_divergence``.

- Gumbel with Gumbel: closed form.
- ExpRelaxedCategorical, RelaxedOneHotCategorical, LogitRelaxedBernoulli and RelaxedBernoulli, each with its own class:
  Monte Carlo in log space with `NUM_SAMPLES` samples (`kl_monte_carlo` takes another number, and a generator).
- A straight-through class with its own class, or with the torch distribution of its samples: closed form.
- HardConcrete with HardConcrete: quadrature.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical, register_kl
from torch.distributions.utils import euler_constant

from ..noise import work_dtype
from . import _densities as densities
from ._binary import LogitRelaxedBernoulli, RelaxedBernoulli
from ._categorical import ExpRelaxedCategorical, RelaxedOneHotCategorical
from ._gumbel import Gumbel
from ._hard_concrete import HardConcrete
from ._monte_carlo import kl_monte_carlo
from ._straight_through import RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough

__all__: list[str] = []


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Tensor:
    """With r = scale_p / scale_q and d = (loc_p - loc_q) / scale_q:
    ``-log r - 0.5772 - 1 + d + 0.5772 r + exp(-d) Gamma(1 + r)``."""
    dtype = torch.promote_types(p._dtype, q._dtype)
    loc_p, scale_p, _ = p._working()
    loc_q, scale_q, _ = q._working()
    r, d = scale_p / scale_q, (loc_p - loc_q) / scale_q
    return (d + euler_constant * (r - 1) - 1 - r.log() + torch.exp(torch.lgamma(1 + r) - d)).to(dtype)


@register_kl(ExpRelaxedCategorical, ExpRelaxedCategorical)
@register_kl(LogitRelaxedBernoulli, LogitRelaxedBernoulli)
def _in_log_space(
    p: ExpRelaxedCategorical | LogitRelaxedBernoulli, q: ExpRelaxedCategorical | LogitRelaxedBernoulli
) -> Tensor:
    return kl_monte_carlo(p, q)


@register_kl(RelaxedOneHotCategorical, RelaxedOneHotCategorical)
@register_kl(RelaxedBernoulli, RelaxedBernoulli)
def _relaxed(p: RelaxedOneHotCategorical | RelaxedBernoulli, q: RelaxedOneHotCategorical | RelaxedBernoulli) -> Tensor:
    """A change of variables changes no divergence."""
    return kl_monte_carlo(p.base_dist, q.base_dist)


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
    return divergence.to(torch.promote_types(_param(p).dtype, _param(q).dtype))


def _param(d: Discrete) -> Tensor:
    return d._param


def _log_masses(d: Discrete) -> Tensor:
    """Log probabilities of the outcomes; torch's own ``logits`` have no -inf where the probability was given as 0."""
    if isinstance(d, (RelaxedOneHotCategoricalStraightThrough, RelaxedBernoulliStraightThrough)):
        return d._log_masses()
    param = d._param.to(work_dtype(d._param.dtype))
    given = param if d._param is d.probs else None
    if isinstance(d, Bernoulli):
        return densities.log_prob_pair(param, given)
    if given is None:
        return torch.log_softmax(param, -1)
    return given.masked_fill(given == 0, 1).log().masked_fill(given == 0, -torch.inf)


@register_kl(HardConcrete, HardConcrete)
def _hard_concrete(p: HardConcrete, q: HardConcrete) -> Tensor:
    return p.cross_entropy(q) - p.entropy()
