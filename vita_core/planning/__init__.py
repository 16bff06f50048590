"""Resolve a model without reading a weight, and plan its sizes and costs.

In: a config or the directory of a checkpoint. Out: a `Resolved` with the spec, source and sizes of each stage, and the
`Plan` of shapes, parameters, memory and FLOPs.
"""
