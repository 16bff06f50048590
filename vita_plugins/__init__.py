"""The built-in towers. Each subpackage is a plugin with its own entry point, and uses only the public names of vita_core."""
