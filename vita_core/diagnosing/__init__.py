"""Examine the installation for ``vita doctor``, also where libraries are missing or do not import.

In: the environment of this process. Out: a `Finding` for each thing that was looked at, with a cure where something is wrong.
The modules import only the standard library at their top. Libraries are imported, and devices tried, in another process.
"""
