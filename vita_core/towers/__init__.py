"""Vision towers.

In: pixels (B, 3, H, W). Out: tokens (B, N, C): encode, select layers, merge scales (S2), reduce.
"""
