"""The door for what comes from outside: JSON, YAML, headers of tensor files, indices, and what a checkpoint says about itself.

In: files that a stranger may have written. Out: plain data of a bounded size and depth that fits its schema, or a `VitaError`
that names the file, the key and the value.
This package reads no tensors, except to list the keys of a pickle.
"""
