"""The composed model: the only room that joins tower, projector and language model.

In: a resolved config or checkpoint. Out: a model that answers, is saved and is exported.
"""
