"""Threads: calls spread over a few of them, results in order; and warning filters, which all threads share."""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def opencv_in_one_thread() -> Iterator[None]:
    "OpenCV starts no threads of its own in the block, where threads that decode already use every core."
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def in_order(function: Callable, items: Iterable, workers: int, ahead: int) -> Iterator[Any]:
    """Yield function(item) for each item, in order.

    workers: threads that call the function; 0: the caller's own. ahead: the most results that wait to be taken, so that
    they do not fill the memory.
    """
    waiting = deque()
    with threads(workers) as submit:
        for item in items:
            waiting.append(submit(function, item))
            if len(waiting) > (ahead if workers else 0):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def threads(count: int) -> Iterator[Callable[..., Future]]:
    """Give a function that has one of `count` threads call a function with arguments; for 0 it calls it itself.

    At the end, calls that no thread has started are cancelled, and the others are waited for.
    """
    if count == 0:
        yield call_now
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def call_now(function: Callable, *arguments: Any) -> Future:
    "Call function(*arguments) in the caller's thread; return the result as a Future."
    done = Future()
    done.set_result(function(*arguments))
    return done


class IgnoredWarnings:
    """A context in which the warnings of one module are ignored, in all threads.

    Warning filters belong to the process: the first thread to enter sets them, the last one to leave restores them.
    """

    def __init__(self, module: str) -> None:
        "module: a regular expression that matches the start of the module's name."
        self.module, self.lock, self.inside = module, threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", module=self.module)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.filters.__exit__()
