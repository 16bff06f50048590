"""Train the parts of a model in stages on pictures, captions and conversations, and score its answers.

In: a `Resolved` and data sets. Out: a directory with what was trained, its config and its provenance; or a score.
"""
