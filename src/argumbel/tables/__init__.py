"""Weighted samples of tables and streams: the same rows on every engine. Needs ``pip install "argumbel[tables]"``."""

try:
    import pyarrow
except ImportError as error:  # pragma: no cover - the message is all there is to it
    raise ImportError(
        'argumbel.tables needs pyarrow, but it is not installed; pip install "argumbel[tables]"'
    ) from error

from ._draw import sample
from ._reservoir import Reservoir
from ._sample import Estimate, Sample

__all__ = ["Estimate", "Reservoir", "Sample", "sample"]
