"""What the oldest PyTorch cannot do."""

from __future__ import annotations

import pytest
import torch

OLDEST = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 5)

# It does not know a generator's device, objects by object.__new__, and operators of a size known when they have run.
newer_compiler = pytest.mark.skipif(OLDEST, reason="torch.compile of PyTorch 2.4 cannot trace this")
