"""Random noise as a pure function of a key: the one source of randomness of the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import kernels
from ._core.checks import can_raise

__all__ = ["KeyedNoise", "gumbel", "logistic", "truncated_gumbel"]


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that noise and comparisons live in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _as_ids(name: str, ids: Tensor | Sequence[int] | None) -> Tensor | None:
    if ids is None:
        return None
    if not isinstance(ids, Tensor):
        ids = torch.tensor(ids) if len(ids) else torch.empty(0, dtype=torch.int64)
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers (global ids), but its dtype is {ids.dtype}; pass an int64 tensor")
    return ids.to(torch.int64)


def fresh_seed(generator: torch.Generator | None, device: torch.device | str | None) -> Tensor:
    """One 64-bit draw."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=generator, device=device)


@dataclass(frozen=True, eq=False)
class KeyedNoise:
    r"""``noise[row, item] = law(bits(seed, row, item))``: noise that is a function of ids, not of state.

    The bits are Philox4x32-10 with ``seed`` as key and (row, item) as counter, so a number depends on nothing else:
    not on the batch or chunk it is drawn in, the number of threads, the shard or the device. Ask twice and get the
    same; ask for part of it and get that part.

    With u in (0, 1) resolved to 2^-65 at both ends: ``uniform`` is u, ``exponential`` is E = -log(1 - u), ``gumbel``
    is G = -log(E), and ``logistic`` is log(1 - u) - log(u), all of the same u.

    Args:
        seed: any 64-bit integer, or a 0-dimensional int64 tensor (which ``torch.compile`` does not specialise on).
        rows: ids of the rows, in the shape of all dimensions but the last, or flat. Default 0, 1, 2, ...
        items: ids of the items, of shape ``(n,)``, or in a shape that broadcasts to the whole. Default 0, 1, 2, ...

    Shapes: in the ``shape`` given to the methods the last dimension is items, the others flattened are rows.
    ``dtype`` may be any floating dtype; float16 and bfloat16 are rounded from float32, float64 has noise of its own
    precision (from the same bits). Default: PyTorch's default dtype.

    Raises:
        TypeError: seed or ids are not integers, or ``dtype`` is not floating.
        ValueError: the number of ids does not fit ``shape``.

    Example:
        >>> import torch, argumbel as ag
        >>> whole = ag.KeyedNoise(seed=1).gumbel((4, 6))
        >>> part = ag.KeyedNoise(seed=1, rows=[2, 3], items=[5, 0, 1]).gumbel((2, 3))
        >>> bool((part == whole[2:][:, [5, 0, 1]]).all())
        True

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """

    seed: int | Tensor
    rows: Tensor | None = None
    items: Tensor | None = None

    def __init__(
        self,
        seed: int | Tensor,
        rows: Tensor | Sequence[int] | None = None,
        items: Tensor | Sequence[int] | None = None,
    ) -> None:
        if isinstance(seed, Tensor):
            if seed.dtype != torch.int64 or seed.ndim != 0:
                raise TypeError(
                    f"seed must be an integer or a 0-dimensional int64 tensor, but it is a {seed.dtype} tensor of "
                    f"shape {tuple(seed.shape)}; pass seed.to(torch.int64).reshape(())"
                )
        elif isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, but it is a {type(seed).__name__}; pass int(seed)")
        elif not -(1 << 63) <= seed < 1 << 64:
            raise ValueError(f"seed must fit 64 bits, but it is {seed}; pass seed % 2**64")
        if isinstance(seed, int) and seed >= 1 << 63:
            seed -= 1 << 64
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "rows", _as_ids("rows", rows))
        object.__setattr__(self, "items", _as_ids("items", items))

    @staticmethod
    def from_generator(
        generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> KeyedNoise:
        """Noise under a fresh seed: one 64-bit draw from ``generator`` (default: PyTorch's global one)."""
        if generator is not None and device is None:
            device = generator.device
        if generator is not None and generator.device.type != torch.device(device or "cpu").type:
            raise ValueError(
                f"generator must live where the noise is wanted, on {device}, but it is on {generator.device}; "
                f"make one with torch.Generator(device={str(device)!r})"
            )
        noise = object.__new__(KeyedNoise)  # nothing to check
        noise.__dict__.update(seed=fresh_seed(generator, device), rows=None, items=None)
        return noise

    def gumbel(
        self, shape: Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard Gumbel noise, ``-log(-log(1 - u))``: location 0, mean 0.5772, range about [-3.8, 45]."""
        return self._draw("gumbel", shape, dtype, device)

    def exponential(
        self, shape: Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard exponential noise, ``-log(1 - u)``: mean 1, never zero."""
        return self._draw_positive("exponential", shape, dtype, device)

    def uniform(
        self, shape: Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniform noise u, strictly inside (0, 1)."""
        u = self._draw_positive("uniform", shape, dtype, device)
        return u.clamp(max=1 - torch.finfo(u.dtype).eps / 2)

    def logistic(
        self, shape: Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard logistic noise, ``log(1 - u) - log(u)``: the law of the difference of two Gumbels."""
        return self._draw("logistic", shape, dtype, device)

    def _draw_positive(
        self, kind: str, shape: Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        x = self._draw(kind, shape, work_dtype(dtype), device)
        if x.dtype == dtype:
            return x
        info = torch.finfo(dtype)  # float16 would round 1 in 3e7 to zero
        return x.to(dtype).clamp(min=info.tiny * info.eps)

    def _draw(
        self, kind: str, shape: Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating dtype, but it is {dtype}; pass torch.float32, say")
        if device is None:
            device = self.seed.device if isinstance(self.seed, Tensor) else torch.empty(0).device
        device, shape = torch.device(device), torch.Size(shape)
        if not shape:
            return self._draw(kind, (1,), dtype, device).squeeze(0)
        return kernels.noise(kind, self.key(shape, device), shape, dtype, device)

    def key(self, shape: torch.Size, device: torch.device) -> tuple[Tensor | int, Tensor | None, Tensor | None]:
        """Seed, row ids and item ids as the kernels take them, for noise of this shape."""
        if self.rows is None and self.items is None:
            return self.seed, None, None
        return self.seed, self._rows(shape[:-1], device), self._items(shape, device)

    def _rows(self, lead: torch.Size, device: torch.device) -> Tensor | None:
        if self.rows is None:
            return None
        if self.rows.shape != lead and self.rows.shape != (lead.numel(),):
            raise ValueError(
                f"rows must give one id per row: the shape {tuple(lead)} or ({lead.numel()},), but its shape is "
                f"{tuple(self.rows.shape)}"
            )
        return self.rows.to(device).reshape(lead)

    def _items(self, shape: torch.Size, device: torch.device) -> Tensor | None:
        if self.items is None:
            return None
        n = shape[-1]
        try:
            fits = torch.broadcast_shapes(self.items.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits or self.items.shape[-1:] != (n,):
            raise ValueError(
                f"items must give one id per item: the shape ({n},), or one that broadcasts to {tuple(shape)}, but its "
                f"shape is {tuple(self.items.shape)}"
            )
        return self.items.to(device)


def gumbel(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``-log(-log(u))``, u uniform in (0, 1): standard Gumbel noise (location 0, mean 0.5772, variance pi^2/6).

    Both tails are right: for every threshold the probability of either side is within 1e-5 (relative) of the closed
    form down to probability 1e-12, and within 1e-4 down to 1e-15. Half precision is rounded from float32.

    Args:
        shape: any shape.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator on ``device``.
        dtype: any floating dtype; default PyTorch's default dtype.
        device: default the generator's, or PyTorch's default device.

    Raises:
        TypeError: ``dtype`` is not floating.
        ValueError: the generator is on another device.

    Example:
        >>> import torch, argumbel as ag
        >>> g = ag.gumbel((1000, 1000), generator=torch.Generator().manual_seed(0))
        >>> abs(g.mean() - 0.5772) < 0.01
        tensor(True)

    Source: Gumbel 1954, "Statistical theory of extreme values and some practical applications".
    """
    noise = KeyedNoise.from_generator(generator, device)
    return noise.gumbel(shape, dtype=dtype)


def logistic(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``log(1 - u) - log(u)``, u uniform in (0, 1): standard logistic noise, the difference of two Gumbels.

    Both tails are resolved to 2^-65, so the range is about [-45, 45]. Arguments and errors as :func:`gumbel`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.noise import logistic
        >>> abs(logistic((1000, 1000), generator=torch.Generator().manual_seed(0)).mean()) < 0.01
        tensor(True)
    """
    noise = KeyedNoise.from_generator(generator, device)
    return noise.logistic(shape, dtype=dtype)


def perturb(logits: Tensor, dim: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None) -> Tensor:
    """``logits + noise`` in the layout of logits, in float32 or float64; items lie along ``dim``."""
    return logits.to(work_dtype(logits.dtype)) + draw_like(logits, dim, noise, generator, "gumbel")


def draw_like(
    x: Tensor, dim: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None, kind: str
) -> Tensor:
    """The noise of one of the two doors, ``noise=`` or ``generator=``, in the shape of x and at least float32."""
    if isinstance(noise, Tensor):
        if generator is not None:
            raise ValueError("generator and noise are two doors for the same thing; pass one of them")
        if noise.shape != x.shape:
            raise ValueError(
                f"noise must have the shape {tuple(x.shape)} of logits, but its shape is {tuple(noise.shape)}; "
                "expand noise that rows are meant to share"
            )
        if not noise.dtype.is_floating_point:
            raise TypeError(f"noise must have a floating dtype, but it is {noise.dtype}")
        if noise.device != x.device:
            raise ValueError(f"noise must be on the device of logits, {x.device}, but it is on {noise.device}")
        return noise.to(torch.promote_types(work_dtype(x.dtype), work_dtype(noise.dtype)))
    keyed = as_keyed(noise, generator, x.device)
    if x.ndim == 0:
        return getattr(keyed, kind)((), dtype=work_dtype(x.dtype), device=x.device)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :], x.shape[dim])
    return getattr(keyed, kind)(shape, dtype=work_dtype(x.dtype), device=x.device).movedim(-1, dim)


def as_keyed(noise: KeyedNoise | None, generator: torch.Generator | None, device: torch.device) -> KeyedNoise:
    """The key behind ``noise=`` (a KeyedNoise) or ``generator=``."""
    if noise is None:
        return KeyedNoise.from_generator(generator, device)
    if not isinstance(noise, KeyedNoise):
        raise TypeError(f"noise must be a tensor or an argumbel.KeyedNoise, but it is a {type(noise).__name__}")
    if generator is not None:
        raise ValueError("generator and noise are two doors for the same thing; pass one of them")
    return noise


def truncated_gumbel(
    loc: Tensor,
    upper: Tensor | float,
    *,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``-logaddexp(-(loc + noise), -upper)``: a draw from Gumbel(loc) given that it is at most ``upper``.

    The step that everything about known winners is made of: the losers of a race are Gumbels truncated at the winner's
    height. In this form nothing overflows, however far apart loc and upper are.

    Args:
        loc: locations (logits), any shape, any floating dtype; -inf gives -inf. Half precision is computed in float32.
        upper: bounds that broadcast with loc; +inf is no bound.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of standard Gumbel noise in the broadcast shape, or a ``KeyedNoise``.

    Returns:
        Values at most ``upper`` (in half precision, up to rounding), in the broadcast shape and the dtype of loc;
        differentiable in loc and upper.

    Raises:
        ValueError: shapes that do not broadcast, NaN in loc or upper (NaN results where they may not be looked at),
            noise of the wrong shape, both noise and generator.
        TypeError: loc is not a floating tensor.

    Example:
        >>> import torch, argumbel as ag
        >>> x = ag.truncated_gumbel(torch.tensor([0.0, 5.0, -500.0]), upper=1.0)
        >>> bool((x <= 1.0).all())
        True

    Source: Maddison, Tarlow and Minka 2014, "A* sampling"; Maddison and Tarlow 2017, "Gumbel machinery" (blog post).
    """
    if not isinstance(loc, Tensor) or not loc.dtype.is_floating_point:
        what = loc.dtype if isinstance(loc, Tensor) else type(loc).__name__
        raise TypeError(f"loc must be a floating tensor, but it is {what}; pass torch.as_tensor(loc).float()")
    work = work_dtype(loc.dtype)
    upper = torch.as_tensor(upper, dtype=work, device=loc.device)
    try:
        x, bound = torch.broadcast_tensors(loc.to(work), upper)
    except RuntimeError:
        raise ValueError(
            f"upper must broadcast with loc, of shape {tuple(loc.shape)}, but its shape is {tuple(upper.shape)}"
        ) from None
    if can_raise(x) and bool((x.isnan() | bound.isnan()).any()):
        raise ValueError("loc and upper must not be NaN, but some are; find where they come from")
    g = draw_like(x, max(x.ndim - 1, 0), noise, generator, "gumbel")
    # Infinite ends would make NaN of a gradient: -inf stays -inf, +inf is no bound.
    absent, free = x == -torch.inf, bound == torch.inf
    height = x.masked_fill(absent, 0) + g
    drawn = torch.where(free, height, -torch.logaddexp(-height, -bound.masked_fill(free, 0)))
    return torch.minimum(drawn.masked_fill(absent, -torch.inf), bound).to(loc.dtype)
