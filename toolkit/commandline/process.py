"""A command's process while it runs: its standard streams, its signals and the warnings of libraries."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from toolkit import ranks
from toolkit.commandline.startup import end_at_once


def occupy_closed_streams() -> None:
    "Open closed standard streams on /dev/null, so that no later file takes descriptors 0 to 2."
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    "Turn Ctrl-C and SIGTERM into a KeyboardInterrupt, so that the command tidies up."

    def interrupt(number, frame):
        raise KeyboardInterrupt("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    "Hide the warnings of libraries, which a user can do nothing about. Ours are shown, and so is what -W asks for."
    import logging
    import warnings

    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what a library logs and nobody handles
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"(__main__|recipes|toolkit|export)\b")
        yield


@contextlib.contextmanager
def quiet_others() -> Iterator[None]:
    "A context in which only rank 0 writes to stdout and stderr."
    if ranks.rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def named(message: str) -> str:
    """Return the message of an error for stderr. On ranks above 0, prefix it with the rank, after 5 s.

    Rank 0 usually reports the same error, and then the launcher ends this process within that time.
    """
    if ranks.rank() == 0:
        return message
    time.sleep(5)
    return f"process {ranks.rank()} of {ranks.count()}: {message}"
