"""Train a projector on pictures with captions, and score the answers of a model.

In: a `Resolved` and data sets of captioned pictures. Out: a directory with the trained projector, its config and its
provenance; or a score.
"""
