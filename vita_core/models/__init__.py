"""The whole model: a tower, a projector and a language model together. No other package joins them.

In: a `Resolved`. Out: a `VisionLanguageModel`, which answers questions and can be saved and exported.
"""
