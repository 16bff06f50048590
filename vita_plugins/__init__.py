"""Built-in towers: each subpackage is a plugin with an entry point of its own, written with vita_core's public names only."""
