"""What every public function does at its door, and what it says to bad input."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "EXACT_BELOW",
    "Rows",
    "broadcasts_to",
    "broadcasts_with",
    "can_raise",
    "check_dim",
    "check_k",
    "check_logits",
    "check_tau",
    "check_temperature",
    "count",
    "flag",
    "floating",
    "forbid",
    "integer",
    "integers",
    "is_shards",
    "is_traced",
    "number",
    "one_of",
    "one_or_rows",
    "raise_bad_logits",
    "refuse_shards",
    "sizes",
]


def can_raise(x: Tensor) -> bool:
    """Whether the values of x may be looked at: not when that would synchronise a device, break a compiled graph or
    ask a batched (vmap) or fake tensor for a number, nor while torch.jit.trace records. There, bad rows are marked
    (index -1, NaN values) instead."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not is_traced(x)
    )


def is_traced(x: Tensor) -> bool:
    """Whether x stands for other tensors in eager mode (vmap, grad transforms, fake tensors, subclasses)."""
    if torch.compiler.is_compiling():
        return False
    return type(x) not in (Tensor, torch.nn.Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(x)


def is_shards(x: object) -> bool:
    """Whether x is a ``DTensor``, told by what it has: ``torch.distributed`` need not be there."""
    return type(x) is not Tensor and hasattr(x, "placements") and hasattr(x, "device_mesh")


def refuse_shards(name: str, x: object) -> None:
    if is_shards(x):
        raise TypeError(
            f"{name} must be a plain tensor, but it is a DTensor; pass {name}.full_tensor(), or {name}.to_local() with "
            "noise=KeyedNoise(seed, rows=..., items=...) that names what this process holds by the ids of the whole"
        )


def floating(name: str, x: object, *, of: str = "") -> Tensor:
    """x, a floating tensor; ``of`` says what it is of, for the message."""
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        what = x.dtype if isinstance(x, Tensor) else f"a {type(x).__name__}"
        remedy = f"{name}.float()" if isinstance(x, Tensor) else f"torch.as_tensor({name}).float()"
        raise TypeError(f"{name} must be a floating tensor{of}, but it is {what}; pass {remedy}")
    refuse_shards(name, x)
    return x


def integers(name: str, x: object) -> Tensor:
    """x, a tensor of integers."""
    if not isinstance(x, Tensor) or x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
        what = x.dtype if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise TypeError(f"{name} must be a tensor of integers, but it is {what}; pass an int64 tensor")
    return x


def integer(name: str, k: Any) -> int:
    """k, an integer, or what Python takes for one (NumPy's integers)."""
    if type(k) is int:
        return k
    if isinstance(k, torch.SymInt):
        return k  # type: ignore[return-value]  # an integer to whoever compiles
    try:
        # No tensor: reading it may wait for a device. But torch.jit.trace makes tensors of all sizes.
        if isinstance(k, bool) or (isinstance(k, Tensor) and torch._C._get_tracing_state() is None):
            raise TypeError
        return operator.index(k)
    except TypeError:
        raise TypeError(f"{name} must be an integer, but it is a {type(k).__name__}; pass int({name})") from None


def sizes(name: str, shape: Any) -> tuple[int, ...]:
    """shape, a sequence of integers of at least 0; an integer alone is a shape of one dimension."""
    if not isinstance(shape, (tuple, list)):
        try:
            shape = (integer(name, shape),)
        except TypeError:
            if isinstance(shape, (str, dict)) or not hasattr(shape, "__iter__"):
                raise TypeError(
                    f"{name} must be an integer or a sequence of integers, but it is a {type(shape).__name__}; pass a "
                    "tuple"
                ) from None
    return tuple([k if type(k) is int and k >= 0 else count(name, k) for k in shape])


def count(name: str, k: Any, *, least: int = 0, most: int | None = None, of: str = "") -> int:
    """k, an integer between least and most; ``of`` says what ``most`` is."""
    k = integer(name, k)
    if k < least or (most is not None and k > most):
        if most is None:
            raise ValueError(f"{name} must be at least {least}, but it is {k}; pass a larger number")
        raise ValueError(f"{name} must be between {least} and {of}{most}, but it is {k}; pass a number in between")
    return k


def check_temperature(temperature: Any, x: Tensor, name: str) -> float | Tensor:
    """temperature, a number (0 if it is so small that it counts as 0), or a tensor that broadcasts to the rows of x."""
    if not isinstance(temperature, Tensor):
        temperature = number("temperature", temperature, expected="a number or a tensor")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, but it is {temperature}; 0 gives the argmax")
        return temperature if temperature >= EXACT_BELOW else 0
    lead = x.shape[:-1]
    if not broadcasts_to(temperature.shape, lead):
        raise ValueError(
            f"temperature must be one number, or a tensor with a number for each row of {name}, of a shape that "
            f"broadcasts to {tuple(lead)}, but its shape is {tuple(temperature.shape)}; pass one number for each row"
        )
    if can_raise(temperature) and not bool(((temperature >= 0) & (temperature < math.inf)).all()):
        raise ValueError(
            "temperature must be at least 0 and finite everywhere, but some of it is negative, infinite or NaN; "
            "use temperature.clamp(min=0)"
        )
    return temperature


def one_or_rows(limit: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A limit, or a temperature, as operations take it: of one element, on the CPU if it was a number, or one for each
    row of x."""
    if not isinstance(limit, Tensor):
        # Of code that is compiled, on the device: else the code could not become a CUDA graph.
        device = x.device if torch.compiler.is_compiling() else torch.device("cpu")
        return torch.full((1,), limit, dtype=dtype, device=device)
    if limit.numel() == 1:
        return limit.to(dtype).reshape(1)
    return limit.to(x.device, dtype).expand(x.shape[:-1]).contiguous()


def one_of(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the known names."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, but it is {value!r}; pass one of these")


def broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape can be expanded to the target."""
    ahead = len(target) - len(shape)
    return ahead >= 0 and all(a in (1, b) for a, b in zip(shape, target[ahead:], strict=True))


def broadcasts_with(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes broadcast. (The first ``torch.broadcast_shapes`` of a process imports sympy: seconds.)"""
    both = min(len(shape), len(other))  # zip(strict=False) is beyond the compiler of PyTorch 2.4
    last = zip(shape[len(shape) - both :], other[len(other) - both :], strict=True)
    return all(a == b or 1 in (a, b) for a, b in last)


def flag(name: str, value: object) -> bool:
    """True or False, of Python or NumPy."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, but it is a {type(value).__name__}; pass bool({name})")
    return bool(value)


def number(
    name: str,
    x: Any,
    *,
    least: float = -math.inf,
    below: float = math.nan,
    remedy: str = "",
    expected: str = "a number",
) -> float:
    """x, a number (not a tensor) of at least ``least`` and less than ``below``; NumPy's numbers are numbers.

    ``expected`` names what x may be, where the caller takes more than numbers."""
    if type(x) not in (int, float):
        if not isinstance(x, Tensor) and getattr(x, "ndim", None) == 0:  # a number of NumPy, or an array of one
            x = x.item()
        if isinstance(x, bool) or not isinstance(x, Real):
            raise TypeError(f"{name} must be {expected}, but it is a {type(x).__name__}; pass float({name})")
        x = float(x)
    if (not x >= least and least > -math.inf) or x >= below:
        bound = f"at least {least:g}" if math.isnan(below) else f"at least {least:g} and less than {below:g}"
        bound = f"finite and at least {least:g}" if below == math.inf else bound
        raise ValueError(f"{name} must be {bound}, but it is {x}; {remedy or 'pass such a number'}")
    return x


def check_logits(logits: Tensor, name: str = "logits") -> None:
    refuse_shards(name, logits)
    if isinstance(logits, Tensor) and logits.dtype.is_floating_point and logits.layout is torch.strided and logits.ndim:
        return
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must be a tensor, but it is a {type(logits).__name__}; pass torch.as_tensor({name})")
    if not logits.dtype.is_floating_point:
        raise TypeError(f"{name} must have a floating dtype, but it is {logits.dtype}; pass {name}.float()")
    if logits.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, but the layout is {logits.layout}; pass {name}.to_dense()")
    raise ValueError(f"{name} must have at least one dimension, the items, but it has none; pass {name}.reshape(1)")


def check_dim(logits: Tensor, dim: int, name: str = "logits") -> int:
    """dim, counted from the front."""
    try:
        shape = logits.shape
    except RuntimeError:
        raise TypeError(
            f"{name} must be a dense tensor, but it is nested; pass torch.nested.to_padded_tensor({name}, -torch.inf)"
        ) from None
    ndim = len(shape)
    if not -ndim <= dim < ndim:
        raise ValueError(
            f"dim must be in [{-ndim}, {ndim - 1}] for {name} of shape {tuple(shape)}, but it is {dim}; pass the "
            "dimension of the items"
        )
    dim %= ndim
    if shape[dim] == 0:
        raise ValueError(
            f"{name} must have at least one item along dim {dim} to choose from, but the shape is {tuple(shape)}; "
            "leave out a choice without items"
        )
    return dim


def check_k(k: int, n: int) -> int:
    return count("k", k, most=n, of="the number of items, ")


# A temperature below this counts as 0: keys that differ at all then differ by more than float32 can soften, and
# gradients through 1 / tau^2 would be 0 * inf.
EXACT_BELOW = 2.0**-60


def check_tau(tau: float | Tensor, logits: Tensor, dim: int | None) -> float | Tensor:
    """tau, or 0 for a number so small that it counts as 0.

    dim None: tau may have any shape that broadcasts against logits; else it must not vary along dim.
    """
    if not isinstance(tau, Tensor):
        tau = number("tau", tau, least=0, remedy="0 gives the exact argmax", expected="a number or a tensor")
        return tau if tau >= EXACT_BELOW else 0.0
    if not broadcasts_with(tau.shape, logits.shape):
        raise ValueError(
            f"tau must broadcast against the shape of logits, {tuple(logits.shape)}, "
            f"but its shape is {tuple(tau.shape)}; pass one tau for each row, or one number"
        )
    if dim is not None and tau.ndim >= logits.ndim - dim and tau.shape[dim - logits.ndim] != 1:
        raise ValueError(
            f"tau must be the same for all items of a row (size 1 along dim {dim} of logits), but its shape is "
            f"{tuple(tau.shape)} for logits of shape {tuple(logits.shape)}; divide the logits instead"
        )
    if can_raise(tau) and not bool((tau >= 0).all()):
        raise ValueError("tau must be at least 0 everywhere, but some of it is negative or NaN; use tau.clamp(min=0)")
    return tau


def forbid(logits: Tensor, mask: Tensor | None, name: str = "logits") -> Tensor:
    """logits with -inf where the mask is False."""
    if mask is None:
        return logits
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask must be a bool tensor, True where an item is allowed, but it is {what}; pass mask.bool()"
        )
    if not broadcasts_to(mask.shape, logits.shape):
        raise ValueError(
            f"mask must broadcast to the shape of {name}, {tuple(logits.shape)}, but its shape is {tuple(mask.shape)}; "
            "pass a mask for each row, or one for all"
        )
    return logits.masked_fill(~mask, -torch.inf)


def raise_bad_logits(logits: Tensor, dim: int, noise: object = None, k: int = 1) -> None:
    """Say what is wrong with logits (mask applied) that are known to have a bad row."""
    if isinstance(noise, Tensor) and not bool(noise.isfinite().all()):
        raise ValueError("noise must be finite, but some is not; forbid items by -inf in logits, or by mask=")
    if bool(logits.isnan().any()):
        raise ValueError("logits must not be NaN, but some are; find where they come from, or forbid them by mask=")
    if bool((logits == torch.inf).any()):
        raise ValueError("logits must not be +inf, but some are; for a sure choice forbid the others (-inf, or mask=)")
    support = int((logits > -torch.inf).sum(dim).min())
    if support == 0:
        raise ValueError(
            "logits must allow at least one item in each row, but some row is -inf (or masked) throughout; leave such "
            "rows out"
        )
    raise ValueError(
        f"k must be at most the number of allowed items in each row, but it is {k} and some row allows only {support}; "
        "pass a smaller k"
    )


class Rows:
    """Logits as every function looks at them: rows of items, items last, with -inf where the mask is False.

    ``x`` are the rows, ``dim`` where the items lay, counted from the front; :meth:`back` moves the items of a result
    there, and :meth:`complain` says what is wrong with a row that a kernel found bad.
    """

    __slots__ = ("dim", "x")

    def __init__(self, logits: Tensor, dim: int, mask: Tensor | None = None, *, name: str = "logits") -> None:
        check_logits(logits, name)
        self.dim = dim = check_dim(logits, dim, name)
        x = logits if mask is None else forbid(logits, mask)
        self.x = x if dim == x.ndim - 1 else x.movedim(dim, -1)

    def back(self, y: Tensor) -> Tensor:
        """y, which may have more dimensions in front, with its items where they lay; contiguous, as torch's results."""
        away = self.x.ndim - self.dim
        return y if away == 1 else y.movedim(-1, -away).contiguous()

    def of(self, x: Tensor) -> Rows:
        """Other rows in the same layout."""
        return _OtherRows(x, self.dim)

    def complain(self, noise: object = None, k: int = 1) -> None:
        raise_bad_logits(self.x.detach(), -1, noise, k)


class _OtherRows(Rows):
    """Rows that nobody needs to check. (A class: in compiled code PyTorch 2.4 has no ``object.__new__``.)"""

    __slots__ = ()

    def __init__(self, x: Tensor, dim: int) -> None:
        self.x, self.dim = x, dim
