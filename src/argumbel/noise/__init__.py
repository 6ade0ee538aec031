"""Random noise as a pure function of a key: the one source of randomness of the library."""

from ..kernels import work_dtype
from ._arguments import as_keyed, draw_like, key_for, seed_from
from ._draws import gumbel, logistic
from ._keyed import KeyedNoise, fresh_seed
from ._shards import Shards, is_shards
from ._truncated import truncated_gumbel

__all__ = ["KeyedNoise", "gumbel", "logistic", "truncated_gumbel"]
