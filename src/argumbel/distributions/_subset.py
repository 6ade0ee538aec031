"""k of n items without replacement: in the order drawn, and as a set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from .._core.checks import broadcasts_to, can_raise, check_k, check_logits, count, floating, number, sizes
from ..choice import gumbel_topk, sample_without_replacement
from ..relax import relaxed_topk
from ..subsets import inclusion_probs, topk_log_prob
from ._base import Reparameterized, Size, check, wants_checks
from ._monte_carlo import NUM_SAMPLES

__all__ = ["PlackettLuce", "TopKSubset"]


class Orders(constraints.Constraint):
    """Different indices in [0, n); a list that ends early is padded by -1."""

    is_discrete = True
    event_dim = 1

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def check(self, value: Tensor) -> Tensor:
        indices = value.to(torch.int64)
        padding = value == -1
        inside = ((indices >= 0) | padding) & (indices < self.n) & (indices == value)
        behind = padding[..., 1:] | ~padding[..., :-1]
        apart = torch.where(padding, -1 - torch.arange(value.shape[-1], device=value.device), indices)
        different = apart.sort(-1).values.diff(dim=-1) != 0
        return inside.all(-1) & behind.all(-1) & different.all(-1)

    def __repr__(self) -> str:
        return f"Orders(n={self.n})"


class KHot(constraints.Constraint):
    """k ones, the rest zeros."""

    is_discrete = True
    event_dim = 1

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def check(self, value: Tensor) -> Tensor:
        one = value == 1
        return (one | (value == 0)).all(-1) & (one.sum(-1) == self.k)

    def __repr__(self) -> str:
        return f"KHot(k={self.k})"


class Subset(Reparameterized):
    """Logits over the last dimension, and how many of the items are drawn."""

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_enumerate_support = True
    logits: Tensor
    k: int

    def __init__(self, logits: Tensor, k: int, validate_args: bool | None = None) -> None:
        check_logits(logits)
        k = check_k(k, logits.shape[-1])
        if wants_checks(validate_args):
            check("logits", logits, (logits < torch.inf).all(-1), "below +inf and not NaN", "forbid items by -inf")
            enough = (logits > -torch.inf).sum(-1) >= k
            check("logits", logits, enough, f"possible for at least {k} items of each row", "draw fewer")
        self._fill(logits, k, validate_args)

    def _fill(self, logits: Tensor, k: int, validate_args: bool | None) -> None:
        self.logits, self.k = logits, k
        self._init_checked(logits.shape[:-1], self._event(), validate_args)

    def _event(self) -> tuple[int]:
        raise NotImplementedError

    @property
    def probs(self) -> Tensor:
        """``softmax(logits)``: the probabilities of the first item drawn. (``logits`` is as it was given.)"""
        return torch.softmax(self.logits, -1)

    @property
    def param_shape(self) -> torch.Size:
        """Shape of logits and probs: ``(*batch, n)``."""
        return self.logits.shape

    @property
    def _raced(self) -> Tensor:
        """The logits of the race. The functions refuse a row without a possible item; the empty set needs none."""
        return self.logits if self.k else self.logits.masked_fill(self.logits == -torch.inf, 0)

    def expand(self, batch_shape: Size, _instance: Any = None) -> Self:
        """The same distribution for a larger batch; no memory is copied."""
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__)
        new._fill(
            self.logits.expand(*sizes("batch_shape", batch_shape), self.logits.shape[-1]), self.k, self._validate_args
        )
        return new

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``-mean_s log_prob(y_s)``, in nats, shape ``(*batch,)``: an unbiased estimate. Its gradient is unbiased too:
        a score function estimate, whose baseline is the mean of the other samples."""
        num_samples = count("num_samples", num_samples, least=2)  # each sample is a baseline of the others
        log_p = self.log_prob(self.sample((num_samples,), generator=generator))
        known = log_p.detach()
        surrogate = -((known - known.mean(0)) * log_p).sum(0) / (num_samples - 1)
        return -known.mean(0) + (surrogate - surrogate.detach())

    @property
    def num_outcomes(self) -> int:
        """The number of outcomes, forbidden items included."""
        raise NotImplementedError

    def _listed(self, choices: Iterable[tuple[int, ...]]) -> Tensor:
        count = self.num_outcomes
        if count > 1_000_000:
            raise ValueError(
                f"the support must be small to be enumerated, 1000000 outcomes at most, but it has {count}; draw "
                "samples"
            )
        listed = torch.tensor(list(choices), dtype=torch.int64, device=self.logits.device)
        return listed.reshape(count, self.k)

    def _expand_choices(self, choices: Tensor, expand: bool) -> Tensor:
        choices = choices.reshape(len(choices), *[1] * len(self.batch_shape), choices.shape[-1])
        return choices.expand(-1, *self.batch_shape, -1) if expand else choices

    def __repr__(self) -> str:
        x = self.logits
        shown = x.tolist() if x.ndim == 1 and len(x) <= 6 and can_raise(x) else tuple(x.shape)
        return f"{type(self).__name__}(k: {self.k}, logits: {shown})"


class PlackettLuce(Subset):
    """``P(i_1, ..., i_k) = prod_j w[i_j] / (sum of w without i_1, ..., i_{j-1})``, w = exp(logits): k items in order.

    A sample holds the int64 indices of k items, drawn without replacement, in the order drawn. With all n items, the
    default, it is a ranking. The event shape is ``(k,)``.

    Args:
        logits: log weights of the items, shape ``(*batch, n)``, any floating dtype; need not be normalised; -inf
            forbids an item.
        k: the number of items drawn; default all.
        validate_args: check arguments and values; default as set for all of ``torch.distributions``.

    Raises:
        ValueError: NaN or +inf in logits; k larger than the number of possible items of some row; a value that is not
            k different indices.
        TypeError: logits are not a floating tensor, or k is not an integer.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.PlackettLuce(torch.tensor([0.5, 0.3, 0.2]).log(), k=2)
        >>> d.log_prob(torch.tensor([0, 1])).exp()
        tensor(0.3000)
        >>> d.log_prob(d.enumerate_support()).exp().sum()
        tensor(1.0000)
        >>> d.sample((4,)).shape
        torch.Size([4, 2])

    Source: Plackett 1975, "The analysis of permutations".
    """

    has_rsample = False

    def __init__(self, logits: Tensor, k: int | None = None, validate_args: bool | None = None) -> None:
        check_logits(logits)
        super().__init__(logits, logits.shape[-1] if k is None else k, validate_args)

    def _event(self) -> tuple[int]:
        return (self.k,)

    @property
    def num_outcomes(self) -> int:
        """``n! / (n - k)!``, forbidden items included."""
        return math.perm(self.logits.shape[-1], self.k)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return Orders(self.logits.shape[-1])

    def sample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """int64 indices of shape ``(*sample_shape, *batch, k)``, in the order drawn."""
        return sample_without_replacement(self._raced, self.k, sample_shape, generator=generator).indices

    def log_prob(self, value: Tensor) -> Tensor:
        """``topk_log_prob(logits, value)``, for indices of shape ``(*batch, k)``, of any dtype.

        Shape ``(*batch,)``, or the shape that it and value broadcast to. A list that holds the first few items alone is
        padded by -1 after the last of them: its log probability is that of drawing these items first.
        """
        if not isinstance(value, Tensor) or value.dtype.is_complex:
            what = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise TypeError(f"value must be a tensor of indices, but it is {what}; pass an int64 tensor")
        if self._validate_args:
            self._validate_sample(value)
        return topk_log_prob(self._raced, value.to(torch.int64))

    @property
    def mode(self) -> Tensor:
        """The k items with the largest logits, the largest first: the most probable order."""
        return self._raced.topk(self.k).indices

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All n! / (n - k)! orders, shape ``(orders, *batch, k)``; if not expand, with 1 for each batch dimension."""
        n = self.logits.shape[-1]
        orders = self._listed(itertools.permutations(range(n), self.k))
        return self._expand_choices(orders, expand)


class TopKSubset(Subset):
    """``P(S) = sum over the k! orders of S of their Plackett-Luce probability``: k of n items as a set.

    A sample is a k-hot vector of event shape ``(n,)``; ``rsample`` gives it the gradient of the relaxed k-hot vector
    under the same noise. ``log_prob`` is the exact log probability of the set; ``mean`` are the exact inclusion
    probabilities. torch has no such class, so the argument ``tau`` is named as in the functions of argumbel; the
    relaxed classes call it ``temperature``, as torch does.

    Args:
        logits: log weights of the items, shape ``(*batch, n)``, any floating dtype; need not be normalised; -inf
            forbids an item.
        k: the number of items drawn.
        tau: divides the perturbed logits in the gradient of ``rsample``: a number, or a tensor that broadcasts to the
            batch shape ``(*batch,)``. Nothing else depends on it.
        validate_args: check arguments and values; default as set for all of ``torch.distributions``.

    Raises:
        ValueError: NaN or +inf in logits; k larger than the number of possible items of some row; tau below 0 or
            not of a shape that broadcasts to the batch shape; a value that is not k-hot.
        TypeError: logits are not a floating tensor, or k is not an integer.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.TopKSubset(torch.tensor([0.5, 0.3, 0.2]).log(), k=2)
        >>> d.mean
        tensor([0.8393, 0.6750, 0.4857])
        >>> d.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp()
        tensor(0.5143)
        >>> int(d.sample().sum())
        2

    Source: Xie and Ermon 2019, "Reparameterizable subset sampling via continuous relaxations"; Kool, van Hoof and
    Welling 2020, "Estimating gradients for discrete random variables by sampling without replacement".
    """

    tau: Tensor | float

    def __init__(self, logits: Tensor, k: int, tau: Tensor | float = 1.0, validate_args: bool | None = None) -> None:
        super().__init__(logits, k, validate_args)
        if not isinstance(tau, Tensor):
            tau = number("tau", tau, least=0, expected="a number or a tensor", remedy="0 gives no gradient")
        else:
            if not broadcasts_to(tau.shape, self.batch_shape):
                raise ValueError(
                    f"tau must broadcast to the batch shape {tuple(self.batch_shape)}, but its shape is "
                    f"{tuple(tau.shape)}; expand logits if the batch should be larger"
                )
            floating("tau", tau)
            if self._validate_args:
                check("tau", tau, tau >= 0, "at least 0", "0 gives no gradient")
        self.tau = tau

    def _event(self) -> tuple[int]:
        return (self.logits.shape[-1],)

    @property
    def num_outcomes(self) -> int:
        """``n! / k! / (n - k)!``, forbidden items included."""
        return math.comb(self.logits.shape[-1], self.k)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return KHot(self.k)

    def rsample(
        self, sample_shape: Size = (), *, hard: bool = True, generator: torch.Generator | None = None
    ) -> Tensor:
        """k-hot vectors of shape ``(*sample_shape, *batch, n)``, with the gradient of ``relaxed_topk``; if not hard,
        the relaxed vectors themselves."""
        x = self._raced.expand(self._extended_shape(sample_shape))
        tau = self.tau.unsqueeze(-1) if isinstance(self.tau, Tensor) else self.tau
        return relaxed_topk(x, self.k, tau, hard, generator=generator)

    def sample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """k-hot vectors of shape ``(*sample_shape, *batch, n)``, in the dtype of logits."""
        x = self._raced.detach().expand(self._extended_shape(sample_shape))
        return self._k_hot(gumbel_topk(x, self.k, generator=generator).indices)

    def log_prob(self, value: Tensor) -> Tensor:
        """``topk_log_prob(logits, items of value, ordered=False)``: the log probability of the set.

        ``value`` has the shape ``(*batch, n)`` and any dtype, also bool; the result has the shape ``(*batch,)``, or the
        shape that it and value broadcast to. There is no gradient in value.
        """
        value = self._value(value, self.logits)
        return topk_log_prob(self._raced, value.topk(self.k).indices, ordered=False)

    @property
    def mean(self) -> Tensor:
        """``inclusion_probs(logits, k)``: P(item i is in the set)."""
        return inclusion_probs(self._raced, self.k)

    @property
    def variance(self) -> Tensor:
        """``mean * (1 - mean)``, entry by entry."""
        mean = self.mean
        return mean * (1 - mean)

    @property
    def mode(self) -> Tensor:
        """The k-hot vector of the items with the k largest logits: the most probable set."""
        return self._k_hot(self._raced.topk(self.k).indices)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All n! / k! / (n - k)! sets, shape ``(sets, *batch, n)``; if not expand, with 1 for each batch dimension."""
        n = self.logits.shape[-1]
        sets = self._listed(itertools.combinations(range(n), self.k))
        return self._expand_choices(self._k_hot(sets), expand)

    def _k_hot(self, indices: Tensor) -> Tensor:
        shape = (*indices.shape[:-1], self.logits.shape[-1])
        return self.logits.new_zeros(shape).scatter(-1, indices, 1.0)
