"""What `read_photo` says of each of many files, asked in processes apart: a file that kills its decoder kills no more.

A process that dies is named by the one file it held, whose verdict that is; another takes its place.
"""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import cv2

from toolkit.data.photo import read_photo

REASON = 300  # characters of a reason that are kept
WORTH = 100  # photos that are worth a process of their own: it takes a third of a second to start


class Verdict(NamedTuple):
    "Of one file: why it can't be read ('' where it can), and what it holds."

    reason: str = ""
    width: int = 0  # pixels, upright; 0 where it can't be read
    height: int = 0
    digest: str | None = None  # of the file's bytes; None where there are none to be had


def verdict(path: Path) -> Verdict:
    "Of `path`, by `read_photo` itself. The file is read once."
    try:
        content = path.read_bytes() if path.is_file() else None
    except OSError:
        content = None
    digest = None if content is None else hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        height, width, _ = read_photo(path if content is None else content).shape  # of the path: it tells what ails it
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix("<bytes>: ")
        return Verdict(" ".join(reason.split())[:REASON], digest=digest)
    return Verdict("", width, height, digest)


def verdicts(paths: Iterable[Path], workers: int | None = None) -> Iterator[tuple[Path, Verdict]]:
    """Each path with its verdict, in the order they come, from `workers` processes (default: one a core).

    Raises ValueError for fewer than one worker, OSError where no process can be started.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: one process at least reads photos, give 1 or more")
    todo, done, readers = deque(paths), SimpleQueue(), []
    count = len(todo)
    for _ in range(min(workers or cores(), -(-count // WORTH))):
        threading.Thread(target=_ask_all, args=(todo, done, readers), daemon=True).start()
    try:
        for _ in range(count):
            answer = done.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer
    finally:
        todo.clear()  # so that each thread ends with the file it is at, should we stop early
        for reader in readers:
            reader.kill()


def cores() -> int:
    "How many processors this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ask_all(todo: deque[Path], done: SimpleQueue, readers: list[subprocess.Popen]) -> None:
    "Moves paths from `todo` to `done`, with their verdicts, until none is left; what goes wrong goes to `done` too."
    reader = None
    try:
        while todo:
            if reader is None:
                readers.append(reader := _start())
            try:
                path = todo.popleft()
            except IndexError:  # another thread took the last one
                break
            answer = _ask(reader, path)
            if answer is None:
                answer, reader = _death(_ended(reader)), None
            done.put((path, answer))
    except Exception as error:
        done.put(error)
    finally:
        if reader:
            _ended(reader)


def _start() -> subprocess.Popen:
    """A process that answers a path on each line of its stdin with a verdict on its stdout, both as JSON.

    Not multiprocessing: its fork copies a process that holds threads and a GPU, its spawn runs the recipe's file anew.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from toolkit.data import decode_check; decode_check.answer()"
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is for the process that asks
    reader = subprocess.Popen(
        [sys.executable, "-c", f"{ignore}; {code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr else subprocess.DEVNULL,  # closed, its number would be taken by another stream
    )
    if not reader.stdout.readline():
        raise OSError(f"no process can be started to read photos in ({_ended_by(_ended(reader))})")
    return reader


def answer() -> None:
    "The loop of the process that reads."
    cv2.setNumThreads(0)
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what Pillow logs
    replies, sys.stderr = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # where decoders written in C complain, at length
        os.dup2(nowhere, stream)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(verdict(Path(json.loads(line)))), file=replies, flush=True)


def _ask(reader: subprocess.Popen, path: Path) -> Verdict | None:
    "The verdict of `path`; None where the process died of it."
    try:
        reader.stdin.write(json.dumps(str(path)).encode() + b"\n")
        reader.stdin.flush()
    except BrokenPipeError:
        return None
    line = reader.stdout.readline()
    return Verdict(*json.loads(line)) if line.endswith(b"\n") else None


def _ended(reader: subprocess.Popen) -> int:
    "The exit status of a process that is asked nothing more."
    reader.communicate()
    return reader.returncode


def _death(status: int) -> Verdict:
    "The verdict that a process's end stands for. Raises RuntimeError where it ended by a bug of ours."
    if status in (0, 1):
        raise RuntimeError(f"the process that reads photos ended by itself, {_ended_by(status)}")
    return Verdict(f"it killed the process that read it: {_ended_by(status)}")


def _ended_by(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name
