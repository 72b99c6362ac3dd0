"A process that reads photos, as the process that asks it has it: start it, ask it, end it."

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
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # glibc gives a photo's memory back to the system and gets it again, page by
    "MALLOC_TRIM_THRESHOLD_": str(2**26),  # page: 1.8 ms of the processor a photo of 500 x 375 pixels, not 1.45
}


class Died(Exception):
    "A process ended before it answered; the text says how."


class ReaderProcess:
    "It runs `export.reading.reader.serve`."

    def __init__(self, memory: int):
        """Not multiprocessing: its fork copies a process that holds threads and a GPU, its spawn runs the recipe's file
        anew. The process group of its own keeps a terminal's Ctrl-C from it.
        """
        self.ready = False  # whether it knows into which memory to read; for `export.reading.readers`
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-c", _code(theirs.fileno(), memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if sys.stderr else subprocess.DEVNULL,  # closed, its number would be taken by another file
                env=ENVIRONMENT | os.environ,
                pass_fds=(theirs.fileno(), memory),
                process_group=0,
            )

    def asked(self, question: tuple) -> Any:
        "Its answer. Raises Died if it ended."
        try:
            self.connection.send(question)
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise Died(self.ended()) from error

    def ended(self) -> str:
        "End it, unless it has ended; return how it did."
        self.process.kill()
        self.process.wait()
        return ended_by(self.process.returncode)


def _code(socket: int, memory: int) -> str:
    "The program of a process. It finds this package wherever this process found it: -S leaves out what .pth files add."
    found = [str(Path(__file__).resolve().parents[2]), *sys.path]
    ignore = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is for the process that asks
    return f"{ignore}; sys.path[:] = {found!r}; from export.reading.reader import serve; serve({socket}, {memory})"


def ended_by(status: int) -> str:
    "How a process ended, in words, as `toolkit.data.checks.decode` has them."
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name
