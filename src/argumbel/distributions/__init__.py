"""Distributions: the relaxations of `argumbel.relax` with densities, as `torch.distributions` classes.

The argument ``temperature`` keeps the name it has in torch. It is what the functions of argumbel call ``tau``: it
divides the perturbed logits, and does not change which item wins.

| class | samples | density |
| --- | --- | --- |
| `Gumbel` | real numbers | closed form, with moments, cdf, icdf, entropy, KL |
| `ExpRelaxedCategorical` | logarithms of points of the simplex | exact at any temperature: the one to compute with |
| `RelaxedOneHotCategorical` | points of the simplex | exact where floating point can hold the point |
| `RelaxedOneHotCategoricalStraightThrough` | one-hot vectors, relaxed gradient | the mass of the category |
| `LogitRelaxedBernoulli` | log odds | exact at any temperature: a logistic distribution |
| `RelaxedBernoulli` | numbers in (0, 1) | exact where floating point can hold the number |
| `RelaxedBernoulliStraightThrough` | 0 or 1, relaxed gradient | the mass of the outcome |
| `HardConcrete` | numbers in [0, 1], both ends with positive mass | a density inside, masses at the ends |
| `PlackettLuce` | k of n indices, in the order drawn | the mass of the sequence |
| `TopKSubset` | k-hot vectors, relaxed gradient | the mass of the set |
"""

from ._binary import LogitRelaxedBernoulli, RelaxedBernoulli
from ._categorical import ExpRelaxedCategorical, RelaxedOneHotCategorical
from ._gumbel import Gumbel
from ._hard_concrete import HardConcrete
from ._monte_carlo import NUM_SAMPLES, kl_monte_carlo
from ._straight_through import RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough
from ._subset import PlackettLuce, TopKSubset

from . import _kl  # isort: skip  (registers the divergences of all of the above with torch)

__all__ = [
    "NUM_SAMPLES",
    "ExpRelaxedCategorical",
    "Gumbel",
    "HardConcrete",
    "LogitRelaxedBernoulli",
    "PlackettLuce",
    "RelaxedBernoulli",
    "RelaxedBernoulliStraightThrough",
    "RelaxedOneHotCategorical",
    "RelaxedOneHotCategoricalStraightThrough",
    "TopKSubset",
    "kl_monte_carlo",
]
