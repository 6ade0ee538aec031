"""What the tests of the Triton kernels share: the device, the way there and back, and what the CPU makes of a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from argumbel import kernels

from .test_kernels import KEYS

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
ON_GPU = pytest.mark.skipif(not HAS_GPU, reason="asks what only a GPU can answer")
# NumPy, which the interpreter runs on, warns of infinities that are meant.
MARKS = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.usefixtures("by_triton"),
]
SHAPES = [(3, 1), (3, 2), (2, 5), (3, 65), (70, 3), (9, 17), (2, 3, 4, 7), (2, 1023), (2, 2500), (0, 5)]


def exactly(call: Callable[[], tuple[Tensor, ...] | Tensor]) -> tuple[Tensor, ...] | Tensor:
    """What the CPU's own kernels, or the reference, make of it."""
    with kernels.use(None):
        return call()


def there(x: Tensor) -> Tensor:
    return x.to(DEVICE)


def here(x: Tensor) -> Tensor:
    return x.cpu()


def cases(dtype: torch.dtype) -> list[tuple[tuple[int, ...], int]]:
    """Shapes, and which of their keys: all in float32, some in the other dtypes."""
    shapes = SHAPES if dtype == torch.float32 else [(3, 65), (70, 3), (2, 1023), (0, 5)]
    return [(shape, which) for shape in shapes for which in range(KEYS if shape in [(3, 65), (2, 3, 4, 7)] else 1)]


def head(dtype: torch.dtype, rows: int, n: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    hidden, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, depth), (n, depth)))
    bias = torch.randn(n, generator=generator)
    bias[::5] = -torch.inf
    return hidden, weight, bias
