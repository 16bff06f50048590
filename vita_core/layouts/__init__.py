"""The checkpoint layouts of other projects, one file each: mostly a table that maps keys to stages.

In: the ``config.json`` of a VITA or LLaVA checkpoint. Out: a `Layout`, which gives the config sections, the stage of every
key, and the place of the tower. This package reads no tensors.
"""
