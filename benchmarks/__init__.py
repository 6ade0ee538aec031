"""Time, memory and exactness of every operation, beside other libraries, in one run: ``python -m benchmarks``.

``registry.py`` says what is measured: operations (``ops.py``) at sizes, beside ``peers.py``, and the ratio wanted.
An operation is timed (``measure.py``) only after its check (``laws.py``) has passed. ``exactness.py`` asks of every
contestant whether its law is right where that is hard; ``estimators.py`` times gradient estimators in units of the
loss, ``vae.py`` a whole training step. ``quiet.py`` measures again what other processes disturbed. ``report.py`` holds
what a run found out, ``page.py`` and ``chart.py`` write the runs of all instruction sets down. ``alone.py`` and
``compare.py`` say whether one of our operations became slower.
"""
