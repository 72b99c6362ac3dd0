"""Processes that read photos: each decodes and crops into memory that it shares with this process.

Threads of one process share Python's lock, which a photo needs for a part of its time; processes do not.
Threads of this process call `Readers.fill`. A thread borrows an idle process, sends it a few paths and waits for the
answer without the lock. If a process dies, no photo is lost: another process reads its photos again, one by one.

Linux only. The memory has no name (memfd) and the processes end when their socket closes, so that nothing is left
behind, even if this process is killed.
"""

import math
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from export.reading.reader import images_in, pages
from export.reading.reader_process import Died, ReaderProcess

TRIES = 2
"A photo counts as unreadable if so many processes died of it alone."

STARTS = 5
"If so many processes in a row die while they start, it is an error."

ON_DEVICES = ("cuda", "tensorrt")
"""The devices with which processes read, because the model leaves the cores free. If the model runs on the CPU, threads
read: on 2 cores processes had 0.96 of their rate; more cores have not been measured yet."""

FEWEST_WORKERS = 4
"Fewer threads rarely wait for Python's lock, which each holds for 0.16 of the 1.4 ms of a photo of 500 x 375 pixels."

FEWEST_PHOTOS = 1000
"Fewer photos do not repay the start of the processes: 0.15 to 0.5 s, in part while the session is opened."

NOT_STARTED = "no process can be started to read photos in"


def worthwhile(device: str, workers: int, photos: int) -> bool:
    "True if processes, rather than threads, should read photos from files."
    return sys.platform == "linux" and device in ON_DEVICES and workers >= FEWEST_WORKERS and photos >= FEWEST_PHOTOS


class Readers:
    "`count` processes that read photos. They start at once, which takes a while; `open` gives them memory."

    def __init__(self, count: int):
        "Start the processes. Raises OSError if they can't be started."
        self.memory = _shared_memory()
        self.images: list[np.ndarray] = []
        self.seconds: Counter[str] = Counter()  # of each stage, over all processes
        self.running: set[ReaderProcess] = set()
        self.lock, self.closed = threading.Lock(), False
        self.idle: list[ReaderProcess | None] = []  # None: a new one is started when a thread needs it
        self.waiting: deque[SimpleQueue[ReaderProcess | None]] = deque()
        try:
            self.idle += [self._started() for _ in range(count)]
        except BaseException:
            self.close()
            raise

    def open(self, buffers: int, shape: tuple[int, ...], preprocess: dict) -> list[np.ndarray]:
        "Return `buffers` arrays of uint8 [batch, crop, crop, 3] for the processes to fill. To be called once."
        os.ftruncate(self.memory, buffers * pages(math.prod(shape)))
        self.images, self.settings = images_in(self.memory, buffers, shape), (buffers, shape, preprocess)
        return self.images

    def fill(self, images: np.ndarray, start: int, paths: Sequence[str | Path]) -> list[Exception | None]:
        """Do what `export.reading.prepare.fill` does; `images` is one of `self.images`. Any number of threads may call
        it.

        Raises OSError if no process can be started, or once `break_off` was called.
        """
        number = next(number for number, own in enumerate(self.images) if own is images)
        try:
            return self._asked(number, start, paths)
        except Died:
            return [self._alone(number, start + offset, path) for offset, path in enumerate(paths)]

    def break_off(self) -> None:
        "End the processes, even in the middle of a photo, and start no more."
        with self.lock:
            self.closed = True
            for reader in self.running:
                reader.process.kill()

    def close(self) -> None:
        "End the processes and free the memory. No thread may still be in `fill`."
        self.break_off()
        for reader in list(self.running):
            self._end(reader)
        os.close(self.memory)

    def _alone(self, number: int, index: int, path: str | Path) -> Exception | None:
        "The outcome of one photo of a piece whose process died."
        for _ in range(TRIES):
            try:
                return self._asked(number, index, [path])[0]
            except Died as death:
                how = str(death)
        self.images[number][index] = 0
        return ValueError(f"{path}: it killed the process that read it: {how}")

    def _asked(self, number: int, start: int, paths: Sequence[str | Path]) -> list[Exception | None]:
        "The answer of an idle process, or of a new one. Raises Died if the process died."
        reader = self._borrowed()
        try:
            reader = self._ready(reader)
            answer = reader.asked((number, start, [os.fspath(path) for path in paths]))
        except BaseException:
            if reader:
                self._end(reader)
            reader = None
            raise
        finally:
            self._give_back(reader)
        if isinstance(answer, Exception):
            raise answer
        outcomes, seconds = answer
        with self.lock:
            self.seconds.update(seconds)
        return outcomes

    def _borrowed(self) -> ReaderProcess | None:
        "An idle process; None stands for one that has yet to be started."
        with self.lock:
            if self.idle:
                return self.idle.pop()
            self.waiting.append(mine := SimpleQueue())
        return mine.get()

    def _give_back(self, reader: ReaderProcess | None) -> None:
        "Give the process to the thread that has waited longest; else the oldest batch might wait forever."
        with self.lock:
            if self.waiting:
                self.waiting.popleft().put(reader)
            else:
                self.idle.append(reader)

    def _ready(self, reader: ReaderProcess | None) -> ReaderProcess:
        "The process, or a new one, once it has the memory. Raises OSError if none can be started."
        for _ in range(STARTS):
            try:
                reader = reader or self._started()
                if not reader.ready:
                    reader.asked(self.settings)
                    reader.ready = True
                return reader
            except Died as death:
                self._end(reader)
                reader, how = None, str(death)
        raise OSError(f"{NOT_STARTED} ({how})")

    def _started(self) -> ReaderProcess:
        "A new process. Raises OSError if it can't be started, or after `break_off`."
        with self.lock:
            if self.closed:
                raise OSError("reading was stopped")
            try:
                reader = ReaderProcess(self.memory)
            except OSError as error:
                raise OSError(f"{NOT_STARTED} ({error.strerror or error}): a smaller --workers needs fewer") from error
            self.running.add(reader)
            return reader

    def _end(self, reader: ReaderProcess) -> None:
        reader.ended()
        reader.connection.close()
        with self.lock:
            self.running.discard(reader)


def _shared_memory() -> int:
    "A file descriptor of memory without a name. Raises OSError if the system has none, as in some sandboxes."
    try:
        return os.memfd_create("photos")
    except OSError as error:
        raise OSError(f"{NOT_STARTED} ({error.strerror}): --workers {FEWEST_WORKERS - 1} reads in threads") from error
