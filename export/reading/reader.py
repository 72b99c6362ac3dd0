"""The program of a process that reads photos: messages come by a socket, pixels go into shared memory."""

import contextlib
import math
import mmap
import traceback
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from export.reading.prepare import fill
from export.runtime.profiler import Stopwatch


def images_in(memory: int, count: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return `count` arrays of uint8 [batch, crop, crop, 3] in the memory of the file descriptor `memory`.

    Each starts on a new page, because a GPU's driver pins whole pages and refuses to pin a page twice.
    """
    size = math.prod(shape)
    mapped = mmap.mmap(memory, count * pages(size))
    return [np.frombuffer(mapped, np.uint8, size, number * pages(size)).reshape(shape) for number in range(count)]


def pages(size: int) -> int:
    "Bytes of the whole pages that hold `size` bytes."
    return math.ceil(size / mmap.PAGESIZE) * mmap.PAGESIZE


def serve(socket: int, memory: int) -> None:
    """Answer each message (buffer number, first index, paths) with (outcomes, seconds by stage).

    The first message is (number of buffers, their shape, preprocess). An error that is not due to a photo is the answer
    itself. It returns when the other end of the socket closes, as it does if the other process is killed.
    """
    cv2.setNumThreads(0)
    connection = Connection(socket)
    with contextlib.suppress(EOFError, ConnectionError):
        count, shape, preprocess = connection.recv()
        images = images_in(memory, count, shape)
        connection.send("ready")
        while True:
            number, start, paths = connection.recv()
            connection.send(_answer(images[number], start, paths, preprocess))


def _answer(images: np.ndarray, start: int, paths: list[str], preprocess: dict) -> Any:
    watch = Stopwatch()
    try:
        return fill(images, start, paths, preprocess, watch), watch.seconds
    except Exception as error:
        error.add_note(traceback.format_exc())  # the traceback is not pickled with the error
        return error
