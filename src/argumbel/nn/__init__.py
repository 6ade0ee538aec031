"""The functions of the library as ``torch.nn.Module``s. A module holds parameters and tau; the functions hold the law.

``tau=`` takes a number, a tensor, a ``Parameter`` (which is then trained) or a schedule: any callable from the step to
a number, such as those of :mod:`argumbel.schedules`. The training loop calls ``set_step(model, step)`` once per
optimiser step, and every schedule in the model moves to that step. The modules do not count their own forward passes,
for that would also count the passes of gradient accumulation, activation checkpointing and evaluation.
"""

from ._gate import HardConcreteGate
from ._gumbel_softmax import GumbelSoftmax, set_step
from ._quantizer import GumbelVectorQuantizer, Quantized

__all__ = ["GumbelSoftmax", "GumbelVectorQuantizer", "HardConcreteGate", "Quantized", "set_step"]
