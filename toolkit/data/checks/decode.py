"""Decode many photos in separate processes, by `read_photo`: a file that kills its decoder kills only its process.

A process that dies was reading one file. The result of that file says so, and another process takes over.
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
from tqdm import tqdm

from toolkit.data.photo import read_photo
from toolkit.machine import cores

MOST_REASON = 300  # characters of a reason that are kept
PHOTOS_PER_PROCESS = 100  # for fewer photos no further process is started: it takes a third of a second


class DecodeResult(NamedTuple):
    "The outcome of decoding one file."

    reason: str = ""  # why it can't be read; empty if it can
    width: int = 0  # pixels, upright; 0 if it can't be read
    height: int = 0
    digest: str | None = None  # of the file's bytes; None if they can't be read


def decode(path: Path) -> DecodeResult:
    "Decode `path` by `read_photo`. The file is read once."
    try:
        content = path.read_bytes() if path.is_file() else None
    except OSError:
        content = None
    digest = None if content is None else hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        height, width, _ = read_photo(path if content is None else content).shape  # by its path: the error says why
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix("<bytes>: ")
        return DecodeResult(" ".join(reason.split())[:MOST_REASON], digest=digest)
    return DecodeResult("", width, height, digest)


def decode_with_progress(paths: list[Path], workers: int | None = None) -> dict[Path, DecodeResult]:
    "The result of `decode_all` for each path, with a progress bar on stderr if that is a terminal."
    silent = not (sys.stderr and sys.stderr.isatty())
    return dict(tqdm(decode_all(paths, workers), total=len(paths), disable=silent, leave=False, unit=" photos"))


def decode_all(paths: Iterable[Path], workers: int | None = None) -> Iterator[tuple[Path, DecodeResult]]:
    """Yield each path with its result, as they are ready, from `workers` processes (default: one per core).

    Raises ValueError for fewer than one worker, OSError if no process can be started.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: one process at least reads photos, give 1 or more")
    todo, done, processes = deque(paths), SimpleQueue(), []
    count = len(todo)
    for _ in range(min(workers or cores(), -(-count // PHOTOS_PER_PROCESS))):
        threading.Thread(target=_feed_process, args=(todo, done, processes), daemon=True).start()
    try:
        for _ in range(count):
            result = done.get()
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        todo.clear()  # if the caller stops early, each thread ends after its current file
        for process in processes:
            process.kill()


def _feed_process(todo: deque[Path], done: SimpleQueue, processes: list[subprocess.Popen]) -> None:
    "Move paths from `todo` to `done`, with their results, until none is left. An exception goes to `done` too."
    process = None
    try:
        while todo:
            if process is None:
                processes.append(process := _start_process())
            try:
                path = todo.popleft()
            except IndexError:  # another thread took the last one
                break
            result = _ask(process, path)
            if result is None:
                result, process = _result_of_death(_wait(process)), None
            done.put((path, result))
    except Exception as error:
        done.put(error)
    finally:
        if process:
            _wait(process)


def _start_process() -> subprocess.Popen:
    """Start a process that reads a path from each line of stdin and writes its result to stdout, both as JSON.

    multiprocessing won't do: its fork copies a process that holds threads and a GPU, its spawn runs the recipe's file
    again.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from toolkit.data.checks import decode; decode.serve()"
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is for the process that asks
    process = subprocess.Popen(
        [sys.executable, "-c", f"{ignore}; {code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr else subprocess.DEVNULL,  # if it is closed, another stream would take its number
    )
    if not process.stdout.readline():
        raise OSError(f"no process can be started to read photos in ({_describe_exit(_wait(process))})")
    return process


def serve() -> None:
    "The loop of a process that decodes."
    cv2.setNumThreads(0)
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what Pillow logs
    replies, sys.stderr = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders written in C print long complaints there
        os.dup2(nowhere, stream)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(decode(Path(json.loads(line)))), file=replies, flush=True)


def _ask(process: subprocess.Popen, path: Path) -> DecodeResult | None:
    "The result of `path`; None if the process died."
    try:
        process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return DecodeResult(*json.loads(line)) if line.endswith(b"\n") else None


def _wait(process: subprocess.Popen) -> int:
    "Close the stdin of a process, wait for its end and return its exit status."
    process.communicate()
    return process.returncode


def _result_of_death(status: int) -> DecodeResult:
    "The result of the file that a process died of. Raises RuntimeError if the process ended by a bug of ours."
    if status in (0, 1):
        raise RuntimeError(f"the process that reads photos ended by itself, {_describe_exit(status)}")
    return DecodeResult(f"it killed the process that read it: {_describe_exit(status)}")


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name
