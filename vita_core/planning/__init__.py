"""Everything known about a model before a weight is read.

In: a config or a checkpoint directory. Out: each stage's spec, source and sizes, and from them the plan.
"""
