"""Sample: in which weighted order does training see the rows of a data set?"""

from ._sampler import WeightedSampler

__all__ = ["WeightedSampler"]
