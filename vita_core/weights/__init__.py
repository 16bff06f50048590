"""Where weights come from: local files, fetched assets, hub ids; and files written whole or not at all.

In: a name such as ``./dir``, ``asset:NAME`` or ``owner/name``. Out: a `Source` (its configs, its files). No tensor is read.
"""
