"""Perturbed optimisers: noise on the scores of any discrete problem makes its solution a smooth function of them."""

from ._loss import fenchel_young_loss
from ._perturbed import perturbed
from ._solver import Solver, as_solver

__all__ = ["Solver", "fenchel_young_loss", "perturbed"]
