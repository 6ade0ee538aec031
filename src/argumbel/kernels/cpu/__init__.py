"""The C++ kernels: tensors to pointers, and nothing else.

``ARGUMBEL_KERNELS`` picks a path: ``v4`` (AVX-512), ``v3`` (AVX2), ``v2`` (the baseline), ``neon`` (64-bit ARM) or
``generic`` (any other processor), each only where the machine can run it, or ``reference`` for none. Unset, the best
there is. ``triton`` gives the CPU to Triton's interpreter, for tests (``kernels/__init__.py``).
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterable
from types import ModuleType

import torch
from torch import Tensor

VARIABLE = "ARGUMBEL_KERNELS"
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
LAWS = {"uniform": 0, "exponential": 1, "gumbel": 2, "logistic": 3, "odds": 4}


def _openmp_paths(maps: Iterable[str], torch_folder: str) -> list[str]:
    """The OpenMP libraries of PyTorch in a process's map of memory. Other packages bring one of their own."""
    paths = {line.rstrip("\n").split(maxsplit=5)[-1] for line in maps}  # six columns; a path may hold spaces
    own = (os.path.join(torch_folder, ""), os.path.join(torch_folder + ".libs", ""))
    return sorted(p for p in paths if p.startswith(own) and ("libgomp" in p or "libiomp5" in p))


def _openmp_of_torch() -> int:
    """The address of GOMP_parallel in the OpenMP runtime that PyTorch runs on, or 0 where none is found (not Linux)."""
    try:
        with open("/proc/self/maps") as maps:
            libraries = [ctypes.CDLL(path) for path in _openmp_paths(maps, os.path.dirname(torch.__file__))]
    except OSError:
        return 0
    for library in libraries:
        entry = getattr(library, "GOMP_parallel", None)
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
            raise ImportError(
                f"{VARIABLE} must be 'reference' or 'triton' where argumbel has no compiled kernels, but it is "
                f"{wanted!r}; unset it, or install argumbel where there is a C++ compiler"
            ) from error
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
                f"{wanted!r}; unset it for the fastest path"
            )
        _cpu.use(wanted)
    _cpu.use_openmp(_openmp_of_torch())
    return _cpu


library = _load()

NO_KEY = (0, None, None)


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """x as a matrix of rows of contiguous items, and the stride between rows: no copy wherever strides can say it, also
    of expanded rows."""
    n = x.shape[-1]
    if x.is_contiguous():
        return x, n
    x = x.reshape(-1, n)
    if x.stride(1) != 1 and n > 1:
        x = x.contiguous()
    return x, x.stride(0)


def call(
    function: str, x: Tensor, key: tuple[Tensor | int, Tensor | None, Tensor | None], *own: float | tuple[int, ...]
) -> bool:
    """Run a function of the C++'s list (``operations.h``) on the rows of x; whether a row was bad.

    Args:
        function: its name.
        x: items last; float32, float16 or bfloat16 (float64 where the function takes it). Empty: nothing is done.
        key: seed, one or in the shape of the rows; row ids in the shape of the rows; item ids that broadcast to x.
        own: its own arguments in the order of the list: numbers, and the addresses of contiguous tensors (0: none).
    """
    numel = x.numel()
    if not numel:
        return False
    n = stride = x.shape[-1]
    matrix = x
    if not x.is_contiguous():
        matrix, stride = rows_of(x)
    seed, rows, items = key
    row_seeds = row_ids = item_ids = item_stride = 0
    if isinstance(seed, Tensor) and seed.ndim:
        seeds = seed.contiguous()
        seed, row_seeds = 0, seeds.data_ptr()
    if rows is not None:
        rows = rows.contiguous()
        row_ids = rows.data_ptr()
    if items is not None:
        if items.numel() != items.shape[-1]:
            items, item_stride = items.expand(x.shape), n
        items = items.contiguous()
        item_ids = items.data_ptr()
    bad = getattr(library, function)(
        matrix.data_ptr(), numel // n, n, stride, DTYPES[x.dtype],
        int(seed), row_seeds, row_ids, item_ids, item_stride, torch.get_num_threads(), *own,
    )  # fmt: skip
    return bad >= 0
