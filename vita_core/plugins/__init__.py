"""Who offers towers, projectors and language models.

In: entry points and modules. Out: the registry, name -> spec and owner; a plugin that fails is a row in it, not a crash.
"""
