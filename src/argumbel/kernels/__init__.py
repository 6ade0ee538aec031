"""The operations everything else is made of, each with one schema and several backends.

This file alone decides which backend runs; ``reference.py`` is the plain PyTorch one.
"""

from __future__ import annotations

from .reference import categorical, noise

__all__ = ["categorical", "noise"]
