"""Weighted samples of tables and streams: the same rows on every engine. Needs ``pip install "argumbel[tables]"``."""

try:
    import pyarrow
except ImportError as error:  # pragma: no cover - the message is all there is to it
    raise ImportError(
        'pyarrow must be installed for argumbel.tables, but it is not; pip install "argumbel[tables]"'
    ) from error

from ._draw import sample
from ._reservoir import Reservoir
from ._sample import Estimate, Sample
from ._sql import sql

__all__ = ["Estimate", "Reservoir", "Sample", "sample", "sql"]
