"""Noise under a key, and seeds from a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import broadcasts_to, integer, integers, sizes
from ..kernels import Key, keyed_noise, work_dtype

__all__ = ["SEEDS", "KeyedNoise", "check_generator", "fresh_seed"]


def _as_ids(name: str, ids: Tensor | Sequence[int]) -> Tensor:
    if not isinstance(ids, Tensor):
        try:
            ids = torch.tensor(ids, device="cpu") if len(ids) else torch.empty(0, dtype=torch.int64, device="cpu")
        except (OverflowError, RuntimeError, ValueError):
            raise ValueError(
                f"{name} must be integers of 64 bits with a sign, but some id is larger; subtract 2**64 from ids of "
                "2**63 or more"
            ) from None
    return integers(name, ids).to(torch.int64)


def _one_a_row(name: str, what: str, given: Tensor, lead: tuple[int, ...], device: torch.device) -> Tensor:
    count = math.prod(lead)
    if given.shape != lead and given.shape != (count,):
        raise ValueError(
            f"{name} must give one {what} per row: the shape {tuple(lead)} or ({count},), but its shape is "
            f"{tuple(given.shape)}; pass as many {what}s as there are rows"
        )
    return given.to(device).reshape(lead)


SEEDS = -(1 << 63), (1 << 63) - 1


def check_generator(generator: object) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        what = type(generator).__name__
        raise TypeError(
            f"generator must be a torch.Generator, but it is a {what}; pass torch.Generator().manual_seed(...), or "
            "noise=argumbel.KeyedNoise(...)"
        )


def fresh_seed(generator: torch.Generator | None, device: torch.device | str | None) -> Tensor:
    """A 64-bit seed, one draw from the generator."""
    return torch.randint(*SEEDS, (), generator=generator, device=device)


@dataclass(frozen=True, eq=False)
class KeyedNoise:
    r"""``noise[row, item] = law(bits(seed, row, item))``: noise that is a function of ids, not of state.

    The bits are Philox4x32-10 with ``seed`` as the key and ``(row, item)`` as the counter. So the number of an item in
    a row does not depend on the batch or chunk in which it is drawn, on the number of threads, on the shard or on the
    device. Asking twice gives the same numbers, and asking for a part gives this part of the whole.

    All four laws use the same u, uniform in (0, 1) and resolved to 2^-65 at both ends: ``uniform`` is u,
    ``exponential`` is ``E = -log(1 - u)``, ``gumbel`` is ``-log(E)``, and ``logistic`` is ``log(1 - u) - log(u)``.

    The methods take a ``shape`` of ``(*batch, n)``: the last dimension holds the items; all other dimensions,
    flattened, hold the rows. They take any floating ``dtype`` (default PyTorch's default dtype). float16 and bfloat16
    are rounded from float32; float64 has numbers of its own precision, from the same bits.

    Args:
        seed: any 64-bit integer, or a 0-dimensional int64 tensor (``torch.compile`` does not compile again for another
            value of a tensor). Or one seed for each row: int64 ``(*batch,)``, or flat. A row with a seed of its own has
            the noise that the whole would have under this seed.
        rows: ids of the rows, integers ``(*batch,)``, or flat. Default 0, 1, 2, ...
        items: ids of the items, integers ``(n,)``, or in a shape that ends in n and broadcasts to ``(*batch, n)``.
            Default 0, 1, 2, ...

    Raises:
        TypeError: seed or ids are not integers, or ``dtype`` is not floating.
        ValueError: the number of ids does not fit ``shape``.

    Example:
        >>> import torch, argumbel as ag
        >>> whole = ag.KeyedNoise(seed=1).gumbel((4, 6))
        >>> part = ag.KeyedNoise(seed=1, rows=[2, 3], items=[5, 0, 1]).gumbel((2, 3))
        >>> bool((part == whole[2:][:, [5, 0, 1]]).all())
        True

        A server of a language model gives each request a seed and each token its position. The noise of a token then
        depends on the seed of the request and the position alone, whatever else is in the batch:

        >>> seeds, positions = torch.tensor([1, 2]), torch.tensor([3, 7])
        >>> batch = ag.KeyedNoise(seeds, rows=positions).gumbel((2, 6))
        >>> alone = ag.KeyedNoise(1, rows=[3]).gumbel((1, 6))
        >>> bool((batch[:1] == alone).all())
        True

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """

    seed: int | Tensor
    rows: Tensor | None = None
    items: Tensor | None = None

    def __init__(
        self,
        seed: int | Tensor | Sequence[int],
        rows: Tensor | Sequence[int] | None = None,
        items: Tensor | Sequence[int] | None = None,
    ) -> None:
        if isinstance(seed, Tensor):
            if seed.dtype != torch.int64:
                raise TypeError(
                    f"seed must be an integer or an int64 tensor, but it is a {seed.dtype} tensor; pass "
                    "seed.to(torch.int64)"
                )
        elif isinstance(seed, (list, tuple)):
            seed = _as_ids("seed", seed)
        else:
            seed = integer("seed", seed)
            if not -(1 << 63) <= seed < 1 << 64:
                raise ValueError(f"seed must fit 64 bits, but it is {seed}; pass seed % 2**64")
            if seed >= 1 << 63:
                seed -= 1 << 64
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "rows", None if rows is None else _as_ids("rows", rows))
        object.__setattr__(self, "items", None if items is None else _as_ids("items", items))

    @staticmethod
    def from_generator(
        generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> KeyedNoise:
        """Noise under a fresh seed: one 64-bit draw from ``generator`` (default PyTorch's global generator)."""
        check_generator(generator)
        if generator is not None and device is None:
            device = generator.device
        if generator is not None and generator.device.type != torch.device(device or "cpu").type:
            raise ValueError(
                f"generator must live where the noise is wanted, on {device}, but it is on {generator.device}; "
                f"make one with torch.Generator(device={str(device)!r})"
            )
        seed = fresh_seed(generator, device)
        if torch.compiler.is_compiling():  # PyTorch 2.5 cannot compile what follows
            return KeyedNoise(seed)
        noise = object.__new__(KeyedNoise)  # nothing to check
        noise.__dict__.update(seed=seed, rows=None, items=None)
        return noise

    def gumbel(
        self, shape: int | Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard Gumbel noise, ``-log(-log(1 - u))``: location 0, mean 0.5772, range about [-3.8, 45]."""
        return self._draw("gumbel", shape, dtype, device)

    def exponential(
        self, shape: int | Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard exponential noise, ``-log(1 - u)``: mean 1, never zero."""
        return self._draw_positive("exponential", shape, dtype, device)

    def uniform(
        self, shape: int | Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniform noise u, strictly inside (0, 1)."""
        u = self._draw_positive("uniform", shape, dtype, device)
        return u.clamp(max=1 - torch.finfo(u.dtype).eps / 2)

    def logistic(
        self, shape: int | Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard logistic noise, ``log(1 - u) - log(u)``: the law of the difference of two Gumbels."""
        return self._draw("logistic", shape, dtype, device)

    def _draw_positive(
        self, kind: str, shape: int | Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        x = self._draw(kind, shape, work_dtype(dtype), device)
        if x.dtype == dtype:
            return x
        info = torch.finfo(dtype)  # float16 would round 1 in 3e7 to zero
        return x.to(dtype).clamp(min=info.tiny * info.eps)

    def _draw(
        self, kind: str, shape: int | Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating dtype, but it is {dtype}; pass torch.float32, say")
        if device is None:
            device = self.seed.device if isinstance(self.seed, Tensor) else torch.empty(0).device
        # A tuple: in code compiled for any batch PyTorch 2.5 cannot make a torch.Size.
        device, shape = torch.device(device), sizes("shape", shape)
        if not shape:
            return self._draw(kind, (1,), dtype, device).squeeze(0)
        return keyed_noise(kind, shape, dtype, device, self.key(shape, device))[0]

    def key(self, shape: tuple[int, ...], device: torch.device) -> Key:
        """Seed, row ids and item ids as the kernels take them, for noise of this shape."""
        seed, rows = self.seed, self.rows
        if isinstance(seed, Tensor) and seed.ndim:
            seed = _one_a_row("seed", "seed", seed, shape[:-1], device)
        if rows is not None:
            rows = _one_a_row("rows", "id", rows, shape[:-1], device)
        return seed, rows, self._items(shape, device)

    def _items(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        if self.items is None:
            return None
        n = shape[-1]
        if not broadcasts_to(self.items.shape, shape) or self.items.shape[-1:] != (n,):
            raise ValueError(
                f"items must give one id per item: the shape ({n},), or one that broadcasts to {tuple(shape)}, but its "
                f"shape is {tuple(self.items.shape)}; pass as many ids as there are items"
            )
        return self.items.to(device)
