"""What the user asked for.

In: a YAML file, a mapping, ``key=value`` overrides. Out: a validated `Config`, or an error with file:line:column.
"""
