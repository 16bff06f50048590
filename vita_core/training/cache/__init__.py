"""The feature cache: what a frozen tower computes of each picture, kept on disk."""
