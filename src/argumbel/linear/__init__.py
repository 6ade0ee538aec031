"""Sample from a linear layer, the head of a language model, without writing its logits; and from shards of one."""

from ._merge import merge_winners
from ._sample import linear_categorical, linear_gumbel_max

__all__ = ["linear_categorical", "linear_gumbel_max", "merge_winners"]
