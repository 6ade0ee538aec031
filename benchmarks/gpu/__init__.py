"""The kernels on a GPU beside PyTorch's, compiled and not: ``python -m benchmarks.gpu``.

``cases.py`` says what is measured and what is wanted, beside ``peers.py``; ``clock.py`` times by CUDA events, replays
graphs and counts memory; ``tails.py`` asks whether the law is right; ``page.py`` writes it down. Problems, operations,
their checks and the judging of targets are those of ``benchmarks``.
"""
