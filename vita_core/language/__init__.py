"""The language model and what leads to it.

In: the tower's tokens (N, C) and a question. Out: projected tokens (N, D), a prompt with both, and an answer's token ids.
"""
