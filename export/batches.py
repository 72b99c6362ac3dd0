"""Items -> results in order, by threads.

`in_batches` has them fill a few buffers over and over. The thread that fills the last place of a buffer also works it
up, while the others fill the next one. So none waits for another as long as a buffer is free, whichever of filling and
working up takes longer; and where none is free nothing more is begun: memory is that of the buffers, however many items
there are.
"""

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class _Batch:
    "A buffer that is being filled: what became of each of its places, and how many are left."

    def __init__(self, buffer: Any, size: int):
        self.buffer, self.outcomes, self.left, self.lock = buffer, [None] * size, size, threading.Lock()

    def put(self, place: int, outcome: Any) -> bool:
        "Notes the outcome; whether it was the last one."
        self.outcomes[place] = outcome
        with self.lock:
            self.left -= 1
            return self.left == 0


def in_batches(
    items: Iterable,
    buffers: list,
    size: int,
    fill: Callable,
    work_up: Callable,
    workers: int,
    break_off: Callable[[], None] = lambda: None,
) -> Iterator[Any]:
    """work_up(buffer, [fill(buffer, place, item) of each item]) of `size` items at a time, of fewer at the end.

    workers: threads; 0 for the one that asks. An exception is raised when its batch's turn comes. At most as many
    batches as there are buffers are begun and not handed out. Closed early, or interrupted, it begins nothing more, has
    `break_off` end what is being worked up, and waits for the threads.
    """
    items, free, begun = iter(items), deque(buffers), deque()

    def work(batch: _Batch, place: int, item: Any) -> Any:
        if batch.put(place, fill(batch.buffer, place, item)):
            return work_up(batch.buffer, batch.outcomes)

    def oldest() -> Any:
        batch, places = begun.popleft()
        (result,) = [result for result in [place.result() for place in places] if result is not None]
        free.append(batch.buffer)
        return result

    with _threads(workers) as submit:
        try:
            while chunk := list(itertools.islice(items, size)):
                batch = _Batch(free.popleft(), len(chunk))
                begun.append((batch, [submit(work, batch, place, item) for place, item in enumerate(chunk)]))
                if not free:
                    yield oldest()
            while begun:
                yield oldest()
        finally:
            break_off()


def in_order(function: Callable, items: Iterable, workers: int, ahead: int) -> Iterator[Any]:
    "function(item) for each item, by `workers` threads (0: this one), at most `ahead` of them early."
    waiting = deque()
    with _threads(workers) as submit:
        for item in items:
            waiting.append(submit(function, item))
            if len(waiting) > (ahead if workers else 0):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[Callable[..., Future]]:
    if count == 0:
        yield _at_once
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def _at_once(function: Callable, *given: Any) -> Future:
    done = Future()
    done.set_result(function(*given))
    return done
