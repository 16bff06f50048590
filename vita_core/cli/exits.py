"""The exit codes of all commands, which the documentation shows."""

from __future__ import annotations

__all__ = ["BUG", "FAILURES", "MEANINGS", "MISTAKE", "NO_READER"]

BUG, MISTAKE, FAILURES, NO_READER = 1, 2, 3, 141
MEANINGS = {
    0: "The command did what it was asked to do.",
    BUG: "A bug of vita-core or of a plugin. A short report to paste into an issue is printed; `VITA_DEBUG=1` adds the "
    "traceback.",
    MISTAKE: "Something that you can correct: each line that starts with `error:` says what is wrong, and what to do.",
    FAILURES: "The command ran to its end and found failures: a test of `vita check`, a sample of `vita data`, a config "
    "of `vita compare`, a picture of `vita run --images`, a file of `vita verify`, a problem of `vita doctor`.",
    130: "Stopped by Ctrl-C (SIGINT), within two seconds. `vita train` ends its step and saves a checkpoint first.",
    NO_READER: "The program that reads the output has ended, as `head` does.",
    143: "Stopped by SIGTERM, otherwise as for 130.",
}
"""Code -> what it means."""
