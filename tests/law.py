"""The law for everything that comes from outside: a result, or a VitaError that names the file, in 2 seconds and 500 MB.

`holds(function, path)` asserts it for one case. The case runs in a child process that has imported what it needs, so that a
segfault of a decoder fails the case and not the run. The child takes one case after the other; it is killed and started again
when a case takes too long or too much memory, or ends the process.

Time is that of the child's main thread without its wait in the run queue of the kernel: the machine may be busy with other
tests, and neither the wall clock nor the CPU time alone tells a slow case (the first counts others, the second does not count
a sleep). Memory is the peak of resident memory that the kernel keeps (`VmHWM`, set back before each case), above what the
warmed child held, without the growth of mapped files. A case that is too slow or too large is tried once more in a new child.
"""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from forked import context
from messages import record

SECONDS, BYTES = 2.0, 500 << 20
LONGEST = 60.0
"""The wall time, in seconds, after which a case has failed on any machine; a warm-up may take as long."""
STARTING = 300.0
"""How many seconds of wall time the imports may take."""
ADDRESSES = 4 << 30
"""The memory that a child may ask for beyond its imports, so that a case that would take all fails alone."""
KEPT = 200 << 20
"""A child that keeps more than this from its cases is replaced before the next one."""
LAWFUL = ("result", "refused")


@dataclass(frozen=True)
class Outcome:
    """How one case ended: `kind` is a `result`, `refused` (a VitaError), `raised`, `died`, `slow` or `large`.

    `text` is the result's repr (cut), the message, the traceback, or the signal. `seconds` is the time that counts; `wall` and
    `cpu` are for the reader. `memory` is the peak in bytes above the warmed child.
    """

    kind: str
    text: str
    seconds: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0

    def broken(self, names: Sequence[str]) -> str | None:
        """How the case breaks the law, or None. A refusal must contain one of `names`."""
        told = f"{self.kind} in {self.seconds:.2f} s ({self.cpu:.2f} s of CPU), {self.memory >> 20} MB: {self.text}"
        if self.kind == "refused" and names and not any(name in self.text for name in names):
            return f"the error names none of {', '.join(names)}: {told}"
        return None if self.kind in LAWFUL else told


def holds(function: str, *arguments: Any, names: str | Sequence[str] = (), warm: Sequence[Any] = ()) -> Outcome:
    """Assert the law for ``module:function`` called with these arguments, and return the outcome.

    `names` are the texts of which an error must contain one, by default the name of the first path. `warm` are arguments of a
    valid call, which a new child makes first. The test needs the mark ``slow``.
    """
    outcome = law(function, *arguments, warm=warm)
    if not names:
        names = next((argument.name for argument in arguments if isinstance(argument, Path)), ())
    broken = outcome.broken([names] if isinstance(names, str) else names)
    assert broken is None, f"{function}{arguments}: {broken}"
    return outcome


def law(function: str, *arguments: Any, warm: Sequence[Any] = ()) -> Outcome:
    """Return how ``module:function``, called with these arguments in a child, ends."""
    global _child
    for _ in range(2):
        if _child is None or not _child.fit():
            _child = Child()
        outcome = _child.judged(function, arguments, tuple(warm))
        if outcome.kind not in ("slow", "large"):
            break
        _child.end()
    if outcome.kind == "refused":
        record(outcome.text)
    return outcome


class Child:
    """A process that takes cases by a pipe."""

    def __init__(self) -> None:
        self.pipe, other = context.Pipe()
        self.errors = tempfile.NamedTemporaryFile(prefix="vita-law-", suffix=".stderr")  # noqa: SIM115  # it is open as long as the child lives
        self.process: BaseProcess = context.Process(target=_serve, args=(other, self.errors.name), daemon=True)
        self.process.start()
        other.close()
        self._began()
        self.warmed: set[tuple[str, str]] = set()
        self.kept = 0

    def fit(self) -> bool:
        """Whether it can take another case; if not, it is ended."""
        if self.process.is_alive() and self.kept < KEPT:
            return True
        self.end()
        return False

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.errors.close()

    def judged(self, function: str, arguments: tuple[Any, ...], warm: tuple[Any, ...]) -> Outcome:
        """Make the warm-up that this child has not made, then the case."""
        key = (function, repr(warm))
        if warm and key not in self.warmed:
            outcome = self._sent(function, warm, patient=True)
            assert outcome.kind != "died", f"the warm-up {function}{warm} {outcome.text}"
            self.warmed.add(key)
            self.kept = 0
        return self._sent(function, arguments)

    def _began(self) -> None:
        """Wait until the child has imported what it needs."""
        if not self.pipe.poll(STARTING):
            raise TimeoutError(f"the child of the law has not begun after {STARTING:.0f} s: {self._place()}")
        assert self.pipe.recv() == "begun"

    def _sent(self, function: str, arguments: tuple[Any, ...], *, patient: bool = False) -> Outcome:
        pid = self.process.pid
        assert pid is not None
        self.pipe.send((function, arguments))
        self._began()
        start, waited, anonymous = time.monotonic(), _waited(pid), _memory(pid, "RssAnon")
        while not self.pipe.poll(0.02):
            wall = time.monotonic() - start
            if not self.process.is_alive():
                return self._dead(wall)
            seconds, memory = wall - (_waited(pid) - waited), _memory(pid, "RssAnon") - anonymous
            if wall > LONGEST or (seconds > 1.2 * SECONDS and not patient):
                return self._stopped(Outcome("slow", f"stopped, while in {self._place()}", seconds, wall, 0, memory))
            if memory > 3 * BYTES:
                return self._stopped(Outcome("large", f"stopped, while in {self._place()}", seconds, wall, 0, memory))
        try:
            kind, text, wall, cpu, run_queue, memory, kept = self.pipe.recv()
        except (EOFError, ConnectionError):
            return self._dead(time.monotonic() - start)
        self.kept += kept
        seconds = max(0.0, wall - run_queue)
        if kind in LAWFUL and not patient:
            kind = "slow" if seconds > SECONDS else "large" if memory > BYTES else kind
        return Outcome(kind, text, seconds, wall, cpu, memory)

    def _dead(self, wall: float) -> Outcome:
        self.process.join(10)
        code = self.process.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return Outcome("died", f"{name}: {self._told()}", wall, wall)

    def _told(self) -> str:
        """The end of what it printed as an error, such as a stack, without the list of modules behind that."""
        text = Path(self.errors.name).read_text(encoding="utf-8", errors="replace")
        return text.partition("Extension modules:")[0][-2000:]

    def _place(self) -> str:
        """Where the child is: it prints its stack when it gets this signal."""
        os.kill(self.process.pid or 0, signal.SIGUSR1)
        time.sleep(0.2)
        return self._told()

    def _stopped(self, outcome: Outcome) -> Outcome:
        self.end()
        return outcome


_child: Child | None = None


def _waited(pid: int | str) -> float:
    """The seconds that the main thread of a process has waited for a CPU."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # the process has ended, or this kernel does not count it
        return 0.0


def _memory(pid: int | str, kind: str) -> int:
    """Bytes of a kind of memory that the kernel states of a process; 0 if it has ended."""
    try:
        found = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def _serve(pipe: Connection, errors: str) -> None:
    """Take cases until the pipe is closed. This is the child."""
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY), (2, errors, os.O_WRONLY)):
        os.dup2(os.open(path, mode), number)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115  # they are open as long as the process lives
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="vita-law-") as folder:
        os.environ["VITA_CACHE"] = folder
        pipe.send("begun")
        while True:
            try:
                function, arguments = pipe.recv()
            except EOFError:
                return
            module, _, name = function.partition(":")
            call = getattr(import_module(module), name)
            pipe.send("begun")
            pipe.send(_measured(call, arguments))


def _measured(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Run a case in this process: kind, text, wall, CPU and run-queue seconds, peak and kept bytes."""
    limit = _memory("self", "VmData") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    Path("/proc/self/clear_refs").write_text("5")
    before, files, anonymous = (_memory("self", kind) for kind in ("VmRSS", "RssFile", "RssAnon"))
    wall, cpu, waited = time.perf_counter(), time.process_time(), _waited("self")
    kind, text = _ended(call, arguments)
    wall, cpu, waited = time.perf_counter() - wall, time.process_time() - cpu, _waited("self") - waited
    mapped = max(0, _memory("self", "RssFile") - files)
    kept = _memory("self", "RssAnon") - anonymous
    return kind, text, wall, cpu, waited, max(0, _memory("self", "VmHWM") - before - mapped), kept


def _ended(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, str]:
    from vita_core.errors import VitaError

    try:
        return "result", repr(call(*arguments))[:500]
    except VitaError as error:
        return "refused", str(error)
    except BaseException:  # also what pyo3 raises for a panic, and an exit
        return "raised", traceback.format_exc()[-3000:]
