"""Vision towers: the base class that plugins subclass, and the steps it is made of.

In: pixels (B, 3, H, W). Out: tokens (B, N, C). The steps are: encode, select layers, merge scales (S2), reduce.
"""
