"""The registry of towers, projectors, reductions and language models, and the plugins that provide them.

In: entry points and modules. Out: a registry that maps each name to its spec and its owner. A plugin that fails to load
becomes an entry with its error; it does not stop the program.
"""
