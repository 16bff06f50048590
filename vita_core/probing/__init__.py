"""Measure what the features of a vision tower are worth, without a language model.

In: a resolved tower and a data set with labels. Out: accuracies with intervals, and measures of the features.
"""
