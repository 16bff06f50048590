"""Pixels.

In: pictures and videos, and what the processor's config says. Out: tensors (tiles, 3, H, W), read ahead by threads.
"""
