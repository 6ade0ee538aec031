"""The Gumbel distribution: the law of the largest of many numbers."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform
from torch.distributions.utils import euler_constant

from .. import noise
from .._core.checks import sizes
from ..noise import work_dtype
from . import _densities as densities
from ._base import Reparameterized, Size, as_tensors, check, check_positive, wants_checks
from ._monte_carlo import NUM_SAMPLES

__all__ = ["Gumbel"]


class Gumbel(Reparameterized, torch.distributions.Gumbel):
    """``P(Y <= y) = exp(-exp(-(y - loc) / scale))``; a sample is ``loc + scale * noise``.

    A drop-in for ``torch.distributions.Gumbel`` whose noise resolves both tails (to probabilities of 1e-15) and is
    float32 at least: samples in half precision are float32 samples, rounded once.

    Args:
        loc: location, the mode; a number, or a tensor of any floating dtype that broadcasts to ``(*batch,)``.
        scale: positive; a number, or a tensor that broadcasts with ``loc`` to the batch shape ``(*batch,)``.
        validate_args: check arguments and values; default as set for all of ``torch.distributions``.

    Raises:
        ValueError: scale not positive, loc not finite, shapes that do not broadcast.
        TypeError: an argument that is neither a number nor a floating tensor.

    Example:
        >>> import torch, argumbel.distributions as agd
        >>> d = agd.Gumbel(torch.zeros(3), 2.0)
        >>> d.sample((5,), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
        >>> d.mean
        tensor([1.1544, 1.1544, 1.1544])
        >>> torch.allclose(d.icdf(d.cdf(torch.ones(3))), torch.ones(3))
        True

    Source: Gumbel 1954, "Statistical theory of extreme values and some practical applications".
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.real

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        loc, scale = as_tensors({"loc": loc, "scale": scale})
        try:
            self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        except RuntimeError:
            raise ValueError(
                f"loc and scale must broadcast, but their shapes are {tuple(loc.shape)} and {tuple(scale.shape)}; "
                "reshape one of them"
            ) from None
        if wants_checks(validate_args):
            check("loc", loc, loc.isfinite(), "finite", "find where it comes from")
            check_positive("scale", scale, "make it positive, for example by softplus or exp")
        self._init_checked(self.loc.shape, (), validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> Self:
        """The same distribution for a larger batch; no memory is copied."""
        new, batch_shape = self._get_checked_instance(Gumbel, _instance), torch.Size(sizes("batch_shape", batch_shape))
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        new._init_checked(batch_shape, (), self._validate_args)
        return new

    @property
    def base_dist(self) -> torch.distributions.Distribution:  # type: ignore[override, unused-ignore]
        """The uniform distribution that torch's class starts from. Samples here are not made of it."""
        return self._torchs.base_dist

    @property
    def transforms(self) -> list[Transform]:  # type: ignore[override, unused-ignore]
        """The transforms of torch's class, from ``base_dist`` to this distribution."""
        return self._torchs.transforms

    @property
    def _torchs(self) -> torch.distributions.Gumbel:
        loc, scale, _ = self._working()
        return torch.distributions.Gumbel(loc, scale, validate_args=False)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.loc.dtype, self.scale.dtype)

    def _working(self, value: Tensor | None = None) -> tuple[Tensor, Tensor, torch.dtype]:
        """loc and scale in at least float32, and the dtype of a result from them and value."""
        dtype = self._dtype if value is None else torch.promote_types(self._dtype, value.dtype)
        work = work_dtype(dtype)
        return self.loc.to(work), self.scale.to(work), dtype

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """``loc + scale * argumbel.gumbel(...)``, shape ``(*sample_shape, *batch)``, differentiable in both."""
        loc, scale, dtype = self._working()
        shape = self._extended_shape(sample_shape)
        return (loc + scale * noise.gumbel(shape, generator=generator, dtype=loc.dtype, device=loc.device)).to(dtype)

    def log_prob(self, value: Tensor | float) -> Tensor:
        """``-z - exp(-z) - log(scale)``, ``z = (value - loc) / scale``."""
        value = self._value(value, self.loc)
        loc, scale, dtype = self._working(value)
        return densities.gumbel(value.to(loc.dtype), loc, scale).to(dtype)

    def cdf(self, value: Tensor | float) -> Tensor:
        """``exp(-exp(-(value - loc) / scale))``."""
        value = self._value(value, self.loc)
        loc, scale, dtype = self._working(value)
        return torch.exp(-torch.exp((loc - value.to(loc.dtype)) / scale)).to(dtype)

    def log_cdf(self, value: Tensor | float) -> Tensor:
        """``-exp(-(value - loc) / scale)``: right where ``cdf`` underflows."""
        value = self._value(value, self.loc)
        loc, scale, dtype = self._working(value)
        return (-torch.exp((loc - value.to(loc.dtype)) / scale)).to(dtype)

    def icdf(self, value: Tensor | float) -> Tensor:
        """``loc - scale * log(-log(value))``, for value in [0, 1]."""
        value = self._probability(value, self.loc)
        loc, scale, dtype = self._working(value)
        return (loc - scale * torch.log(-torch.log(value.to(loc.dtype)))).to(dtype)

    @property
    def mean(self) -> Tensor:
        """``loc + 0.5772 * scale``."""
        loc, scale, dtype = self._working()
        return (loc + euler_constant * scale).to(dtype)

    @property
    def mode(self) -> Tensor:
        """``loc``: where the density is largest."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """``pi^2 / 6 * scale^2``."""
        return (math.pi**2 / 6 * self._working()[1].square()).to(self._dtype)

    @property
    def stddev(self) -> Tensor:
        """``pi / sqrt(6) * scale``."""
        return (math.pi / math.sqrt(6) * self._working()[1]).to(self._dtype)

    def entropy(self, num_samples: int = NUM_SAMPLES, *, generator: torch.Generator | None = None) -> Tensor:
        """``log(scale) + 1.5772``. Exact: the two arguments serve classes that must sample; here they are unused."""
        return (self._working()[1].log() + (1 + euler_constant)).to(self._dtype)
