"""Train and score configs side by side, and say which one to take.

In: configs, a data set, seeds. Out: a directory with ``comparison.json``, ``timings.json`` and two reports of them.
"""
