"""``python -m vita_core`` is ``vita``."""

from vita_core.cli import main

main()
