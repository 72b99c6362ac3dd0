"""Python in a process forked from one that has imported torch, fastai and timm: the import takes ten seconds of a core.

`run` and `Popen` are those of `subprocess`. Our own packages are imported by each process, as in a new one. Tests of
how a command starts, and of variables that libraries read when they are imported, take `subprocess`.
"""

import gc
import importlib
import inspect
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = "torch torchvision fastai.vision.all timm albumentations cv2 onnx scipy.stats sklearn.metrics"
"Not onnxruntime: it starts a thread, which a fork lacks and would wait for."
TURN = threading.Lock()
ENDED = 8  # bytes of a child's number, and of its exit status


class Popen(subprocess.Popen):
    "subprocess.Popen for [sys.executable, '-m', MODULE, ...], or -c CODE, or a file; after -u if output is unbuffered."

    def _execute_child(self, *given: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments
        words = [os.fspath(word) for word in given["args"]]
        assert words[0] == sys.executable, words
        ours = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if stream == -1 else stream for number, stream in enumerate(ours)]
        keys = {name: given[name] for name in ("start_new_session", "process_group")}
        task = {"words": words, "cwd": str(given["cwd"] or os.getcwd()), "env": dict(given["env"] or os.environ)} | keys
        self._ending, theirs = socket.socketpair()
        with theirs, TURN:
            message = json.dumps(task).encode()
            socket.send_fds(server(), [len(message).to_bytes(ENDED)], [*streams, theirs.fileno()])
            server().sendall(message)
        pipes = "p2cread p2cwrite c2pread c2pwrite errread errwrite".split()
        self._close_pipe_fds(*(given[name] for name in pipes))
        self.pid, self._child_created = self._number(), True

    def _number(self) -> int:
        if len(told := self._ending.recv(ENDED, socket.MSG_WAITALL)) < ENDED:
            raise RuntimeError("the process that is forked has ended; it says why on stderr")
        return int.from_bytes(told, signed=True)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self._ended(0)

    def _wait(self, timeout: float | None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout: float | None) -> int | None:
        "Return the exit status, for which `timeout` seconds are waited, or None."
        wait = None if timeout is None else max(0, timeout)
        if self.returncode is None and select.select([self._ending], [], [], wait)[0]:
            self.returncode = self._number()
            self._ending.close()
        return self.returncode


def run(words: list, **options: Any) -> subprocess.CompletedProcess:
    "subprocess.run for such words."
    check, timeout = options.pop("check", False), options.pop("timeout", None)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(words, **options) as process:
        try:
            output = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, *output)
    if check:
        done.check_returncode()
    return done


@cache
def server() -> socket.socket:
    "Start the process that is forked, and return the socket that takes tasks."
    from toolkit import SPINS

    ours, theirs = socket.socketpair()
    words = [sys.executable, "-P", __file__, str(theirs.fileno())]  # -P: tests/toolkit is not our toolkit
    environment = os.environ | {"GOMP_SPINCOUNT": SPINS}
    subprocess.Popen(words, env=environment, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
    theirs.close()
    return ours


def serve(tasks: socket.socket) -> list[str]:
    "Fork a process for each task until there are no more. Return the words of its task in each that is forked."
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the commands, then the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a `supervise`
    for name in LIBRARIES.split():
        importlib.import_module(name)
    make_operators_once()
    assert threading.active_count() == 1, threading.enumerate()  # a fork has one
    gc.freeze()  # else each fork copies the memory of the libraries when it looks for garbage
    while True:
        length, files, *_ = socket.recv_fds(tasks, ENDED, 4)
        if not length:
            os._exit(0)
        task = json.loads(tasks.recv(int.from_bytes(length), socket.MSG_WAITALL))
        if os.fork() == 0:
            tasks.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (child := os.fork()) != 0:
                supervise(child, files)
            signal.signal(signal.SIGINT, interrupted)
            return become(task, files)
        for file in files:
            os.close(file)


def make_operators_once() -> None:
    """Make torch's table of ONNX operators, for all exports of this process and of those that are forked from it.

    Else each export makes it, from the sources of 500 functions, in a second.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    make = cache(ONNXRegistry.from_torchlib.__func__)
    ONNXRegistry.from_torchlib = classmethod(lambda kind, opset_version=18: make(kind, opset_version))
    ONNXRegistry.from_torchlib()


def supervise(child: int, files: list[int]) -> None:
    "Wait for the end of the process `child`, tell its exit status, and end."
    *streams, ending = files
    for number in (*range(3), *streams):
        os.close(number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(ending, status.to_bytes(ENDED, signed=True))
    os._exit(0)


def become(task: dict, files: list[int]) -> list[str]:
    "Take the streams, the environment and the folder of `task`, and tell the process's number. Return its words."
    *streams, ending = files
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    if task["start_new_session"]:
        os.setsid()
    elif task["process_group"] >= 0:
        os.setpgid(0, task["process_group"])
    os.environ.clear()
    os.environ.update(task["env"])
    os.chdir(task["cwd"])
    os.write(ending, os.getpid().to_bytes(ENDED))
    os.close(ending)
    if count := task["env"].get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(count))
    sys.stdin = open(0, closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    unbuffered = "-u" in task["words"][:2] or "PYTHONUNBUFFERED" in task["env"]
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), line_buffering=os.isatty(1), write_through=unbuffered)
    return task["words"]


if __name__ == "__main__":
    sys.orig_argv = serve(socket.socket(fileno=int(sys.argv[1])))
    kind, *sys.argv = [word for word in sys.orig_argv[1:] if word != "-u"]
    first = {"-m": os.getcwd(), "-c": ""}.get(kind, str(Path(kind).resolve().parent))
    sys.path[:0] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.modules["__main__"] = ModuleType("__main__")  # without the names of this file
    if kind == "-m":
        module, sys.argv[0] = sys.argv[0], "-m"
        runpy._run_module_as_main(module)  # as `python -m` does
    elif kind == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        exec(code, {"__name__": "__main__"})
    else:
        sys.argv = [kind, *sys.argv]
        runpy.run_path(kind, run_name="__main__")
