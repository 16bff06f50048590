"""Projector alignment and its score."""
