"""Processes that work together, as ranks of torch.distributed do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def two_processes(code: str, store: Path, timeout: float) -> list[str]:
    """What two processes print that run the code, with their rank and the path of a common file as arguments."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of this machine resolves to
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(store)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        results = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], [error for _, error in results]
    return [out for out, _ in results]
