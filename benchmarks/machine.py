"""Which machine, which versions?"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch

from argumbel.kernels import cpu

from .measure import OURS

LIBRARIES = (OURS, "torch", "numpy", "scipy", "jax", "jaxlib", "pandas", "duckdb", "pyarrow")


def confine(threads: int) -> None:
    """Only so many cores for this process and its children, so that every library has the same.

    To be called before libraries start their threads; where a system cannot, they follow their own settings.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(cores: int) -> dict[str, str]:
    """The machine of ``cores``, and what of it this process uses."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "CPU": f"{_cpu()}, {cores} cores",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "threads": str(torch.get_num_threads()),
        "kernels": cpu.library.active() if cpu.library is not None else "reference (no compiled kernels)",
        "PyTorch's CPU path": torch.backends.cpu.get_cpu_capability(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Of all libraries that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    # Virtual machines hide the name; family and model tell the generation.
    return f"{fields['model name']} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
