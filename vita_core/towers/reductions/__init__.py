"""Reductions: modules that turn the tokens of a picture into fewer. In: tokens (B, N, C) and their grid. Out: (B, N', C')."""
