"""Reverse: the winner of the race is known; what was the noise?"""

from ._first_k import posterior_gumbel_subset, posterior_gumbel_topk
from ._inverse_cdf import Perturbed, inverse_cdf_gumbel
from ._known import known_winners
from ._move import condition_max
from ._posterior import noise_given_winner, posterior_gumbel, posterior_noise
from ._top_down import top_down

__all__ = [
    "Perturbed",
    "condition_max",
    "inverse_cdf_gumbel",
    "posterior_gumbel",
    "posterior_gumbel_subset",
    "posterior_gumbel_topk",
    "posterior_noise",
    "top_down",
]
