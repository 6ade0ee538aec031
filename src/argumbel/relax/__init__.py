"""Relax: what if the winner of the race may be soft? Relaxed samples by softmax, and straight-through samples."""

from ._sigmoid import gumbel_sigmoid
from ._softmax import gumbel_softmax, log_gumbel_softmax
from ._straight_through import STRAIGHT_THROUGH, further_noise, straight_through
from ._topk import relaxed_topk

__all__ = ["gumbel_sigmoid", "gumbel_softmax", "log_gumbel_softmax", "relaxed_topk", "straight_through"]
