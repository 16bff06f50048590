"""The language model, its prompts, and the projector that connects it to the tower.

In: the tower's tokens (N, C) and a question. Out: projected tokens (N, D), a prompt that holds both, and the answer's
token ids.
"""
