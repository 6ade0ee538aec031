"""The C++ kernels: tensors to pointers, and nothing else.

``ARGUMBEL_KERNELS`` picks a path: ``v4`` (AVX-512), ``v3`` (AVX2), ``v2`` (the baseline) or ``generic`` (not x86), each
only where the machine can run it, or ``reference`` for none. Unset, the best there is. ``triton`` gives the CPU to
Triton's interpreter, for tests (``kernels/__init__.py``).
"""

from __future__ import annotations

import ctypes
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor

VARIABLE = "ARGUMBEL_KERNELS"
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
LAWS = {"uniform": 0, "exponential": 1, "gumbel": 2, "logistic": 3}


def _openmp_of_torch() -> int:
    """The address of GOMP_parallel in the OpenMP runtime that PyTorch runs on, or 0 where none is found (not Linux)."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "libgomp" in line or "libiomp5" in line}
    except OSError:
        return 0
    for path in sorted(p for p in paths if "torch" in p):
        entry = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if entry is not None:
            return ctypes.cast(entry, ctypes.c_void_p).value or 0
    return 0


def _load() -> ModuleType | None:
    wanted = os.environ.get(VARIABLE, "")
    if wanted in ("reference", "triton"):
        return None
    try:
        from . import _cpu  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        if wanted:
            raise ImportError(f"{VARIABLE}={wanted}, but argumbel was installed without compiled kernels") from error
        warnings.warn(
            "argumbel was installed without its compiled kernels (was there a C++ compiler?); it runs on plain "
            f"PyTorch, right but slow. Set {VARIABLE}=reference to choose that silently.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    if wanted:
        if wanted not in _cpu.paths():
            raise ImportError(
                f"{VARIABLE} must be 'reference', 'triton' or a path this machine can run, {_cpu.paths()}, but it is "
                f"{wanted!r}"
            )
        _cpu.use(wanted)
    _cpu.use_openmp(_openmp_of_torch())
    return _cpu


library = _load()

Key = tuple[int, Tensor | None, Tensor | None]  # seed, row ids, item ids
# Address, rows, items, stride of rows; and the tensor, to be kept alive meanwhile.
Matrix = tuple[int, int, int, int, Tensor]


def matrix(x: Tensor) -> Matrix:
    """x as rows of contiguous items: no copy wherever strides can say it, also of expanded rows."""
    n = x.shape[-1]
    if x.is_contiguous():
        return x.data_ptr(), x.numel() // n, n, n, x
    x = x.reshape(-1, n)
    if x.stride(1) != 1 and n > 1:
        x = x.contiguous()
    return x.data_ptr(), x.shape[0], n, x.stride(0), x


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x) if x.is_contiguous() else torch.empty(x.shape, dtype=x.dtype)


def bad_row(x: Tensor) -> bool:
    """Whether a row of x holds NaN or +inf, or allows nothing."""
    assert library is not None
    address, n_rows, n, row_stride, _x = matrix(x)
    return library.bad_row(address, n_rows, n, row_stride, DTYPES[x.dtype]) >= 0


def _pointers(key: Key, shape: torch.Size) -> tuple[int, int, int, int, tuple[Tensor, ...]]:
    """Seed, row ids, item ids and the stride between their lines; with the tensors to be kept alive meanwhile."""
    seed, rows, items = key
    if rows is None and items is None:
        return seed, 0, 0, 0, ()
    keep = []
    if rows is not None:
        rows = rows.contiguous()
        keep.append(rows)
    stride = 0
    if items is not None:
        if items.numel() != items.shape[-1]:
            items, stride = items.expand(shape), shape[-1]
        items = items.contiguous()
        keep.append(items)
    pointers = rows.data_ptr() if rows is not None else 0, items.data_ptr() if items is not None else 0
    return seed, *pointers, stride, tuple(keep)


def noise(law: str, shape: torch.Size, dtype: torch.dtype, key: Key) -> Tensor:
    out = torch.empty(shape, dtype=dtype)
    if out.numel():
        assert library is not None
        n = shape[-1]
        seed, rows, items, stride, _keep = _pointers(key, shape)
        threads = torch.get_num_threads()
        library.noise(LAWS[law], out.data_ptr(), out.numel() // n, n, DTYPES[dtype], seed, rows, items, stride, threads)
    return out


def gumbel_max(x: Tensor, key: Key) -> tuple[Tensor, Tensor, bool]:
    values = x.new_empty(x.shape[:-1])
    indices = torch.empty(x.shape[:-1], dtype=torch.int64)
    bad = -1
    if x.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        seed, rows, items, stride, _keep = _pointers(key, x.shape)
        bad = library.gumbel_max(
            address, n_rows, n, row_stride, DTYPES[x.dtype],
            seed, rows, items, stride, values.data_ptr(), indices.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return values, indices, bad >= 0


def gumbel_topk(x: Tensor, k: int, key: Key) -> tuple[Tensor, Tensor, bool]:
    values = x.new_empty((*x.shape[:-1], k))
    indices = torch.empty((*x.shape[:-1], k), dtype=torch.int64)
    bad = -1
    if indices.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        seed, rows, items, stride, _keep = _pointers(key, x.shape)
        bad = library.gumbel_topk(
            address, n_rows, n, row_stride, DTYPES[x.dtype], seed, rows, items, stride,
            k, values.data_ptr(), indices.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return values, indices, bad >= 0


def sample_without_replacement(x: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor, bool]:
    keys = x.new_empty((*x.shape[:-1], k))
    indices = torch.empty((*x.shape[:-1], k), dtype=torch.int64)
    bad = -1
    if indices.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        bad = library.sample_without_replacement(
            address, n_rows, n, row_stride, DTYPES[x.dtype],
            seed, k, keys.data_ptr(), indices.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return keys, indices, bad >= 0


def categorical(x: Tensor, seed: int, sample_shape: torch.Size, with_log_z: bool) -> tuple[Tensor, Tensor, bool]:
    """log Z is empty unless it is wanted."""
    draws = torch.empty((*sample_shape, *x.shape[:-1]), dtype=torch.int64)
    log_z = torch.empty(x.shape[:-1] if with_log_z else (0,), dtype=torch.float64)
    bad = -1
    if draws.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        bad = library.categorical(
            address, n_rows, n, row_stride, DTYPES[x.dtype],
            seed, sample_shape.numel(), draws.data_ptr(), log_z.data_ptr() if with_log_z else 0,
            torch.get_num_threads(),
        )  # fmt: skip
    return draws, log_z, bad >= 0


def posterior_gumbel(x: Tensor, index: Tensor, value: Tensor | None, key: Key) -> tuple[Tensor, bool]:
    """float32 whatever x is; index: int64, one a row; value: float32, likewise."""
    out = torch.empty(x.shape, dtype=torch.float32)
    bad = -1
    if x.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        seed, rows, items, stride, _keep = _pointers(key, x.shape)
        index = index.contiguous()
        value = None if value is None else value.contiguous()
        bad = library.posterior_gumbel(
            address, n_rows, n, row_stride, DTYPES[x.dtype], seed, rows, items, stride,
            index.data_ptr(), 0 if value is None else value.data_ptr(), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return out, bad >= 0


def gumbel_softmax(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool]:
    """tau: float32, of one element or one a row."""
    out = _empty_like(x)
    bad = -1
    if x.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        seed, rows, items, stride, _keep = _pointers(key, x.shape)
        bad = library.gumbel_softmax(
            address, n_rows, n, row_stride, DTYPES[x.dtype], seed, rows, items, stride,
            tau.data_ptr(), int(tau.numel() > 1), hard, out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return out, bad >= 0


def gumbel_softmax_backward_keyed(x: Tensor, grad: Tensor, tau: Tensor, key: Key) -> Tensor:
    """The gradient with respect to x, from that with respect to the soft sample, which is made again from its key."""
    out = _empty_like(x)
    if x.numel():
        assert library is not None
        address, n_rows, n, row_stride, _x = matrix(x)
        grad_address, _, _, grad_stride, _grad = matrix(grad)
        seed, rows, items, stride, _keep = _pointers(key, x.shape)
        library.gumbel_softmax_backward_keyed(
            address, n_rows, n, row_stride, DTYPES[x.dtype], seed, rows, items, stride,
            grad_address, grad_stride, tau.data_ptr(), int(tau.numel() > 1), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return out


def gumbel_softmax_backward(y: Tensor, grad: Tensor, tau: Tensor) -> Tensor:
    out = _empty_like(y)
    if y.numel():
        assert library is not None
        address, n_rows, n, row_stride, _y = matrix(y)
        grad_address, _, _, grad_stride, _grad = matrix(grad)
        library.gumbel_softmax_backward(
            address, grad_address, n_rows, n, row_stride, grad_stride, DTYPES[y.dtype],
            tau.data_ptr(), int(tau.numel() > 1), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return out
