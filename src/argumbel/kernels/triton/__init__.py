"""The kernels on a GPU, in Triton: the functions of ``cpu/`` that it has, with the same arguments.

Seeds are tensors on the device, 0-dimensional or in the shape of the rows, and nothing here looks at a value there, so
no call waits for the device and all can be captured in a CUDA graph. Bad rows are marked (NaN, -1), never reported.

``noise.py`` is the noise contract; ``race.py``, ``topk.py`` and ``softmax.py`` the keyed operations; ``law.py`` exact
draws; ``linear.py`` both in the epilogue of a matrix product.
"""

from .law import categorical
from .linear import linear_categorical, linear_gumbel_max
from .noise import keyed_noise
from .posterior import posterior_gumbel
from .race import gumbel_max
from .softmax import gumbel_softmax, gumbel_softmax_backward, gumbel_softmax_backward_keyed
from .topk import gumbel_topk
from .without_replacement import sample_without_replacement

__all__ = [
    "categorical",
    "gumbel_max",
    "gumbel_softmax",
    "gumbel_softmax_backward",
    "gumbel_softmax_backward_keyed",
    "gumbel_topk",
    "keyed_noise",
    "linear_categorical",
    "linear_gumbel_max",
    "posterior_gumbel",
    "sample_without_replacement",
]
