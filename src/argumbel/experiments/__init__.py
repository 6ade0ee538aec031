"""The categorical variational autoencoder of Jang et al. 2017 as an experiment: data, model, training, figures, report;
and sweeps, which train many estimators and compare them.

``argumbel train``, ``evaluate``, ``compare`` and ``sweep`` are its front; nothing else in the library imports it.
"""

from .evaluate import evaluate_run
from .report import write as write_report
from .run import Config, Run
from .sweeps import sweep
from .train import fit

__all__ = ["Config", "Run", "evaluate_run", "fit", "sweep", "write_report"]
