"""Start a process that reads photos, ask it, and end it."""

import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy would start one a core
    # else glibc returns a photo's memory to the system and gets it again, page by page: 1.8 ms of processor time per
    # photo of 500 x 375 pixels, not 1.45
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}


class Died(Exception):
    "A process ended before it answered; the message says how it ended."


class ReaderProcess:
    "A process that runs `export.reading.reader.serve`."

    def __init__(self, memory: int):
        """Start the process. multiprocessing is not used: its fork would copy a process with threads and a GPU, its
        spawn would run the recipe's file again. In a process group of its own it does not get a terminal's Ctrl-C.
        """
        self.ready = False  # whether it got the first message, with the memory to read into
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-c", _code(theirs.fileno(), memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if sys.stderr else subprocess.DEVNULL,  # if it is closed, another file may have its number
                env=ENVIRONMENT | os.environ,
                pass_fds=(theirs.fileno(), memory),
                process_group=0,
            )

    def asked(self, question: tuple) -> Any:
        "The answer of the process. Raises Died if it ended."
        try:
            self.connection.send(question)
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise Died(self.ended()) from error

    def ended(self) -> str:
        "End the process, unless it has ended; return how it ended."
        self.process.kill()
        self.process.wait()
        return ended_by(self.process.returncode)


def _code(socket: int, memory: int) -> str:
    "The program of a process. It gets this process's sys.path, because -S leaves out the paths of .pth files."
    found = [str(Path(__file__).resolve().parents[2]), *sys.path]
    ignore = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is for the parent
    return f"{ignore}; sys.path[:] = {found!r}; from export.reading.reader import serve; serve({socket}, {memory})"


def ended_by(status: int) -> str:
    "How a process ended, in the same words as `toolkit.data.checks.decode`."
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name
