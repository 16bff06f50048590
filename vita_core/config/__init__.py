"""Read and validate configs.

In: a YAML file, a mapping, or ``key=value`` overrides. Out: a validated `Config`, or an error that starts with
``file:line:column``.
"""
