"""Sample from a linear layer, such as the head of a language model, without storing its logits; also in shards."""

from ._merge import merge_winners
from ._sample import linear_categorical, linear_gumbel_max

__all__ = ["linear_categorical", "linear_gumbel_max", "merge_winners"]
