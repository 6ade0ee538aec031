"""Which backend runs an operation: the one table, and the key that all of them take."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from .._core.modes import is_transformed
from . import cpu

if TYPE_CHECKING:
    from .operator import Operator

__all__ = ["BACKENDS", "Backend", "Key", "SeedOnly", "choose", "explain", "refuses_half", "seed_tensor", "use"]

# The seed, an int or a 0-dimensional int64 tensor, or a tensor of one for each row; ids of the rows, or None for 0, 1,
# 2, ...; ids of the items, in a shape that broadcasts to the whole, or None for 0, 1, 2, ... Seeds and ids of rows come
# in the shape of the rows, and all of them in int64.
Key = tuple[Tensor | int, Tensor | None, Tensor | None]
SeedOnly = tuple[Tensor | int]

SINGLE = (torch.float32, torch.float16, torch.bfloat16)  # what kernels take; they compute in float32
LONGEST_ROW = 2**31 - 2**20  # Triton's kernels count within a row, and within its last tile, in 32 bits

# What a kernel may be handed beside plain tensors: nothing that stands for another tensor, or for many.
PLAIN = frozenset((type(None), int, float, bool, str, torch.Size, list, tuple, torch.dtype, torch.device))

OLDEST_TRITON = (3, 6)
_only = {"reference": "reference", "triton": "triton"}.get(os.environ.get(cpu.VARIABLE, ""))


@cache
def _has_triton() -> bool:
    """Whether there is a Triton, and new enough; asked when a first tensor on a GPU comes, for it imports Triton."""
    if find_spec("triton") is None:
        return False
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= OLDEST_TRITON


class Backend(NamedTuple):
    """Kernels of one kind: why they refuse an operation on these inputs, on tensors of such a device and dtype, in rows
    of so many items (None: they take it), and its kernel."""

    name: str
    refuses: Callable[[Operator, tuple[Any, ...], torch.device, torch.dtype, int], str | None]
    kernel: Callable[[Operator], Callable[..., Any]]


_CPU = torch.device("cpu")


def _cpu_refuses(
    operator: Operator, inputs: tuple[Any, ...], device: torch.device, dtype: torch.dtype, n: int
) -> str | None:
    if device != _CPU:
        return "the tensors are not on the CPU"
    if operator.cpu is None:
        return "there is no such kernel"
    if cpu.library is None:
        return "argumbel was installed without compiled kernels"
    if dtype not in SINGLE and not (operator.float64 and dtype == torch.float64):
        return f"the kernels do not take {dtype}"
    return None if operator.refuses is None else operator.refuses(*inputs)


def _cpu_kernel(operator: Operator) -> Callable[..., Any]:
    assert operator.cpu is not None
    return operator.cpu


def _triton_refuses(
    operator: Operator, inputs: tuple[Any, ...], device: torch.device, dtype: torch.dtype, n: int
) -> str | None:
    if device.type != "cuda" and not (device.type == "cpu" and _only == "triton"):
        return "the tensors are not on a GPU"
    if not _has_triton():
        oldest = ".".join(map(str, OLDEST_TRITON))
        warnings.warn(
            f"argumbel finds no Triton of version {oldest} or newer, so tensors on the GPU run on plain PyTorch, which "
            f"is right but slow: pip install triton, or set {cpu.VARIABLE}=reference to choose that silently",
            RuntimeWarning,
            stacklevel=2,
        )
        return f"Triton {oldest} or newer is not installed"
    if not operator.triton:
        return "there is no such kernel"
    if dtype not in SINGLE:
        return f"the kernels do not take {dtype}"
    if n > LONGEST_ROW:
        return f"a row is longer than {LONGEST_ROW}"
    return None


def _triton_kernel(operator: Operator) -> Callable[..., Any]:
    """Triton takes a seed as a tensor on the device, at which nobody looks, and reports no bad rows: it marks them."""
    from . import triton

    run = getattr(triton, operator.name)

    def kernel(*inputs: Any) -> tuple[Any, ...]:
        *rest, key = inputs
        if key:
            key = (seed_tensor(key[0], operator.device(*inputs)), *key[1:])
        out = run(*rest, key)
        return (*out, False) if isinstance(out, tuple) else (out, False)

    return kernel


def refuses_half(x: Tensor, *_: Any) -> str | None:
    """For operations that the C++ has in float32 and float64 alone."""
    return None if x.dtype in (torch.float32, torch.float64) else "the numbers are neither float32 nor float64"


# The first that does not refuse runs the operation; where all do, or where inputs are not plain tensors in eager mode
# (`_stands_apart`), the reference does.
BACKENDS = (
    Backend("cpu", _cpu_refuses, _cpu_kernel),
    Backend("triton", _triton_refuses, _triton_kernel),
)


def _stands_apart(inputs: tuple[Any, ...]) -> str | None:
    """Why no kernel may be handed these inputs."""
    if _only == "reference":
        return "the reference was asked for"
    if is_transformed():
        return "a transform of torch.func is at work"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives are carried by PyTorch's own operations"
    try:
        for part in inputs, inputs[-1]:
            for value in part:
                kind = type(value)
                if kind is Tensor or kind is Parameter:
                    # A zero tensor has no memory (autograd makes them as gradients); the memory of a negative view has
                    # the other sign.
                    if value.is_neg() or (not value.data_ptr() and value.numel()):
                        return "the memory of an argument does not hold its values"
                elif kind not in PLAIN:
                    return f"an argument, or a part of the key, is a {kind.__name__}, not a plain tensor"
    except RuntimeError:  # data_ptr(), of a tensor of batched gradients, or of a sparse one
        return "an argument has no memory"
    return None


def choose(operator: Operator, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """The kernel that takes these inputs, or the reference."""
    if _stands_apart(inputs) is None:
        device, dtype, n = operator.describe(*inputs)
        for name, refuses, kernel in BACKENDS:
            if (_only is None or _only == name) and refuses(operator, inputs, device, dtype, n) is None:
                return kernel(operator)
    return operator.reference


def explain(operator: Operator, *inputs: Any) -> dict[str, str]:
    """Of each backend, why it does not run the operation on these inputs, or that it does."""
    apart = _stands_apart(inputs)
    reasons, taken = {}, False
    for backend in BACKENDS:
        reason = apart or backend.refuses(operator, inputs, *operator.describe(*inputs))
        if _only not in (None, backend.name):
            reason = f"{_only} was asked for"
        reasons[backend.name] = reason or ("a backend before it runs" if taken else "runs")
        taken = taken or reason is None
    return {**reasons, "reference": "is not needed" if taken else "runs"}


@contextmanager
def use(backend: str | None) -> Iterator[None]:
    """Run a block of code on one backend: ``with kernels.use("reference"): ...``.

    Args:
        backend: ``"reference"``, plain PyTorch; a path of the compiled kernels that this machine can run, ``"v4"``,
            ``"v3"``, ``"v2"``, ``"neon"`` or ``"generic"``; ``"triton"``, also for tensors of the CPU, which then go to
            Triton's interpreter (``TRITON_INTERPRET=1``); or None, whatever is fastest. In force for the whole process.

    Raises:
        ValueError: this machine has no such backend.
    """
    global _only
    paths = cpu.library.paths() if cpu.library is not None else []
    known = [None, "reference", *paths]
    if backend not in known and _has_triton():
        known.append("triton")
    if backend not in known:
        raise ValueError(
            f"backend must be one that this machine has, {known}, but it is {backend!r}; pass one of these"
        )
    before, path = _only, cpu.library.active() if cpu.library is not None else None
    _only = backend if backend in ("reference", "triton") else None
    if backend in paths and cpu.library is not None:
        cpu.library.use(backend)
    try:
        yield
    finally:
        _only = before
        if path is not None and cpu.library is not None:
            cpu.library.use(path)


def seed_tensor(seed: Tensor | int, device: torch.device) -> Tensor:
    """The seed on the device; filled, not copied: a copy to a GPU would wait for the GPU."""
    return seed.to(device) if isinstance(seed, Tensor) else torch.full((), seed, dtype=torch.int64, device=device)
