"""Subsets: k of n items without replacement. How likely is a draw, or an item in it? What does a draw say of all
items?"""

from ._inclusion import inclusion_probs
from ._priority import PriorityDraw, priority_sample
from ._probability import topk_log_prob
from ._threshold import WeightedSum, threshold_estimate, threshold_weights

__all__ = [
    "PriorityDraw",
    "WeightedSum",
    "inclusion_probs",
    "priority_sample",
    "threshold_estimate",
    "threshold_weights",
    "topk_log_prob",
]
