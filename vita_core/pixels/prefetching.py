"""The next pictures are read and prepared by threads while the tower works on these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

__all__ = ["prefetched"]

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
MOST_WORKERS = 16


@contextmanager
def prefetched(
    items: Iterable[Item], load: Callable[[Item], Loaded], *, batch: int = 1
) -> Iterator[Iterator[list[Loaded]]]:
    """An iterator over ``load(item)``, in order, in lists of `batch` (the last may be shorter), loaded ahead by threads.

    At most two lists are loaded ahead. What `load` raises is raised in its place; on leaving, by an error or Ctrl-C too,
    nothing more is begun. There are as many threads as torch uses (``OMP_NUM_THREADS``, `torch.set_num_threads`), 16 at
    most: PIL and torch let go of Python's lock while they decode and resize.
    """
    threads = torch.get_num_threads()
    # without the initializer torch would start a team of threads for each of ours, and they would fight the tower for cores
    pool = ThreadPoolExecutor(min(threads, MOST_WORKERS), "prefetch", lambda: torch.set_num_threads(1))
    try:
        yield _lists(pool, iter(items), load, batch)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the caller's number never changed, but threads started later would have got 1


def _lists(
    pool: ThreadPoolExecutor, items: Iterator[Item], load: Callable[[Item], Loaded], batch: int
) -> Iterator[list[Loaded]]:
    waiting: deque[Future[Loaded]] = deque()
    while True:
        waiting.extend(pool.submit(load, item) for item in islice(items, 3 * batch - len(waiting)))
        if not waiting:
            return
        ready = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
        yield [future.result() for future in ready]
