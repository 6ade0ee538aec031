"""Models that are trained from the command line.

The categorical variational autoencoder of Jang et al. 2017 (data, model, training, evaluation, report), and sweeps,
which train many estimators and compare them. The commands ``argumbel train``, ``evaluate``, ``compare`` and ``sweep``
call this package. No other package of the library imports it.
"""

from .evaluate import evaluate_run
from .report import write as write_report
from .run import Config, Run
from .sweeps import sweep
from .train import fit

__all__ = ["Config", "Run", "evaluate_run", "fit", "sweep", "write_report"]
