"""Reverse: exact samples from a density, by searching for the maximum of a Gumbel process.

The Gumbel-max trick chooses among finitely many items. A Gumbel process extends the trick to the points of a space: the
maximum of the process in a region B is a Gumbel at log volume(B). A search need not draw the whole process. It draws
the maximum of the whole space and the place of this maximum. Then it splits the space, and draws the maximum of each
part, truncated at the maximum of the whole; and so on. The point where ``log_ratio + (Gumbel process)`` is largest is a
sample of the density ``exp(log_ratio)``. Bounds on log_ratio tell when no other region can hold a larger value.
"""

from ._boxes import Box, NormalTarget, UniformTarget, linear_range
from ._sample import AStarDraw, AStarDraws, astar_sample, astar_stream
from ._target import Target

__all__ = [
    "AStarDraw",
    "AStarDraws",
    "Box",
    "NormalTarget",
    "Target",
    "UniformTarget",
    "astar_sample",
    "astar_stream",
    "linear_range",
]
