"""Pictures and videos become pixel values.

In: picture and video files, and the image processor's config. Out: tensors (tiles, 3, H, W), prepared ahead in threads.
"""
