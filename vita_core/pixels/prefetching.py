"""Read and prepare the next pictures in threads while the tower works on the current ones."""

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
    """Yield an iterator over lists of `batch` loaded items, ``load(item)`` in order. Threads load the items ahead.

    The last list may be shorter. At most two lists are loaded ahead. An error that `load` raises is raised by the iterator
    when it reaches that item. When the block ends, also by an error or Ctrl-C, no further item is loaded. There are as
    many threads as torch uses (``OMP_NUM_THREADS``, `torch.set_num_threads`), but at most 16. Threads help because PIL
    and torch release Python's global lock while they decode and resize.
    """
    threads = torch.get_num_threads()
    # without the initializer, torch would start its own threads for each of ours, and they would compete with the tower
    pool = ThreadPoolExecutor(min(threads, MOST_WORKERS), "prefetch", lambda: torch.set_num_threads(1))
    try:
        yield _lists(pool, iter(items), load, batch)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the caller still has its number, but threads started later would get 1


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
