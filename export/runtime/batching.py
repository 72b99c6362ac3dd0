"""Items -> results in order, by threads.

`in_batches` has them fill a few buffers over and over, a piece at a time. The thread that fills the last piece of a
buffer also works it up, while the others fill the next one; or threads apart do. So none waits for another as long as a
buffer is free, whichever of filling and working up takes longer. If none is free, nothing more is begun: memory is that
of the buffers, however many items there are.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from toolkit.threads import call_now, threads

PIECE = 16
"Items a piece, at most: a thread costs a future and a few locks a piece, and ends with its piece if interrupted."


class _Batch:
    "A buffer that is being filled: what became of each of its places, and how many are left."

    def __init__(self, buffer: Any, size: int):
        self.buffer, self.outcomes, self.left, self.lock = buffer, [None] * size, size, threading.Lock()

    def put(self, start: int, outcomes: list) -> bool:
        "Note the outcomes of a piece; return whether it was the last one."
        self.outcomes[start : start + len(outcomes)] = outcomes
        with self.lock:
            self.left -= len(outcomes)
            return self.left == 0


def in_batches(
    items: Iterable,
    buffers: list,
    size: int,
    fill: Callable[[Any, int, list], list],
    work_up: Callable[[Any, list], Any],
    workers: int,
    break_off: Callable[[], None] = lambda: None,
    run: Callable[..., Future] = call_now,
) -> Iterator[Any]:
    """work_up(buffer, outcomes) of `size` items at a time, of fewer at the end.

    fill(buffer, start, items): fills the places from `start` on and returns an outcome for each of the items, which
    are at most PIECE of a batch, and fewer if the batch is too small to keep all workers busy.
    workers: threads that fill; 0 for the one that asks. run: what `threads` gives, for threads apart that work up; else
    the one that filled the last piece does. An exception is raised when its batch's turn comes. At most as many batches
    as there are buffers are begun and not handed out. Closed early, or interrupted, it begins nothing more, has
    `break_off` end what is in work, and waits for the threads that fill.
    """
    items, free, begun = iter(items), deque(buffers), deque()

    def work(batch: _Batch, start: int, part: list) -> Future | None:
        if batch.put(start, fill(batch.buffer, start, part)):
            return run(work_up, batch.buffer, batch.outcomes)

    def oldest() -> Any:
        batch, pieces = begun.popleft()
        (last,) = [future for future in [each.result() for each in pieces] if future is not None]
        result = last.result()
        free.append(batch.buffer)
        return result

    with threads(workers) as submit:
        try:
            while chunk := list(itertools.islice(items, size)):
                batch = _Batch(free.popleft(), len(chunk))
                parts = _pieces(chunk, workers)
                begun.append((batch, [submit(work, batch, start, part) for start, part in parts]))
                if not free:
                    yield oldest()
            while begun:
                yield oldest()
        finally:
            break_off()


def _pieces(chunk: list, workers: int) -> Iterator[tuple[int, list]]:
    "(start, items) of each piece: one for each worker at least, if there are as many items."
    step = max(1, min(PIECE, len(chunk) // max(workers, 1)))
    return ((start, chunk[start : start + step]) for start in range(0, len(chunk), step))
