"""Checkpoints of other projects: one file a layout, each mostly a table of whose each key is.

``layout`` says what a layout tells of itself, ``known`` lists them, ``opening`` turns a directory into our config.
"""
