"""Process items in batches by threads, and yield the results in order.

In `in_batches` threads fill a few buffers over and over, a piece at a time. The thread that fills the last piece of a
buffer also processes the buffer, while the others fill the next one; or separate threads process it. So no thread waits
for another while a buffer is free, whichever step takes longer. If none is free, no batch is started: the memory is
that of the buffers, for any number of items.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from toolkit.threads import call_now, threads

PIECE = 16
"The largest number of items in a piece. A piece costs a future and a few locks; an interrupt waits for its end."


class _Batch:
    "A buffer that is being filled: the outcome of each of its items, and how many are left."

    def __init__(self, buffer: Any, size: int):
        self.buffer, self.outcomes, self.left, self.lock = buffer, [None] * size, size, threading.Lock()

    def put(self, start: int, outcomes: list) -> bool:
        "Record the outcomes of a piece; return whether it was the last piece."
        self.outcomes[start : start + len(outcomes)] = outcomes
        with self.lock:
            self.left -= len(outcomes)
            return self.left == 0


def in_batches(
    items: Iterable,
    buffers: list,
    size: int,
    fill: Callable[[Any, int, list], list],
    process: Callable[[Any, list], Any],
    workers: int,
    break_off: Callable[[], None] = lambda: None,
    run: Callable[..., Future] = call_now,
) -> Iterator[Any]:
    """Yield process(buffer, outcomes) for `size` items at a time, for fewer at the end.

    fill(buffer, start, items): fills the buffer from index `start` on and returns an outcome for each item. A call gets
    at most PIECE items, and fewer if the batch is too small to keep all workers busy.
    workers: threads that fill; 0 for the calling thread. run: submits `process` to separate threads, as `threads` does;
    by default the thread that filled the last piece processes. An exception is raised when its batch is next. There are
    at most as many unfinished batches as buffers. If it is closed early or interrupted, it starts no batch, calls
    `break_off` to stop running work, and waits for the threads that fill.
    """
    items, free, started = iter(items), deque(buffers), deque()

    def work(batch: _Batch, start: int, part: list) -> Future | None:
        if batch.put(start, fill(batch.buffer, start, part)):
            return run(process, batch.buffer, batch.outcomes)

    def oldest() -> Any:
        batch, pieces = started.popleft()
        (last,) = [future for future in [each.result() for each in pieces] if future is not None]
        result = last.result()
        free.append(batch.buffer)
        return result

    with threads(workers) as submit:
        try:
            while chunk := list(itertools.islice(items, size)):
                batch = _Batch(free.popleft(), len(chunk))
                parts = _pieces(chunk, workers)
                started.append((batch, [submit(work, batch, start, part) for start, part in parts]))
                if not free:
                    yield oldest()
            while started:
                yield oldest()
        finally:
            break_off()


def _pieces(chunk: list, workers: int) -> Iterator[tuple[int, list]]:
    "Yield (start, items) of each piece; at least as many pieces as workers, if there are enough items."
    step = max(1, min(PIECE, len(chunk) // max(workers, 1)))
    return ((start, chunk[start : start + step]) for start in range(0, len(chunk), step))
