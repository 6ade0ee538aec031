"""Recipes of structured choices: a shortest path through digits, trees, sorting, subsets, parsing.

Each file is one recipe: the problem, how it is learned, and its text.
"""

from ..recipe import Recipe
from ._parsing import PARSING
from ._paths import PATHS
from ._sorting import SORTING
from ._subsets import SUBSETS
from ._terrain import Terrain, path_cost, shortest_paths
from ._trees import TREES

__all__ = ["RECIPES", "Terrain", "path_cost", "shortest_paths"]

RECIPES: dict[str, Recipe] = {
    "paths": PATHS,
    "trees": TREES,
    "sorting": SORTING,
    "subsets": SUBSETS,
    "parsing": PARSING,
}
