"""The ``vita`` command."""
