"""``vita`` and ``python -m vita_core``. Signals are taken first: what a command imports takes seconds."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import sys

# not `signal`, which imports enum first: for that long, Ctrl-C would print a traceback
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # it would print a traceback of the next imports

from vita_core import interrupts


def main() -> None:
    """Run the command line, and exit with 130 or 143 if a signal asked for it."""
    interrupts.take()
    try:
        try:
            from vita_core.cli import main as command
        except ImportError as error:  # typer is missing: only `vita doctor` needs no library
            from vita_core.diagnosing.report import without_libraries

            sys.exit(without_libraries(sys.argv[1:], error))
        command()
    finally:
        interrupts.finish()


if __name__ == "__main__":
    main()
