"""Where weights come from, and how files are written.

In: a name such as ``./dir``, ``asset:NAME`` or ``owner/name``. Out: a `Source`, which gives a checkpoint's configs and the
paths of its weight files. This package reads no tensors, except to list the keys of a pickle.
"""
