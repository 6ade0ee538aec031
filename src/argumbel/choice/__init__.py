"""Sample: which item wins the race of logits plus Gumbel noise, and which items are the first k."""

from ._sample import (
    Choice,
    categorical,
    gumbel_max,
    gumbel_topk,
    noise_for,
    race,
    sample_without_replacement,
    summands,
)
from ._terms import divided, row_limits, row_terms, tempered_rows

__all__ = ["Choice", "categorical", "gumbel_max", "gumbel_topk", "sample_without_replacement"]
